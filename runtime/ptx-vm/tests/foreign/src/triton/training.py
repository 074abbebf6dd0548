"""Kernels of a training step: cross entropy with its gradient, rotary embedding, AdamW."""

import ml_dtypes
import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def cross_entropy(logits, labels, loss, gradient, columns, ignored, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, COLUMNS)
    mask = at < columns
    label = tl.load(labels + row)
    if label == ignored:
        tl.store(loss + row, 0.0)
        tl.store(gradient + row * columns + at, tl.zeros((COLUMNS,), tl.bfloat16), mask=mask)
        return
    v = tl.load(logits + row * columns + at, mask=mask, other=-float("inf")).to(tl.float32)
    top = tl.max(v, axis=0)
    total = tl.sum(tl.exp(v - top), axis=0)
    chosen = tl.load(logits + row * columns + label).to(tl.float32)
    tl.store(loss + row, tl.log(total) + top - chosen)
    p = tl.exp(v - top) / total - tl.where(at == label, 1.0, 0.0)
    tl.store(gradient + row * columns + at, p.to(tl.bfloat16), mask=mask)


@triton.jit
def rotary(x, cosine, sine, y, heads, HALF: tl.constexpr):
    position = tl.program_id(0)
    d = tl.arange(0, HALF)
    c = tl.load(cosine + position * HALF + d)
    s = tl.load(sine + position * HALF + d)
    for head in range(heads):
        base = (position * heads + head) * 2 * HALF
        a = tl.load(x + base + d)
        b = tl.load(x + base + HALF + d)
        tl.store(y + base + d, a * c - b * s)
        tl.store(y + base + HALF + d, a * s + b * c)


@triton.jit
def adamw(p, g, m, v, narrow, n, rate, beta1, beta2, eps, decay, c1, c2, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    grad = tl.load(g + at, mask=mask).to(tl.float32)
    first = beta1 * tl.load(m + at, mask=mask) + (1 - beta1) * grad
    second = beta2 * tl.load(v + at, mask=mask) + (1 - beta2) * grad * grad
    w = tl.load(p + at, mask=mask)
    w -= rate * (first * c1 / (tl.sqrt(second * c2) + eps) + decay * w)
    tl.store(m + at, first, mask=mask)
    tl.store(v + at, second, mask=mask)
    tl.store(p + at, w, mask=mask)
    tl.store(narrow + at, w.to(tl.bfloat16), mask=mask)


def cross_entropy_fixture():
    rows, columns, ignored = 6, 151, -100
    rng = generator("cross_entropy")
    logits = rng.normal(0, 3, (rows, columns)).astype(ml_dtypes.bfloat16)
    labels = rng.integers(0, columns, rows).astype(np.int64)
    labels[4] = ignored
    v = logits.astype(np.float64)
    e = np.exp(v - v.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    kept = np.flatnonzero(labels != ignored)
    loss = np.zeros(rows)
    loss[kept] = -np.log(p[kept, labels[kept]])
    gradient = np.zeros((rows, columns))
    gradient[kept] = p[kept]
    gradient[kept, labels[kept]] -= 1
    return TritonFixture(
        name="triton_cross_entropy",
        kernel=cross_entropy,
        signature={
            "logits": "*bf16",
            "labels": "*i64",
            "loss": "*fp32",
            "gradient": "*bf16",
            "columns": "i32",
            "ignored": "i32",
            "COLUMNS": ("constexpr", 256),
        },
        aligned=("logits", "gradient"),
        launch=Launch(
            grid=(rows, 1, 1),
            params=[
                Buffer("logits", logits),
                Buffer("labels", labels),
                Buffer("loss", bytes=4 * rows),
                Buffer("gradient", bytes=logits.nbytes),
                Scalar("I32", columns),
                Scalar("I32", ignored),
            ],
            expect=[
                Expect("loss", loss.astype(np.float32), "AbsRel(1e-5, 1e-5)"),
                Expect("gradient", gradient.astype(ml_dtypes.bfloat16), "AbsRel(1e-7, 8e-3)"),
            ],
        ),
    )


def rotary_fixture():
    positions, heads, half = 5, 3, 32
    rng = generator("rotary")
    x = rng.normal(0, 1, (positions, heads, 2, half)).astype(np.float32)
    angle = np.arange(positions)[:, None] / 10000 ** (np.arange(half)[None, :] / half)
    cosine, sine = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    c, s = (t.astype(np.float64)[:, None, :] for t in (cosine, sine))
    a, b = x[:, :, 0].astype(np.float64), x[:, :, 1].astype(np.float64)
    y = np.stack([a * c - b * s, a * s + b * c], axis=2).astype(np.float32)
    return TritonFixture(
        name="triton_rotary",
        kernel=rotary,
        signature={
            "x": "*fp32",
            "cosine": "*fp32",
            "sine": "*fp32",
            "y": "*fp32",
            "heads": "i32",
            "HALF": ("constexpr", half),
        },
        aligned=("x", "cosine", "sine", "y"),
        options={"num_warps": 1},
        launch=Launch(
            grid=(positions, 1, 1),
            params=[
                Buffer("x", x),
                Buffer("cosine", cosine),
                Buffer("sine", sine),
                Buffer("y", bytes=x.nbytes),
                Scalar("I32", heads),
            ],
            expect=[Expect("y", y, "AbsRel(1e-6, 1e-6)")],
        ),
    )


def adamw_fixture():
    n, step = 700, 3
    rng = generator("adamw")
    p = rng.normal(0, 1, n).astype(np.float32)
    g = rng.normal(0, 0.1, n).astype(ml_dtypes.bfloat16)
    m = rng.normal(0, 0.05, n).astype(np.float32)
    v = (rng.uniform(0.5, 2, n) * 1e-3).astype(np.float32)
    values = (1e-2, 0.9, 0.95, 1e-8, 0.1, 1 / (1 - 0.9**step), 1 / (1 - 0.95**step))
    rate, beta1, beta2, eps, decay, c1, c2 = (np.float32(t) for t in values)
    grad = g.astype(np.float64)
    one = np.float32(1)
    m1 = np.float64(beta1) * m + np.float64(one - beta1) * grad
    v1 = np.float64(beta2) * v + np.float64(one - beta2) * grad * grad
    w = p.astype(np.float64)
    w = w - rate * (m1 * c1 / (np.sqrt(v1 * c2) + eps) + decay * w)
    names = ("rate", "beta1", "beta2", "eps", "decay", "c1", "c2")
    scalars = [Scalar("F32", s) for s in (rate, beta1, beta2, eps, decay, c1, c2)]
    return TritonFixture(
        name="triton_adamw",
        kernel=adamw,
        signature={
            "p": "*fp32",
            "g": "*bf16",
            "m": "*fp32",
            "v": "*fp32",
            "narrow": "*bf16",
            "n": "i32",
            **{name: "fp32" for name in names},
            "BLOCK": ("constexpr", 512),
        },
        aligned=("p", "g", "m", "v", "narrow"),
        launch=Launch(
            grid=(2, 1, 1),
            params=[
                Buffer("p", p),
                Buffer("g", g),
                Buffer("m", m),
                Buffer("v", v),
                Buffer("narrow", bytes=2 * n),
                Scalar("I32", n),
                *scalars,
            ],
            expect=[
                Expect("p", w.astype(np.float32), "AbsRel(1e-6, 1e-5)"),
                Expect("m", m1.astype(np.float32), "AbsRel(1e-8, 1e-5)"),
                Expect("v", v1.astype(np.float32), "AbsRel(1e-10, 1e-5)"),
                Expect("narrow", w.astype(ml_dtypes.bfloat16), "AbsRel(1e-6, 8e-3)"),
            ],
        ),
    )


def fixtures():
    yield cross_entropy_fixture()
    yield rotary_fixture()
    yield adamw_fixture()
