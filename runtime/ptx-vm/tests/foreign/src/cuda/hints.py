"""Cache operators, eviction priorities, policies and prefetches."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    n = 75
    # Small integers, so that the sums are exact.
    x = generator("hints").integers(-99, 100, n).astype(np.float32)
    total = 63 * x + 64 * x[np.arange(n) // 32 * 32]
    y = np.stack([total, -total, 2 * total])
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    launch = Launch((3, 1, 1), params, [Expect("y", y)], (32, 1, 1))
    yield CudaFixture("cuda_hints", "hints", "hints", launch)
