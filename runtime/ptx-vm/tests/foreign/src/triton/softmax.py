"""Softmax of rows of odd length, one program per row; with line tables."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def softmax(x, y, columns, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, COLUMNS)
    mask = at < columns
    values = tl.load(x + row * columns + at, mask=mask, other=-float("inf"))
    values = tl.exp(values - tl.max(values, axis=0))
    tl.store(y + row * columns + at, values / tl.sum(values, axis=0), mask=mask)


def fixtures():
    rows, columns = 7, 221
    x = generator("softmax").normal(0, 3, (rows, columns)).astype(np.float32)
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    y = (e / e.sum(axis=1, keepdims=True)).astype(np.float32)
    launch = Launch(
        grid=(rows, 1, 1),
        params=[Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", columns)],
        expect=[Expect("y", y, "AbsRel(1e-7, 1e-5)")],
    )
    yield TritonFixture(
        name="triton_softmax",
        kernel=softmax,
        signature={"x": "*fp32", "y": "*fp32", "columns": "i32", "COLUMNS": ("constexpr", 256)},
        launch=launch,
        lines=True,
    )
