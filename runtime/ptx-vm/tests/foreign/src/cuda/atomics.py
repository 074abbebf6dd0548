"""Atomics; every result is the same in every order."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    n = 230
    x = generator("atomics").integers(-(2**20), 2**20, n).astype(np.int32)
    u = x.view(np.uint32)
    start = [5, 7, 3, 2**32 - 1, 16, 1, 40, 60, 0, 0]
    increments, decrements = 40, 60
    for _ in range(n):
        increments = 0 if increments >= 99 else increments + 1
        decrements = 99 if decrements == 0 or decrements > 99 else decrements - 1
    words = [
        (5 + int(x.sum(dtype=np.int64))) % 2**32,
        min(7, int(x.min())) % 2**32,
        max(3, int(u.max())),
        int(np.bitwise_and.reduce(u | np.uint32(0xFF00))),
        int(np.bitwise_or.reduce(u & np.uint32(0x0F0F))) | 16,
        int(np.bitwise_xor.reduce(u)) ^ 1,
        increments,
        decrements,
        1,
        1,
    ]
    big = x.astype(object)
    longs = [int((big**3).sum()) % 2**64, max(0, int(x.max()) << 20)]
    odd = int((x & 1).sum())
    doubles = [x.sum(dtype=np.float64) * 0.25, 2.0 ** (2 * odd - n)]
    # The low half counts by 2, the high half by 1, both exact in f16.
    halves = np.array([2 * n, n], np.float16)
    sums = [int(x[x & 1 == 0].sum()), int(x[x & 1 == 1].sum())]
    launch = Launch(
        grid=(3, 1, 1),
        block=(96, 1, 1),
        params=[
            Buffer("x", x),
            Buffer("words", np.array(start, np.uint32)),
            Buffer("longs", "Zeros", 16),
            Buffer("doubles", np.array([0.0, 1.0])),
            Buffer("halves", "Zeros", 4),
            Buffer("sums", "Zeros", 8),
            Scalar("I32", n),
        ],
        expect=[
            Expect("words", np.array(words, np.uint32)),
            Expect("longs", np.array(longs, np.uint64)),
            Expect("doubles", np.array(doubles)),
            Expect("halves", halves),
            Expect("sums", np.array(sums, np.int32)),
        ],
    )
    yield CudaFixture("cuda_atomics", "atomics", "atomics", launch)
