"""What only Hopper has: a warp-specialised product with TMA, and clusters of CTAs."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def specialised(a, b, c, m, n, k, tiles, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    da = tl.make_tensor_descriptor(a, shape=[m, k], strides=[k, 1], block_shape=[M, K])
    db = tl.make_tensor_descriptor(b, shape=[n, k], strides=[k, 1], block_shape=[N, K])
    dc = tl.make_tensor_descriptor(c, shape=[m, n], strides=[n, 1], block_shape=[M, N])
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), warp_specialize=True):
        row = tile // tl.cdiv(n, N) * M
        column = tile % tl.cdiv(n, N) * N
        sums = tl.zeros((M, N), dtype=tl.float32)
        for start in range(0, k, K):
            x = da.load([row, start])
            y = db.load([column, start])
            sums = tl.dot(x, y.T, sums)
        dc.store([row, column], sums.to(tl.float16))


@triton.jit
def cluster(x, y, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    i = tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, COLUMNS)[None, :]
    mask = j < columns
    v = tl.load(x + i * columns + j, mask=mask, other=0.0)
    rows = tl.sum(v, axis=1)
    columnwise = tl.sum(v, axis=0)
    tl.store(y + i * columns + j, v + rows[:, None] * columnwise[None, :], mask=mask)


def specialised_fixture():
    # The two consumer warpgroups share the 128 rows of a tile.
    m, n, k, tile = 150, 136, 136, (128, 64, 64)
    rng = generator("specialised")
    a, b = (rng.normal(0, 1, s).astype(np.float16) for s in ((m, k), (n, k)))
    c = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float16)
    tiles = -(-m // tile[0]) * -(-n // tile[1])
    return TritonFixture(
        name="triton_matmul_specialised",
        kernel=specialised,
        signature={
            "a": "*fp16",
            "b": "*fp16",
            "c": "*fp16",
            "m": "i32",
            "n": "i32",
            "k": "i32",
            "tiles": "i32",
            **{name: ("constexpr", size) for name, size in zip("MNK", tile)},
        },
        aligned=("a", "b", "c"),
        targets=("sm_90a",),
        options={"num_stages": 2},
        launch=Launch(
            grid=(2, 1, 1),
            params=[
                Buffer("a", a),
                Buffer("b", b),
                Buffer("c", bytes=c.nbytes),
                Scalar("I32", m),
                Scalar("I32", n),
                Scalar("I32", k),
                Scalar("I32", tiles),
            ],
            expect=[Expect("c", c, "AbsRel(1e-3, 2e-3)")],
        ),
    )


def cluster_fixture():
    rows, columns = 32, 50
    # Eighths, so that sums are exact in every order.
    x = (generator("cluster").integers(-16, 16, (rows, columns)) / 8).astype(np.float32)
    v = x.astype(np.float64)
    y = v + v.sum(axis=1, keepdims=True) * v.sum(axis=0, keepdims=True)
    return TritonFixture(
        name="triton_cluster",
        kernel=cluster,
        signature={
            "x": "*fp32",
            "y": "*fp32",
            "columns": "i32",
            "ROWS": ("constexpr", rows),
            "COLUMNS": ("constexpr", 64),
        },
        targets=("sm_90a",),
        options={"num_ctas": 2},
        launch=Launch(
            grid=(1, 1, 1),
            params=[Buffer("x", x), Buffer("y", bytes=x.nbytes), Scalar("I32", columns)],
            expect=[Expect("y", y.astype(np.float32), "Rel(2e-7)")],
        ),
    )


def fixtures():
    yield specialised_fixture()
    yield cluster_fixture()
