"""Matrix products whose tiles come and go by TMA, with descriptors of the host or the device.

The device variant writes its descriptors into global scratch memory with tensormap.replace.
"""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TensorMap, TritonFixture, generator


@triton.jit
def product(a, b, c, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row = tl.program_id(0) * M
    column = tl.program_id(1) * N
    sums = tl.zeros((M, N), dtype=tl.float32)
    for start in range(0, k, K):
        sums = tl.dot(a.load([row, start]), b.load([start, column]), sums)
    c.store([row, column], sums.to(tl.float16))


@triton.jit
def matmul_host(a, b, c, a_map, b_map, c_map, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    # The pointers are parameters only so that the launch has buffers for the descriptors.
    product(a_map, b_map, c_map, k, M, N, K)


@triton.jit
def matmul_device(a, b, c, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    da = tl.make_tensor_descriptor(a, shape=[m, k], strides=[k, 1], block_shape=[M, K])
    db = tl.make_tensor_descriptor(b, shape=[k, n], strides=[n, 1], block_shape=[K, N])
    dc = tl.make_tensor_descriptor(c, shape=[m, n], strides=[n, 1], block_shape=[M, N])
    product(da, db, dc, k, M, N, K)


SHAPE = (70, 88, 104)
TILE = (64, 64, 64)


def operands(name):
    m, n, k = SHAPE
    rng = generator(name)
    a, b = (rng.normal(0, 1, s).astype(np.float16) for s in ((m, k), (k, n)))
    return a, b, (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float16)


def descriptor(name, over, shape, box):
    """What Triton passes for a host descriptor: the tensor map, the shape and the strides."""
    rows, columns = shape
    tensor_map = TensorMap(name, over, "f16", [columns, rows], [2 * columns], box[::-1], "B128")
    sizes = [Scalar("I32", s) for s in shape] + [Scalar("I64", s) for s in (columns, 1)]
    return [tensor_map, *sizes]


def fixtures():
    m, n, k = SHAPE
    grid = (-(-m // TILE[0]), -(-n // TILE[1]), 1)
    constants = {name: ("constexpr", size) for name, size in zip("MNK", TILE)}
    # One rounding to f16; the sums are of fp32.
    tolerance = "AbsRel(1e-3, 2e-3)"

    a, b, c = operands("matmul_tma_device")
    yield TritonFixture(
        name="triton_matmul_tma_device",
        kernel=matmul_device,
        signature={
            "a": "*fp16",
            "b": "*fp16",
            "c": "*fp16",
            "m": "i32",
            "n": "i32",
            "k": "i32",
            **constants,
        },
        aligned=("a", "b", "c"),
        targets=("sm_90a",),
        launch=Launch(
            grid=grid,
            params=[
                Buffer("a", a),
                Buffer("b", b),
                Buffer("c", bytes=c.nbytes),
                Scalar("I32", m),
                Scalar("I32", n),
                Scalar("I32", k),
            ],
            expect=[Expect("c", c, tolerance)],
        ),
    )

    a, b, c = operands("matmul_tma_host")
    yield TritonFixture(
        name="triton_matmul_tma_host",
        kernel=matmul_host,
        signature={
            "a": "*fp16",
            "b": "*fp16",
            "c": "*fp16",
            "a_map": f"tensordesc<fp16[{TILE[0]}, {TILE[2]}]>",
            "b_map": f"tensordesc<fp16[{TILE[2]}, {TILE[1]}]>",
            "c_map": f"tensordesc<fp16[{TILE[0]}, {TILE[1]}]>",
            "k": "i32",
            **constants,
        },
        targets=("sm_90a",),
        options={"num_stages": 3},
        launch=Launch(
            grid=grid,
            params=[
                Buffer("a", a),
                Buffer("b", b),
                Buffer("c", bytes=c.nbytes),
                *descriptor("map_a", "a", (m, k), [TILE[0], TILE[2]]),
                *descriptor("map_b", "b", (k, n), [TILE[2], TILE[1]]),
                *descriptor("map_c", "c", (m, n), [TILE[0], TILE[1]]),
                Scalar("I32", k),
            ],
            expect=[Expect("c", c, tolerance)],
        ),
    )
