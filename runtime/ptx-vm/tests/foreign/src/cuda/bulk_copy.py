"""cp.async with mbarriers, bulk copies, bulk reductions, copies between the blocks of a cluster."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    tiles = 7
    x = generator("pipeline").normal(0, 1, (tiles, 64, 2)).astype(np.float32)
    y = np.ascontiguousarray(2 * x[:, :, ::-1])
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", tiles)]
    launch = Launch((1, 1, 1), params, [Expect("y", y)], (128, 1, 1))
    yield CudaFixture("cuda_pipeline", "bulk_copy", "pipeline", launch, ("sm_90a",))

    blocks = 5
    x = generator("bulk_reduce").integers(-1000, 1000, (blocks, 64)).astype(np.int32)
    scaled = 3 * x[:, ::-1]
    largest = np.full(64, -100, np.int32)
    params = [Buffer("x", x), Buffer("sums", "Zeros", 256), Buffer("largest", largest)]
    expect = [
        Expect("sums", scaled.sum(axis=0, dtype=np.int32)),
        Expect("largest", np.maximum(scaled.max(axis=0), largest)),
    ]
    launch = Launch((blocks, 1, 1), params, expect, (64, 1, 1))
    yield CudaFixture("cuda_bulk_reduce", "bulk_copy", "bulk_reduce", launch, ("sm_90a",))

    x = generator("exchange").integers(-1000, 1000, (4, 64)).astype(np.int32)
    y = np.ascontiguousarray(2 * (x[[1, 0, 3, 2]] + 1))
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes)]
    launch = Launch((4, 1, 1), params, [Expect("y", y)], (64, 1, 1), (2, 1, 1))
    yield CudaFixture("cuda_exchange", "bulk_copy", "exchange", launch, ("sm_90a",))
