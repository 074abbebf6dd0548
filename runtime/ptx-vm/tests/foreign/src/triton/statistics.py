"""Reductions with more than one value: Welford's mean and variance; a maximum by atomics."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def join(mean0, m0, n0, mean1, m1, n1):
    """Symmetric bit for bit (with fusion off): all lanes of a butterfly store their own result.

    Were it not, lanes would store different bits to one place, which is a race.
    """
    n = n0 + n1
    count = tl.where(n == 0.0, 1.0, n)
    delta = mean1 - mean0
    return (mean0 * n0 + mean1 * n1) / count, (m0 + m1) + delta * delta * (n0 * n1 / count), n


@triton.jit
def statistics(
    x, mean, variance, largest, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, COLUMNS)
    mask = (i[:, None] < rows) & (j[None, :] < columns)
    v = tl.load(x + i[:, None] * columns + j[None, :], mask=mask, other=0.0).to(tl.float32)
    m, squares, count = tl.reduce((v, tl.zeros_like(v), mask.to(tl.float32)), 1, join)
    tl.store(mean + i, m, mask=i < rows)
    tl.store(variance + i, squares / count, mask=i < rows)
    top = tl.max(tl.max(tl.where(mask, v, -float("inf")), axis=1), axis=0)
    tl.atomic_max(largest, top)


def fixtures():
    rows, columns = 13, 77
    x = generator("statistics").normal(3, 2, (rows, columns)).astype(np.float16)
    v = x.astype(np.float64)
    launch = Launch(
        grid=(4, 1, 1),
        params=[
            Buffer("x", x),
            Buffer("mean", bytes=4 * rows),
            Buffer("variance", bytes=4 * rows),
            Buffer("largest", np.array([-np.inf], np.float32)),
            Scalar("I32", rows),
            Scalar("I32", columns),
        ],
        expect=[
            Expect("mean", v.mean(axis=1).astype(np.float32), "Rel(1e-5)"),
            Expect("variance", v.var(axis=1).astype(np.float32), "Rel(1e-5)"),
            Expect("largest", np.array([v.max()], np.float32)),
        ],
    )
    yield TritonFixture(
        name="triton_statistics",
        kernel=statistics,
        signature={
            "x": "*fp16",
            "mean": "*fp32",
            "variance": "*fp32",
            "largest": "*fp32",
            "rows": "i32",
            "columns": "i32",
            "ROWS": ("constexpr", 4),
            "COLUMNS": ("constexpr", 128),
        },
        options={"enable_fp_fusion": False},
        launch=launch,
    )
