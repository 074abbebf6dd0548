"""bf16 matrix product by TMA, mbarriers, wgmma and a TMA store, with a producer warp."""

import ml_dtypes
import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, TensorMap, generator


def fixtures():
    m, n, k = 70, 84, 296
    rng = generator("matmul_wgmma")
    a, b = (rng.normal(0, 1, s).astype(ml_dtypes.bfloat16) for s in ((m, k), (n, k)))
    c = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32)
    launch = Launch(
        grid=(2, 2, 1),
        block=(256, 1, 1),
        # Three stages of two tiles, the result and six mbarriers.
        shared_bytes=6 * 8192 + 64 * 64 * 4 + 6 * 8,
        params=[
            Buffer("a", a),
            Buffer("b", b),
            Buffer("c", bytes=c.nbytes),
            TensorMap("map_a", "a", "bf16", [k, m], [2 * k], [64, 64], "B128"),
            TensorMap("map_b", "b", "bf16", [k, n], [2 * k], [64, 64], "B128"),
            TensorMap("map_c", "c", "f32", [n, m], [4 * n], [64, 64]),
            Scalar("I32", k),
        ],
        expect=[Expect("c", c, "AbsRel(2e-4, 1e-5)")],
    )
    yield CudaFixture("cuda_matmul_wgmma", "matmul_wgmma", "matmul_wgmma", launch, ("sm_90a",))
