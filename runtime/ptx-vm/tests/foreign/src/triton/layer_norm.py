"""Layer norm of bf16 rows with scale and shift; also writes each row's mean and 1/deviation."""

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def layer_norm(x, scale, shift, y, mean, rstd, columns, eps, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, COLUMNS)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=0.0).to(tl.float32)
    m = tl.sum(v, axis=0) / columns
    centred = tl.where(mask, v - m, 0.0)
    r = tl.rsqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    g = tl.load(scale + at, mask=mask)
    b = tl.load(shift + at, mask=mask)
    tl.store(y + row * columns + at, (centred * r * g + b).to(tl.bfloat16), mask=mask)
    tl.store(mean + row, m)
    tl.store(rstd + row, r)


def fixtures():
    rows, columns, eps = 9, 300, 1e-5
    rng = generator("layer_norm")
    x = rng.normal(0.5, 2, (rows, columns)).astype(ml_dtypes.bfloat16)
    scale = rng.normal(1, 0.2, columns).astype(np.float32)
    shift = rng.normal(0, 0.2, columns).astype(np.float32)
    v = x.astype(np.float64)
    mean = v.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt(v.var(axis=1, keepdims=True) + eps)
    y = ((v - mean) * rstd * scale + shift).astype(ml_dtypes.bfloat16)
    launch = Launch(
        grid=(rows, 1, 1),
        params=[
            Buffer("x", x),
            Buffer("scale", scale),
            Buffer("shift", shift),
            Buffer("y", bytes=y.nbytes),
            Buffer("mean", bytes=4 * rows),
            Buffer("rstd", bytes=4 * rows),
            Scalar("I32", columns),
            Scalar("F32", np.float32(eps)),
        ],
        expect=[
            # One unit in the last place of bf16: the sum may round to the other side.
            Expect("y", y, "AbsRel(1e-5, 8e-3)"),
            Expect("mean", mean.astype(np.float32), "AbsRel(1e-6, 1e-5)"),
            Expect("rstd", rstd.astype(np.float32), "Rel(1e-5)"),
        ],
    )
    yield TritonFixture(
        name="triton_layer_norm",
        kernel=layer_norm,
        signature={
            "x": "*bf16",
            "scale": "*fp32",
            "shift": "*fp32",
            "y": "*bf16",
            "mean": "*fp32",
            "rstd": "*fp32",
            "columns": "i32",
            "eps": "fp32",
            "COLUMNS": ("constexpr", 512),
        },
        aligned=("x", "scale", "shift", "y"),
        launch=launch,
    )
