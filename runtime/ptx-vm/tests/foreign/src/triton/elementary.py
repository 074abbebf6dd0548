"""Elementary functions: those of the hardware and those of libdevice."""

import math

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator
from triton.language.extra import libdevice


@triton.jit
def elementary(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    v = tl.load(x + at, mask=mask, other=1.0)
    tl.store(y + at, tl.exp(v), mask=mask)
    tl.store(y + n + at, tl.log(v), mask=mask)
    tl.store(y + 2 * n + at, tl.sqrt_rn(v), mask=mask)
    tl.store(y + 3 * n + at, tl.rsqrt(v), mask=mask)
    tl.store(y + 4 * n + at, tl.sin(v), mask=mask)
    tl.store(y + 5 * n + at, tl.erf(v), mask=mask)
    tl.store(y + 6 * n + at, libdevice.tanh(v), mask=mask)
    tl.store(y + 7 * n + at, libdevice.pow(v, 1.5), mask=mask)
    tl.store(y + 8 * n + at, libdevice.log1p(v), mask=mask)
    tl.store(y + 9 * n + at, tl.sigmoid(v), mask=mask)
    tl.store(y + 10 * n + at, tl.div_rn(1.0, v), mask=mask)
    tl.store(y + 11 * n + at, tl.floor(v) + tl.ceil(v) * 2.0, mask=mask)
    tl.store(y + 12 * n + at, libdevice.atan2(v, 2.0), mask=mask)
    tl.store(y + 13 * n + at, libdevice.fmod(v, 0.37), mask=mask)


def fixtures():
    n = 333
    rng = generator("elementary")
    x = np.exp(rng.uniform(-3, 2.5, n)).astype(np.float32)
    v = x.astype(np.float64)
    c = float(np.float32(0.37))
    y = np.stack(
        [
            np.exp(v),
            np.log(v),
            np.sqrt(v),
            1 / np.sqrt(v),
            np.sin(v),
            np.array([math.erf(t) for t in v]),
            np.tanh(v),
            v**1.5,
            np.log1p(v),
            1 / (1 + np.exp(-v)),
            1 / v,
            np.floor(v) + 2 * np.ceil(v),
            np.arctan2(v, 2),
            np.fmod(v, c),
        ]
    ).astype(np.float32)
    yield TritonFixture(
        name="triton_elementary",
        kernel=elementary,
        signature={"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": ("constexpr", 256)},
        launch=Launch(
            grid=(2, 1, 1),
            params=[Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)],
            # ex2.approx and the scaling around it: a few units in the last place.
            expect=[Expect("y", y, "AbsRel(3e-7, 1e-6)")],
        ),
    )
