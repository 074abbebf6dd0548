"""bf16 matrix product by cp.async, ldmatrix and mma.sync."""

import ml_dtypes
import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    m, n, k = 69, 88, 104
    rng = generator("matmul_mma")
    a, b = (rng.normal(0, 1, s).astype(ml_dtypes.bfloat16) for s in ((m, k), (k, n)))
    c = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
    launch = Launch(
        grid=(2, 2, 1),
        block=(128, 1, 1),
        params=[
            Buffer("a", a),
            Buffer("b", b),
            Buffer("c", bytes=c.nbytes),
            Scalar("I32", m),
            Scalar("I32", n),
            Scalar("I32", k),
        ],
        expect=[Expect("c", c, "AbsRel(1e-4, 1e-5)")],
    )
    yield CudaFixture("cuda_matmul_mma", "matmul_mma", "matmul_mma", launch)
