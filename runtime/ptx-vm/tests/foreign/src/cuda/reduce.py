"""Sum and maximum by shuffles, shared memory and atomics."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    n = 1111
    rng = generator("reduce")
    # Multiples of 1/16 of moderate size: every order of the float sum is exact.
    x = (rng.integers(-512, 512, n) / 16).astype(np.float32)
    k = rng.integers(-1000000, 1000000, n).astype(np.int32)
    launch = Launch(
        grid=(3, 1, 1),
        block=(160, 1, 1),
        params=[
            Buffer("x", x),
            Buffer("k", k),
            Scalar("I32", n),
            Buffer("sum", "Zeros", 4),
            Buffer("top", np.full(1, -(2**31), np.int32)),
        ],
        expect=[
            Expect("sum", np.array([x.sum(dtype=np.float64)], np.float32)),
            Expect("top", np.array([k.max()], np.int32)),
        ],
    )
    yield CudaFixture("cuda_reduce", "reduce", "reduce", launch)
