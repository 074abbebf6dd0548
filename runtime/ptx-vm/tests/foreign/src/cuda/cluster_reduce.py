"""Softmax of rows by clusters: st.async with complete_tx, mapa, distributed shared memory."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    rows, columns = 3, 1100
    x = generator("cluster_reduce").normal(0, 1, (rows, columns)).astype(np.float32)
    e = np.exp(x.astype(np.float64))
    y = (e / e.sum(axis=1, keepdims=True)).astype(np.float32)
    launch = Launch(
        grid=(4 * rows, 1, 1),
        block=(128, 1, 1),
        cluster=(4, 1, 1),
        params=[Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", columns)],
        expect=[Expect("y", y, "AbsRel(1e-9, 2e-6)")],
    )
    yield CudaFixture(
        "cuda_cluster_softmax", "cluster_reduce", "cluster_softmax", launch, ("sm_90a",)
    )
