"""Inclusive scans along rows: a sum, and the recurrence h' = a h + b as an associative scan."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def compose(a0, b0, a1, b1):
    return a0 * a1, b0 * a1 + b1


@triton.jit
def scan(a, b, total, state, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, COLUMNS)[None, :]
    mask = (i < rows) & (j < columns)
    at = i * columns + j
    x = tl.load(a + at, mask=mask, other=0.0)
    y = tl.load(b + at, mask=mask, other=0.0)
    tl.store(total + at, tl.cumsum(y, axis=1), mask=mask)
    _, h = tl.associative_scan((x, y), 1, compose)
    tl.store(state + at, h, mask=mask)


def fixtures():
    rows, columns = 5, 117
    rng = generator("scan")
    a = rng.uniform(0.5, 1, (rows, columns)).astype(np.float32)
    b = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    total = np.cumsum(b.astype(np.float64), axis=1)
    state = np.zeros((rows, columns))
    h = np.zeros(rows)
    for t in range(columns):
        h = a[:, t].astype(np.float64) * h + b[:, t]
        state[:, t] = h
    launch = Launch(
        grid=(2, 1, 1),
        params=[
            Buffer("a", a),
            Buffer("b", b),
            Buffer("total", bytes=a.nbytes),
            Buffer("state", bytes=a.nbytes),
            Scalar("I32", rows),
            Scalar("I32", columns),
        ],
        expect=[
            Expect("total", total.astype(np.float32), "AbsRel(1e-5, 1e-5)"),
            Expect("state", state.astype(np.float32), "AbsRel(1e-5, 1e-5)"),
        ],
    )
    yield TritonFixture(
        name="triton_scan",
        kernel=scan,
        signature={
            "a": "*fp32",
            "b": "*fp32",
            "total": "*fp32",
            "state": "*fp32",
            "rows": "i32",
            "columns": "i32",
            "ROWS": ("constexpr", 4),
            "COLUMNS": ("constexpr", 128),
        },
        launch=launch,
    )
