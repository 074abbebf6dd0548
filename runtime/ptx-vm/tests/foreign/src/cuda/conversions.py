"""Conversions and rounding modes, bit for bit, against exact rational arithmetic."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def round_to(value: Fraction, precision: int, lowest: int, mode: str) -> Fraction:
    """Rounds to `precision` bits with no bit below 2^lowest; mode rn, rz, rm, rp or rna."""
    if value == 0:
        return value
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - precision + 1, lowest)
    scaled = value / unit
    low = math.floor(scaled)
    rest = scaled - low
    if mode == "rm" or rest == 0:
        whole = low
    elif mode == "rp":
        whole = low + 1
    elif mode == "rz":
        whole = low + (value < 0)
    elif rest != Fraction(1, 2):
        whole = low + (rest > Fraction(1, 2))
    elif mode == "rna":
        whole = low + (value > 0)
    else:
        whole = low + low % 2
    return whole * unit


def f32(value: Fraction, mode: str, zero: float = 0.0) -> np.float32:
    """The f32 that `value` rounds to; the operands here keep clear of overflow."""
    r = round_to(value, 24, -149, mode)
    return np.float32(float(r)) if r else np.float32(zero)


def square_root(value: Fraction, mode: str) -> np.float32:
    """Integer square roots: exact, and therefore right in every mode."""
    shift = 200
    scaled = (value.numerator << 2 * shift) // value.denominator
    root = math.isqrt(scaled)
    # A remainder is far below the last bit and only breaks ties and directions.
    exact = root * root == scaled and (value.numerator << 2 * shift) % value.denominator == 0
    return f32(Fraction(2 * root + (not exact), 2 << shift), mode)


def rounded(p: np.float32, q: np.float32) -> list:
    """The results of `rounding`, in its order."""
    a, b = Fraction(float(p)), Fraction(float(q))
    sign = -0.0 if (p < 0) != (q < 0) else 0.0
    tiny = Fraction(2) ** -126
    flushed = f32(a * b, "rp", sign)
    if abs(Fraction(float(flushed))) < tiny:
        flushed = np.float32(sign)
    saturated = min(max(a * b + b, Fraction(0)), Fraction(1))
    return [
        f32(a + b, "rn"),
        f32(a + b, "rz"),
        f32(a - b, "rm", -0.0),
        f32(a + b, "rp"),
        f32(a * b, "rn", sign),
        f32(a * b, "rz", sign),
        f32(a * b, "rm", sign),
        flushed,
        f32(a * b + a, "rn"),
        f32(a * b + b, "rz"),
        f32(a / b, "rn", sign),
        f32(a / b, "rp", sign),
        square_root(abs(a), "rn"),
        square_root(abs(b), "rm"),
        f32(1 / b, "rn"),
        f32(saturated, "rn"),
        min(p, q),
        max(p, q),
        np.copysign(q, p),
    ]


def rounding():
    n = 150
    rng = generator("rounding")
    a, b = (rng.normal(0, 1, n) * np.exp2(rng.integers(-60, 60, n)) for _ in range(2))
    # Also sums of near equals and products near the subnormals.
    b[::5] = -a[::5] * (1 + np.exp2(-rng.integers(1, 24, n)[::5].astype(float)))
    b[1::7] = np.exp2(-140.0) / a[1::7] * rng.uniform(0.3, 3, len(a[1::7]))
    a, b = a.astype(np.float32), b.astype(np.float32)
    keep = np.abs(b) >= 2.0**-126
    a, b = a[keep], b[keep]
    y = np.array([rounded(p, q) for p, q in zip(a, b)], np.float32).T
    params = [Buffer("a", a), Buffer("b", b), Buffer("y", bytes=y.nbytes), Scalar("I32", len(a))]
    expect = [Expect("y", np.ascontiguousarray(y))]
    return CudaFixture(
        "cuda_rounding", "conversions", "rounding", Launch((5, 1, 1), params, expect, (32, 1, 1))
    )


def narrow(v: np.float32, precision: int, lowest: int, mode: str, dtype) -> np.generic:
    r = round_to(Fraction(float(v)), precision, lowest, mode)
    return np.copysign(np.float64(float(r)), v).astype(dtype)


def conversions():
    rng = generator("conversions")
    plain = rng.normal(0, 1, 200) * np.exp2(rng.integers(-26, 15, 200))
    ties = np.arange(-8, 8) / 2 + np.array([0.0] * 8 + [2.0**-12] * 8)
    x = np.concatenate([plain, ties, [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 300.5]])
    x = x.astype(np.float32)
    halves = [[narrow(v, 11, -24, mode, np.float16) for v in x] for mode in ("rn", "rz")]
    brains = [[narrow(v, 8, -133, mode, ml_dtypes.bfloat16) for v in x] for mode in ("rn", "rz")]
    relu = [np.float16(0) if v < 0 else h for v, h in zip(x, halves[0])]
    relu = [np.float16(0) if h == 0 else h for h in relu]
    h = np.stack([np.array(t).view(np.uint16) for t in (*halves, *brains, relu)])
    tf32 = np.array([narrow(v, 11, -136, "rna", np.float32) for v in x])
    w = np.stack(
        [
            np.rint(x).astype(np.int32),
            np.trunc(x).astype(np.int32),
            np.floor(x).astype(np.int32),
            np.ceil(np.maximum(x, 0)).astype(np.uint32).view(np.int32),
            tf32.view(np.int32),
            np.rint(x).view(np.int32),
            np.where(x > 0, np.minimum(x, 1), np.float32(0)).astype(np.float32).view(np.int32),
            np.clip(np.trunc(x), -128, 127).astype(np.int32),
        ]
    )
    n = len(x)
    params = [
        Buffer("x", x),
        Buffer("h", bytes=h.nbytes),
        Buffer("w", bytes=w.nbytes),
        Scalar("I32", n),
    ]
    expect = [Expect("h", h), Expect("w", w)]
    launch = Launch((4, 1, 1), params, expect, (64, 1, 1))
    return CudaFixture("cuda_conversions", "conversions", "conversions", launch)


def conversions_fp8():
    rng = generator("conversions_fp8")
    n = 160
    x = (rng.normal(0, 1, (n, 2)) * np.exp2(rng.integers(-18, 20, (n, 2)))).astype(np.float32)
    x[0], x[1] = (464.0, 465.0), (61440.0, -1e9)
    e4 = np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    e5 = np.clip(x, -57344, 57344).astype(ml_dtypes.float8_e5m2)
    relu = np.where(x > 0, e4, np.zeros_like(e4))
    packed = np.stack([np.ascontiguousarray(t).view(np.uint16)[:, 0] for t in (e4, e5, relu)])
    halves = [np.ascontiguousarray(t.astype(np.float16)).view(np.uint32)[:, 0] for t in (e4, e5)]
    params = [
        Buffer("x", x),
        Buffer("narrow", bytes=packed.nbytes),
        Buffer("wide", bytes=8 * n),
        Scalar("I32", n),
    ]
    expect = [Expect("narrow", packed), Expect("wide", np.stack(halves))]
    launch = Launch((5, 1, 1), params, expect, (32, 1, 1))
    return CudaFixture(
        "cuda_conversions_fp8", "conversions", "conversions_fp8", launch, ("sm_90a",), ("-DFP8",)
    )


def fixtures():
    yield conversions()
    yield conversions_fp8()
    yield rounding()
