"""Conversions between fp32, fp16, bf16, fp8 and integers, with overflow, subnormals and ties."""

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def conversions(x, half, brain, wide, whole, back, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    v = tl.load(x + at, mask=mask)
    tl.store(half + at, v.to(tl.float16), mask=mask)
    tl.store(brain + at, v.to(tl.bfloat16), mask=mask)
    tl.store(wide + at, v.to(tl.float64) * 3.0, mask=mask)
    small = tl.where(tl.abs(v) < 1e9, v, 0.0)
    i = small.to(tl.int32)
    tl.store(whole + at, i, mask=mask)
    tl.store(back + at, i.to(tl.float32), mask=mask)


@triton.jit
def conversions_fp8(x, narrow, wide, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    v = tl.load(x + at, mask=mask)
    w = v.to(narrow.dtype.element_ty)
    tl.store(narrow + at, w, mask=mask)
    tl.store(wide + at, w.to(tl.float32), mask=mask)


def awkward(name: str) -> np.ndarray:
    """Floats of all magnitudes, ties of every format, subnormals and values that overflow."""
    rng = generator(name)
    scale = np.exp2(rng.uniform(-30, 20, 400))
    plain = (rng.normal(0, 1, 400) * scale).astype(np.float32)
    ties = np.array(
        [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 65519.0, 65520.0, -65536.0, 2.0**-24]
        + [2.0**-25, 3 * 2.0**-25, 6e-8, 1e-40, -1e-45, 0.0, -0.0, 2.5, -3.5, 0.49999997, 7.999]
        + [
            3.3895e38,
            -3.4e38,
            448.0,
            464.0,
            465.0,
            2.0**-9,
            2.0**-10,
            3 * 2.0**-10,
            57344.0,
            61439.0,
        ],
        np.float32,
    )
    return np.concatenate([plain, ties])


def fixtures():
    x = awkward("conversions")
    n = len(x)
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    whole = np.where(np.abs(x) < 1e9, x, 0).astype(np.int32)
    yield TritonFixture(
        name="triton_conversions",
        kernel=conversions,
        signature={
            "x": "*fp32",
            "half": "*fp16",
            "brain": "*bf16",
            "wide": "*fp64",
            "whole": "*i32",
            "back": "*fp32",
            "n": "i32",
            "BLOCK": ("constexpr", 256),
        },
        launch=Launch(
            grid=(2, 1, 1),
            params=[
                Buffer("x", x),
                Buffer("half", bytes=2 * n),
                Buffer("brain", bytes=2 * n),
                Buffer("wide", bytes=8 * n),
                Buffer("whole", bytes=4 * n),
                Buffer("back", bytes=4 * n),
                Scalar("I32", n),
            ],
            expect=[
                Expect("half", half),
                Expect("brain", x.astype(ml_dtypes.bfloat16)),
                Expect("wide", x.astype(np.float64) * 3),
                Expect("whole", whole),
                Expect("back", whole.astype(np.float32)),
            ],
        ),
    )
    for kind, dtype, targets in (
        ("fp8e4nv", ml_dtypes.float8_e4m3fn, ("sm_90a",)),
        ("fp8e5", ml_dtypes.float8_e5m2, ("sm_80", "sm_90a")),
    ):
        # Magnitudes that both formats hold; what lies above is saturated or not as the target does.
        limit = 440.0 if kind == "fp8e4nv" else 50000.0
        x = np.clip(awkward(kind), -limit, limit)
        narrow = x.astype(dtype)
        yield TritonFixture(
            name=f"triton_conversions_{kind}",
            kernel=conversions_fp8,
            signature={
                "x": "*fp32",
                "narrow": f"*{kind}",
                "wide": "*fp32",
                "n": "i32",
                "BLOCK": ("constexpr", 512),
            },
            targets=targets,
            launch=Launch(
                grid=(1, 1, 1),
                params=[
                    Buffer("x", x),
                    Buffer("narrow", bytes=n),
                    Buffer("wide", bytes=4 * n),
                    Scalar("I32", n),
                ],
                expect=[Expect("narrow", narrow), Expect("wide", narrow.astype(np.float32))],
            ),
        )
