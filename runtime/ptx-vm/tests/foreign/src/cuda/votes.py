"""Votes, matches, warp reductions and shuffles."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def bits(flags) -> int:
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def signed(value: int) -> int:
    return (int(value) + 2**31) % 2**32 - 2**31


def warp(v: list) -> list:
    """The rows of results of one warp of 32 values."""
    lanes = range(32)
    sum_odd = sum(1 for i in lanes if i & 1)
    positive_odd = bits(i & 1 and v[i] > 0 for i in lanes) & 0xFF
    same = len({t >> 20 for t in v}) == 1
    part = []
    for i in lanes:
        if i & 1:
            part.append(v[i ^ 4] + sum_odd + positive_odd)
        else:
            part.append(-max(v[0], v[2], v[4], v[6]) if i < 8 else 0)
    unsigned = [t % 2**32 for t in v]
    xor = 0
    for t in unsigned:
        xor ^= t
    count = sum(t >= 0 for t in v)
    return [
        [all(t > -90 for t in v)] * 32,
        [any(t > 95 for t in v)] * 32,
        [len({t > -1000 for t in v}) == 1] * 32,
        [bits(t & 1 for t in v)] * 32,
        [bits(t & 7 == v[i] & 7 for t in v) for i in lanes],
        [2**32 - 2 if same else 0] * 32,
        [sum(v)] * 32,
        [min(v)] * 32,
        [max(unsigned)] * 32,
        [xor] * 32,
        [v[31 - i] for i in lanes],
        [v[i - 3] if i % 8 >= 3 else v[i] for i in lanes],
        [v[i + 2] if i % 8 < 6 else v[i] for i in lanes],
        [v[i + 5] * 2 + 1 if i + 5 < 32 else v[i] * 2 for i in lanes],
        part,
        [count if v[i] >= 0 else 0 for i in lanes],
    ]


def fixtures():
    n = 64
    x = generator("votes").integers(-100, 100, n).astype(np.int32)
    # The second warp agrees on the upper bits, the first does not.
    x[32:] = np.abs(x[32:])
    halves = [warp(x[i : i + 32].tolist()) for i in (0, 32)]
    rows = [[signed(t) for half in halves for t in half[row]] for row in range(len(halves[0]))]
    y = np.array(rows, np.int32)
    launch = Launch(
        grid=(1, 1, 1),
        block=(n, 1, 1),
        params=[Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)],
        expect=[Expect("y", y)],
    )
    yield CudaFixture("cuda_votes", "votes", "votes", launch)
