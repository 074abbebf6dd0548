"""TMA with multicast to a cluster, elect.sync, prefetch of a tensor map."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, TensorMap, generator


def fixtures():
    # The second cluster's tile sticks out of the tensor below.
    x = generator("multicast").normal(0, 1, (57, 32)).astype(np.float32)
    tiles = np.zeros((64, 32), np.float32)
    tiles[:57] = x
    y = np.stack([tiles[block // 2 * 32 :][:32] for block in range(4)])
    for block in (1, 3):
        y[block, :, ::4] += np.float32(1)
    launch = Launch(
        grid=(4, 1, 1),
        block=(64, 1, 1),
        cluster=(2, 1, 1),
        params=[
            Buffer("x", x),
            Buffer("y", bytes=y.nbytes),
            TensorMap("map", "x", "f32", [32, 57], [128], [32, 16]),
        ],
        expect=[Expect("y", y)],
    )
    yield CudaFixture("cuda_multicast", "multicast", "multicast", launch, ("sm_90a",))
