"""Approximate functions within the errors that the PTX ISA documents, and their special cases."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator

# The NaN that arithmetic gives.
QUIET = 0x7FFFFFFF


def approximations():
    n = 200
    rng = generator("approximations")
    x = rng.uniform(-3.1, 3.1, n).astype(np.float32)
    x[::3] = (rng.uniform(1, 2, len(x[::3])) * np.exp2(rng.integers(-6, 2, len(x[::3])))).astype(
        np.float32
    )
    v = x.astype(np.float64)
    a = np.abs(v)
    rows = [
        np.exp2(v),
        np.exp2(v),
        1 / v,
        np.log2(a),
        np.sqrt(a),
        1 / np.sqrt(a),
        np.sin(v),
        np.cos(v),
        np.tanh(v),
        float(np.float32(np.pi)) / v,
        1 / v,
    ]
    y = np.stack(rows).astype(np.float32)
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    # ex2 2^-22.5 relative, rcp 1 ulp, lg2 2^-22 absolute or relative, sin and cos 2^-20.5 absolute,
    # tanh 2^-11 relative, which is the widest.
    expect = [Expect("y", y, "AbsRel(1e-6, 5e-4)")]
    launch = Launch((2, 1, 1), params, expect, (128, 1, 1))
    return CudaFixture("cuda_approximations", "approximations", "approximations", launch)


def special_cases():
    infinity, nan = np.inf, np.nan
    x = np.array([0.0, -0.0, infinity, -infinity, nan], np.float32)
    floats = [
        # ex2, rcp, lg2, sqrt, rsqrt: the tables of the PTX ISA.
        [1, 1, infinity, 0, nan],
        [infinity, -infinity, 0.0, -0.0, nan],
        [-infinity, -infinity, infinity, nan, nan],
        [0.0, -0.0, infinity, nan, nan],
        [infinity, -infinity, 0.0, nan, nan],
        # min with 1, and the doubled value.
        [0.0, -0.0, 1, -infinity, 1],
        [0.0, -0.0, infinity, -infinity, nan],
    ]
    values = np.array(floats, np.float32)
    bits = np.where(np.isnan(values), np.uint32(QUIET), values.view(np.uint32))
    tests = np.array([[0, 0, 1, 1, 0], [0, 0, 0, 0, 1]], np.uint32)
    y = np.concatenate([bits[:5], tests, bits[5:]])
    n = len(x)
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    launch = Launch((1, 1, 1), params, [Expect("y", y)], (32, 1, 1))
    return CudaFixture("cuda_special_cases", "approximations", "special_cases", launch)


def fixtures():
    yield approximations()
    yield special_cases()
