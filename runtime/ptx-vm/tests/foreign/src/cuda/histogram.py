"""Histograms of bytes by shared atomics and by match.any."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    n = 997
    x = np.minimum(generator("histogram").geometric(0.05, n), 255).astype(np.uint8)
    bins = np.bincount(x, minlength=256).astype(np.uint32)
    for name, grid in (("histogram_shared", 3), ("histogram_match", 8)):
        launch = Launch(
            grid=(grid, 1, 1),
            block=(128, 1, 1),
            params=[Buffer("x", x), Scalar("I32", n), Buffer("bins", "Zeros", bins.nbytes)],
            expect=[Expect("bins", bins)],
        )
        yield CudaFixture(f"cuda_{name}", "histogram", name, launch)
