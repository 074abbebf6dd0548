"""Masked matrix product by tiles: mma.sync on sm_80, wgmma on sm_90a; operands of several types."""

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def matmul(
    a,
    b,
    c,
    m,
    n,
    k,
    PRECISION: tl.constexpr,
    ACCUMULATOR: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    rows = tl.program_id(0) * M + tl.arange(0, M)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    sums = tl.zeros((M, N), dtype=ACCUMULATOR)
    for start in range(0, k, K):
        inner = start + tl.arange(0, K)
        x_mask = (rows[:, None] < m) & (inner[None, :] < k)
        x = tl.load(a + rows[:, None] * k + inner[None, :], mask=x_mask, other=0.0)
        y_mask = (inner[:, None] < k) & (columns[None, :] < n)
        y = tl.load(b + inner[:, None] * n + columns[None, :], mask=y_mask, other=0.0)
        sums = tl.dot(x, y, sums, input_precision=PRECISION, out_dtype=ACCUMULATOR)
    mask = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(c + rows[:, None] * n + columns[None, :], sums.to(c.dtype.element_ty), mask=mask)


def product(
    name,
    operand,
    result,
    tolerance,
    shape=(67, 72, 88),
    tile=(64, 64, 32),
    stages=2,
    warps=4,
    targets=("sm_80", "sm_90a"),
):
    """One fixture: the Triton names of the operand and result types choose everything else."""
    types = {
        "fp16": np.float16,
        "bf16": ml_dtypes.bfloat16,
        "fp32": np.float32,
        "i8": np.int8,
        "i32": np.int32,
        "fp8e4nv": ml_dtypes.float8_e4m3fn,
        "fp8e5": ml_dtypes.float8_e5m2,
    }
    integers = operand == "i8"
    rng = generator(name)
    m, n, k = shape
    if integers:
        a, b = (rng.integers(-128, 128, s).astype(np.int8) for s in ((m, k), (k, n)))
        exact = a.astype(np.int64) @ b.astype(np.int64)
    else:
        a, b = (rng.normal(0, 1, s).astype(types[operand]) for s in ((m, k), (k, n)))
        exact = a.astype(np.float64) @ b.astype(np.float64)
    c = exact.astype(types[result])
    grid = (-(-m // tile[0]), -(-n // tile[1]), 1)
    launch = Launch(
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
    )
    return TritonFixture(
        name=name,
        kernel=matmul,
        signature={
            "a": f"*{operand}",
            "b": f"*{operand}",
            "c": f"*{result}",
            "m": "i32",
            "n": "i32",
            "k": "i32",
            "PRECISION": ("constexpr", "tf32"),
            "ACCUMULATOR": ("constexpr", tl.int32 if integers else tl.float32),
            "M": ("constexpr", tile[0]),
            "N": ("constexpr", tile[1]),
            "K": ("constexpr", tile[2]),
        },
        aligned=("a", "b", "c", *(x for x, size in (("n", n), ("k", k)) if size % 16 == 0)),
        options={"num_stages": stages, "num_warps": warps},
        targets=targets,
        launch=launch,
    )


def fixtures():
    # Products of two 11-bit significands are exact in fp32; only the order of the sum differs.
    yield product("triton_matmul_f16", "fp16", "fp32", "AbsRel(1e-4, 1e-5)")
    # Sizes that are multiples of 16, so that copies to shared memory are asynchronous.
    yield product(
        "triton_matmul_bf16_pipelined",
        "bf16",
        "bf16",
        "AbsRel(1e-3, 8e-3)",
        shape=(67, 80, 144),
        stages=3,
    )
    # tf32 keeps 11 bits of each operand's significand.
    yield product("triton_matmul_tf32", "fp32", "fp32", "AbsRel(3e-2, 2e-3)", shape=(67, 80, 48))
    yield product("triton_matmul_i8", "i8", "i32", "Exact", shape=(67, 80, 112))
    yield product(
        "triton_matmul_e4m3",
        "fp8e4nv",
        "fp32",
        # The accumulator of fp8 products keeps fewer bits of the aligned addends.
        "AbsRel(2e-2, 2e-3)",
        shape=(67, 80, 96),
        targets=("sm_90a",),
    )
    yield product("triton_matmul_e5m2", "fp8e5", "fp32", "AbsRel(2e-2, 2e-3)", shape=(67, 80, 96))
    # Two warpgroups.
    yield product(
        "triton_matmul_f16_wide",
        "fp16",
        "fp16",
        "AbsRel(1e-3, 2e-3)",
        shape=(100, 128, 64),
        tile=(128, 128, 64),
        warps=8,
        targets=("sm_90a",),
    )
