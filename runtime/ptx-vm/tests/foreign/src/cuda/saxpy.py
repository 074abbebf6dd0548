"""Grid-stride saxpy, once plain and once with line tables and DWARF sections."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def fixtures():
    n, a = 1003, np.float32(1.7)
    rng = generator("saxpy")
    x, y = (rng.normal(0, 1, n).astype(np.float32) for _ in range(2))
    # fma.rn rounds once; the product and sum in f64 round like it but in rare double roundings.
    result = (np.float64(a) * x + y).astype(np.float32)
    launch = Launch(
        grid=(2, 1, 1),
        block=(96, 1, 1),
        params=[Scalar("I32", n), Scalar("F32", a), Buffer("x", x), Buffer("y", y)],
        expect=[Expect("y", result, "AbsRel(1e-7, 2e-7)")],
    )
    yield CudaFixture("cuda_saxpy", "saxpy", "saxpy", launch)
    yield CudaFixture(
        "cuda_saxpy_lines", "saxpy", "saxpy", launch, ("sm_90a",), ("-gline-tables-only",)
    )
