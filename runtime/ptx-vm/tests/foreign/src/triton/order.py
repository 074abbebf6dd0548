"""What depends on order: argmax and argmin with ties, sort, top-k, gather."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def argmax(x, highest, at_highest, at_lowest, columns, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, COLUMNS)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=-float("inf"))
    best, where = tl.max(v, axis=0, return_indices=True)
    tl.store(highest + row, best)
    tl.store(at_highest + row, where)
    tl.store(at_lowest + row, tl.argmin(tl.where(mask, v, float("inf")), axis=0))


@triton.jit
def sort(x, ascending, top, columns, COLUMNS: tl.constexpr, TOP: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, COLUMNS)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=2147483647)
    tl.store(ascending + row * columns + at, tl.sort(v), mask=mask)
    v = tl.load(x + row * columns + at, mask=mask, other=-2147483648)
    tl.store(top + row * TOP + tl.arange(0, TOP), tl.topk(v, TOP))


@triton.jit
def gather(x, index, y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    v = tl.load(x + at)
    i = tl.load(index + at)
    tl.store(
        y + at, tl.gather(v, i, axis=1) + tl.trans(tl.gather(tl.trans(v), tl.trans(i), axis=0))
    )


def fixtures():
    rows, columns = 6, 201
    rng = generator("argmax")
    # Few different values, so that there are ties: the first one counts.
    x = rng.integers(-9, 9, (rows, columns)).astype(np.float32)
    yield TritonFixture(
        name="triton_argmax",
        kernel=argmax,
        signature={
            "x": "*fp32",
            "highest": "*fp32",
            "at_highest": "*i32",
            "at_lowest": "*i32",
            "columns": "i32",
            "COLUMNS": ("constexpr", 256),
        },
        launch=Launch(
            grid=(rows, 1, 1),
            params=[
                Buffer("x", x),
                Buffer("highest", bytes=4 * rows),
                Buffer("at_highest", bytes=4 * rows),
                Buffer("at_lowest", bytes=4 * rows),
                Scalar("I32", columns),
            ],
            expect=[
                Expect("highest", x.max(axis=1)),
                Expect("at_highest", x.argmax(axis=1).astype(np.int32)),
                Expect("at_lowest", x.argmin(axis=1).astype(np.int32)),
            ],
        ),
    )

    rows, columns, top = 3, 119, 8
    x = generator("sort").integers(-(2**31), 2**31, (rows, columns)).astype(np.int32)
    ascending = np.sort(x, axis=1)
    yield TritonFixture(
        name="triton_sort",
        kernel=sort,
        signature={
            "x": "*i32",
            "ascending": "*i32",
            "top": "*i32",
            "columns": "i32",
            "COLUMNS": ("constexpr", 128),
            "TOP": ("constexpr", top),
        },
        launch=Launch(
            grid=(rows, 1, 1),
            params=[
                Buffer("x", x),
                Buffer("ascending", bytes=x.nbytes),
                Buffer("top", bytes=4 * rows * top),
                Scalar("I32", columns),
            ],
            expect=[
                Expect("ascending", ascending),
                Expect("top", np.ascontiguousarray(ascending[:, ::-1][:, :top])),
            ],
        ),
    )

    rng = generator("gather")
    x = rng.integers(-1000, 1000, (16, 32)).astype(np.int16)
    # Along rows and, transposed, along columns of the transpose: the same elements.
    index = rng.integers(0, 16, (16, 32)).astype(np.int32)
    y = (2 * np.take_along_axis(x, index, axis=1)).astype(np.int16)
    yield TritonFixture(
        name="triton_gather",
        kernel=gather,
        signature={
            "x": "*i16",
            "index": "*i32",
            "y": "*i16",
            "ROWS": ("constexpr", 16),
            "COLUMNS": ("constexpr", 32),
        },
        launch=Launch(
            grid=(1, 1, 1),
            params=[Buffer("x", x), Buffer("index", index), Buffer("y", bytes=x.nbytes)],
            expect=[Expect("y", y)],
        ),
    )
