"""Bitonic sort of pairs in shared memory; the second block is not full."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    n = 801
    rng = generator("bitonic_sort")
    # Distinct keys, so that the order of the values is determined.
    keys = rng.permutation(np.arange(n, dtype=np.uint32) * 5000011)
    values = rng.integers(0, 1 << 32, n).astype(np.uint32)
    order = np.concatenate([np.argsort(keys[:512]), 512 + np.argsort(keys[512:])])
    launch = Launch(
        grid=(2, 1, 1),
        block=(256, 1, 1),
        params=[Buffer("keys", keys), Buffer("values", values), Scalar("I32", n)],
        expect=[Expect("keys", keys[order]), Expect("values", values[order])],
    )
    yield CudaFixture("cuda_bitonic_sort", "bitonic_sort", "bitonic_sort", launch)
