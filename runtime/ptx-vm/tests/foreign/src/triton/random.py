"""Philox4x32-10 random numbers: raw 32-bit integers and uniform floats."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture


@triton.jit
def random(integers, uniforms, n, seed, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(integers + at, tl.randint(seed, at), mask=mask)
    tl.store(uniforms + at, tl.rand(seed, at), mask=mask)


def philox(seed: int, offsets: np.ndarray) -> np.ndarray:
    """First word of Philox4x32-10 with the counter (offset, 0, 0, 0) and the 64-bit seed as key."""
    low = np.uint64(0xFFFFFFFF)
    c = [offsets.astype(np.uint64), *(np.zeros_like(offsets, np.uint64) for _ in range(3))]
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        shift = np.uint64(32)
        c = [(b >> shift) ^ c[1] ^ k0, b & low, (a >> shift) ^ c[3] ^ k1, a & low]
        k0 = (k0 + np.uint64(0x9E3779B9)) & low
        k1 = (k1 + np.uint64(0xBB67AE85)) & low
    return c[0].astype(np.uint32)


def uniform(words: np.ndarray) -> np.ndarray:
    """Triton's map of a word x to [0, 1): x or ~x, times a little less than 2^-31, in f32."""
    x = words.view(np.int32)
    x = np.where(x < 0, -x - 1, x)
    return (x.astype(np.float32) * np.float32(4.6566127342e-10)).astype(np.float32)


def fixtures():
    n, seed = 301, 0x1234567890ABCDEF
    words = philox(seed, np.arange(n))
    launch = Launch(
        grid=(2, 1, 1),
        params=[
            Buffer("integers", bytes=4 * n),
            Buffer("uniforms", bytes=4 * n),
            Scalar("I32", n),
            Scalar("I64", seed),
        ],
        expect=[
            Expect("integers", words.view(np.int32)),
            Expect("uniforms", uniform(words)),
        ],
    )
    yield TritonFixture(
        name="triton_random",
        kernel=random,
        signature={
            "integers": "*i32",
            "uniforms": "*fp32",
            "n": "i32",
            "seed": "i64",
            "BLOCK": ("constexpr", 256),
        },
        launch=launch,
    )
