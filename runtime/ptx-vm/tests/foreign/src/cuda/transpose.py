"""Transposes through shared memory, of 32-bit and of 16-bit elements."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    rows, columns = 37, 45
    rng = generator("transpose")
    for kind, dtype, tile, lines in (("f32", np.float32, 32, 8), ("u16", np.uint16, 16, 16)):
        x = rng.integers(0, 60000, (rows, columns)).astype(dtype)
        launch = Launch(
            grid=(-(-columns // tile), -(-rows // tile), 1),
            block=(tile, lines, 1),
            params=[
                Buffer("in", x),
                Buffer("out", bytes=x.nbytes),
                Scalar("I32", rows),
                Scalar("I32", columns),
            ],
            expect=[Expect("out", np.ascontiguousarray(x.T))],
        )
        yield CudaFixture(f"cuda_transpose_{kind}", "transpose", f"transpose_{kind}", launch)
