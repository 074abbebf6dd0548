"""Five-point stencil with a halo in shared memory."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    height, width = 21, 75
    x = generator("stencil").normal(0, 1, (height, width)).astype(np.float32)
    centre, side = np.float32(0.6), np.float32(0.1)
    p = np.pad(x.astype(np.float64), 1)
    around = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    y = (centre * p[1:-1, 1:-1] + side * around).astype(np.float32)
    launch = Launch(
        grid=(3, 3, 1),
        block=(32, 8, 1),
        params=[
            Buffer("in", x),
            Buffer("out", bytes=x.nbytes),
            Scalar("I32", width),
            Scalar("I32", height),
            Scalar("F32", centre),
            Scalar("F32", side),
        ],
        expect=[Expect("out", y, "AbsRel(1e-6, 1e-6)")],
    )
    yield CudaFixture("cuda_stencil", "stencil", "stencil", launch)
