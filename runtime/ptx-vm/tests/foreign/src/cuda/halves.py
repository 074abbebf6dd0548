"""Packed halves, bit for bit, and a product with 4-bit weights."""

import ml_dtypes
import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def halves():
    n = 130
    rng = generator("halves")
    # Fields of bits that are ordinary numbers both as f16 and as bf16: exponents around one.
    words = rng.integers(0x3800, 0x4400, (3, n, 2)) | rng.integers(0, 2, (3, n, 2)) << 15
    words = words.astype(np.uint16)
    words[1, ::4] = words[0, ::4] ^ np.uint16(0x8000)
    p, q, s = (t.view(np.float16) for t in words)
    a, b, c = (t.astype(np.float64) for t in (p, q, s))
    bp, bq, bs = (t.view(ml_dtypes.bfloat16) for t in words)
    ba, bb, bc = (t.astype(np.float64) for t in (bp, bq, bs))
    fma = (a * b + c).astype(np.float16)
    saturated = np.clip((a - b).astype(np.float16), 0, 1)
    greater = np.where(a > b, np.float16(1), np.float16(0))
    rows = [
        (a + b).astype(np.float16),
        saturated,
        (a * b).astype(np.float16),
        fma,
        np.where(fma > 0, fma, np.float16(0)),
        np.minimum(p, q),
        np.maximum(p, q),
        greater,
        (ba * bb + bc).astype(np.float32).astype(ml_dtypes.bfloat16),
        np.where(ba > bb, bp, bq),
        ((-bp).view(np.uint16) ^ np.abs(q).view(np.uint16)).view(np.float16),
    ]
    y = np.stack([np.ascontiguousarray(r).view(np.uint32)[:, 0] for r in rows])
    params = [Buffer(name, t) for name, t in zip("abc", words)]
    params += [Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    launch = Launch((3, 1, 1), params, [Expect("y", y)], (64, 1, 1))
    return CudaFixture("cuda_halves", "halves", "halves", launch)


def dequantise():
    rows, words = 5, 45
    rng = generator("dequantise")
    nibbles = rng.integers(0, 16, (rows, words, 8)).astype(np.uint32)
    x = rng.integers(-8, 9, words * 8).astype(np.float16)
    scales = rng.uniform(0.01, 0.1, rows).astype(np.float32)
    # Element 2 j is the low half's nibble of the j-th pair, element 2 j + 1 the high half's.
    shifts = np.array([0, 16, 4, 20, 8, 24, 12, 28], np.uint32)
    packed = np.bitwise_or.reduce(nibbles << shifts, axis=2).astype(np.uint32)
    sums = (nibbles.reshape(rows, -1).astype(np.float64) - 8) @ x.astype(np.float64)
    y = (sums.astype(np.float32) * scales).astype(np.float32)
    params = [
        Buffer("w", packed),
        Buffer("x", x),
        Buffer("scales", scales),
        Buffer("y", bytes=y.nbytes),
        Scalar("I32", words),
    ]
    launch = Launch((rows, 1, 1), params, [Expect("y", y)], (32, 1, 1))
    return CudaFixture("cuda_dequantise", "halves", "dequantise", launch)


def fixtures():
    yield halves()
    yield dequantise()
