"""Stream compaction by ballots, warp scans and a decoupled look-back between blocks."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    n, block, threshold = 701, 128, 20
    x = generator("prefix_sum").integers(-100, 100, n).astype(np.int32)
    kept = x[x > threshold]
    blocks = -(-n // block)
    launch = Launch(
        grid=(blocks, 1, 1),
        block=(block, 1, 1),
        params=[
            Buffer("in", x),
            Buffer("out", bytes=kept.nbytes),
            Scalar("I32", n),
            Scalar("I32", threshold),
            Buffer("status", "Zeros", 8 * blocks),
            Buffer("ticket", "Zeros", 4),
            Buffer("total", bytes=4),
        ],
        expect=[Expect("out", kept), Expect("total", np.array([len(kept)], np.int32))],
    )
    yield CudaFixture("cuda_prefix_sum", "prefix_sum", "compact", launch)
