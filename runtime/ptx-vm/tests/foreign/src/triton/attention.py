"""Causal attention forward in the flash style: one pass, with a running maximum and sum."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit
def attention(q, k, v, o, lse, length, scale, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    rows = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1) * length * D
    d = tl.arange(0, D)
    inside = rows < length
    x = tl.load(q + head + rows[:, None] * D + d[None, :], mask=inside[:, None], other=0.0)
    top = tl.full((M,), -1e30, tl.float32)
    total = tl.zeros((M,), tl.float32)
    acc = tl.zeros((M, D), tl.float32)
    for start in range(0, (tl.program_id(0) + 1) * M, N):
        keys = start + tl.arange(0, N)
        there = keys < length
        y = tl.load(k + head + keys[None, :] * D + d[:, None], mask=there[None, :], other=0.0)
        scores = tl.dot(x, y) * scale
        scores = tl.where((rows[:, None] >= keys[None, :]) & there[None, :], scores, -1e30)
        above = tl.maximum(top, tl.max(scores, axis=1))
        p = tl.exp2(scores - above[:, None])
        shrink = tl.exp2(top - above)
        total = total * shrink + tl.sum(p, axis=1)
        z = tl.load(v + head + keys[:, None] * D + d[None, :], mask=there[:, None], other=0.0)
        acc = tl.dot(p.to(z.dtype), z, acc * shrink[:, None])
        top = above
    tl.store(
        o + head + rows[:, None] * D + d[None, :],
        (acc / total[:, None]).to(o.dtype.element_ty),
        mask=inside[:, None],
    )
    tl.store(lse + tl.program_id(1) * length + rows, top + tl.log2(total), mask=inside)


def fixtures():
    heads, length, width = 2, 83, 32
    rng = generator("attention")
    q, k, v = (rng.normal(0, 1, (heads, length, width)).astype(np.float16) for _ in range(3))
    scale = np.float32(np.log2(np.e) / np.sqrt(width))
    s = np.einsum("hid,hjd->hij", q.astype(np.float64), k.astype(np.float64)) * scale
    s = np.where(np.tril(np.ones((length, length), bool)), s, -np.inf)
    p = np.exp2(s - s.max(axis=2, keepdims=True))
    total = p.sum(axis=2, keepdims=True)
    o = ((p @ v.astype(np.float64)) / total).astype(np.float16)
    lse = (s.max(axis=2, keepdims=True) + np.log2(total)).astype(np.float32)
    launch = Launch(
        grid=(2, heads, 1),
        params=[
            Buffer("q", q),
            Buffer("k", k),
            Buffer("v", v),
            Buffer("o", bytes=o.nbytes),
            Buffer("lse", bytes=lse.nbytes),
            Scalar("I32", length),
            Scalar("F32", scale),
        ],
        expect=[
            # The probabilities are rounded to f16 before the second product.
            Expect("o", o, "AbsRel(2e-3, 2e-3)"),
            Expect("lse", lse, "AbsRel(1e-5, 1e-5)"),
        ],
    )
    yield TritonFixture(
        name="triton_attention",
        kernel=attention,
        signature={
            "q": "*fp16",
            "k": "*fp16",
            "v": "*fp16",
            "o": "*fp16",
            "lse": "*fp32",
            "length": "i32",
            "scale": "fp32",
            "M": ("constexpr", 64),
            "N": ("constexpr", 32),
            "D": ("constexpr", width),
        },
        aligned=("q", "k", "v", "o"),
        launch=launch,
    )
