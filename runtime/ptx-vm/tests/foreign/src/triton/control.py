"""Calls, locks, inline assembly and 64-bit integers."""

import numpy as np
import triton
import triton.language as tl
from fixture import Buffer, Expect, Launch, Scalar, TritonFixture, generator


@triton.jit(noinline=True)
def collatz(n, bound):
    """Steps until n has come to 1, and no more than `bound`."""
    steps = 0
    while (n > 1) & (steps < bound):
        if n % 2 == 1:
            n = 3 * n + 1
        else:
            n = n // 2
        steps += 1
    return steps


@triton.jit
def calls(x, y, each):
    first = tl.program_id(0) * each
    for i in range(first, first + each):
        tl.store(y + i, collatz(tl.load(x + i), 1000))


@triton.jit
def lock(x, key, sums, count, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    mask = at < columns
    v = tl.load(x + row * columns + at, mask=mask, other=0.0)
    while tl.atomic_cas(key, 0, 1) == 1:
        pass
    tl.debug_barrier()
    done = tl.load(count)
    if done == 0:
        tl.store(sums + at, v, mask=mask)
    else:
        tl.store(sums + at, tl.load(sums + at, mask=mask) + v, mask=mask)
    tl.debug_barrier()
    tl.store(count, done + 1)
    tl.debug_barrier()
    tl.atomic_xchg(key, 0)


@triton.jit
def assembly(a, b, dots, bytes_, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    x = tl.load(a + at, mask=mask, other=0)
    y = tl.load(b + at, mask=mask, other=0)
    dot = tl.inline_asm_elementwise(
        "dp4a.s32.s32 $0, $1, $2, 7;", "=r,r,r", [x, y], dtype=tl.int32, is_pure=True, pack=1
    )
    tl.store(dots + at, dot, mask=mask)
    mixed = tl.inline_asm_elementwise(
        """{
            .reg .b32 t;
            prmt.b32 t, $1, $2, 0x1735;
            lop3.b32 $0, t, $1, $2, 0x96;
        }""",
        "=r,r,r",
        [x, y],
        dtype=tl.int32,
        is_pure=True,
        pack=1,
    )
    tl.store(bytes_ + at, mixed, mask=mask)


@triton.jit
def wide(a, b, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    p = tl.load(a + at, mask=mask, other=1)
    q = tl.load(b + at, mask=mask, other=1)
    tl.store(y + at, p // q, mask=mask)
    tl.store(y + n + at, p % q, mask=mask)
    tl.store(y + 2 * n + at, p * q, mask=mask)
    tl.store(y + 3 * n + at, tl.umulhi(p.to(tl.uint64), q.to(tl.uint64)).to(tl.int64), mask=mask)
    tl.store(y + 4 * n + at, (p >> 7) ^ (q << 3), mask=mask)
    tl.store(y + 5 * n + at, tl.minimum(p, q), mask=mask)


def calls_fixture():
    programs, each = 3, 4
    x = generator("calls").integers(1, 200, programs * each).astype(np.int64)
    y = np.zeros(len(x), np.int32)
    for i, start in enumerate(x.tolist()):
        while start > 1:
            start = 3 * start + 1 if start % 2 else start // 2
            y[i] += 1
    return TritonFixture(
        name="triton_calls",
        kernel=calls,
        signature={"x": "*i64", "y": "*i32", "each": "i32"},
        options={"num_warps": 1},
        launch=Launch(
            grid=(programs, 1, 1),
            params=[Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", each)],
            expect=[Expect("y", y)],
        ),
    )


def lock_fixture():
    rows, columns = 5, 100
    # Eighths: exact in every order of the programs.
    x = (generator("lock").integers(-80, 80, (rows, columns)) / 8).astype(np.float32)
    return TritonFixture(
        name="triton_lock",
        kernel=lock,
        signature={
            "x": "*fp32",
            "key": "*i32",
            "sums": "*fp32",
            "count": "*i32",
            "columns": "i32",
            "BLOCK": ("constexpr", 128),
        },
        launch=Launch(
            grid=(rows, 1, 1),
            params=[
                Buffer("x", x),
                Buffer("key", "Zeros", 4),
                Buffer("sums", bytes=4 * columns),
                Buffer("count", "Zeros", 4),
                Scalar("I32", columns),
            ],
            expect=[
                Expect("sums", x.sum(axis=0)),
                Expect("count", np.array([rows], np.int32)),
                Expect("key", np.array([0], np.int32)),
            ],
        ),
    )


def assembly_fixture():
    n = 200
    rng = generator("assembly")
    a, b = (rng.integers(-(2**31), 2**31, n).astype(np.int32) for _ in range(2))
    p, q = (t.view(np.int8).reshape(n, 4).astype(np.int32) for t in (a, b))
    both = np.concatenate([a.view(np.uint8).reshape(n, 4), b.view(np.uint8).reshape(n, 4)], axis=1)
    # The selector's nibbles, least significant first: 5, 3, 7, 1.
    permuted = np.ascontiguousarray(both[:, [5, 3, 7, 1]]).view(np.int32)[:, 0]
    return TritonFixture(
        name="triton_assembly",
        kernel=assembly,
        signature={
            "a": "*i32",
            "b": "*i32",
            "dots": "*i32",
            "bytes_": "*i32",
            "n": "i32",
            "BLOCK": ("constexpr", 128),
        },
        launch=Launch(
            grid=(2, 1, 1),
            params=[
                Buffer("a", a),
                Buffer("b", b),
                Buffer("dots", bytes=4 * n),
                Buffer("bytes", bytes=4 * n),
                Scalar("I32", n),
            ],
            expect=[
                Expect("dots", ((p * q).sum(axis=1) + 7).astype(np.int32)),
                # The table 0x96 is the exclusive or of the three inputs.
                Expect("bytes", permuted ^ a ^ b),
            ],
        ),
    )


def wide_fixture():
    n = 120
    rng = generator("wide")
    a = rng.integers(-(2**62), 2**62, n).astype(np.int64)
    b = np.where(np.arange(n) % 3 == 0, rng.integers(1, 90, n), rng.integers(-(2**40), -1, n))
    b = b.astype(np.int64)
    p, q = a.tolist(), b.tolist()

    def each(operation):
        results = [operation(s, t) % 2**64 for s, t in zip(p, q)]
        return np.array(results, np.uint64).view(np.int64)

    def quotient(s, t):
        magnitude = abs(s) // abs(t)
        return magnitude if (s < 0) == (t < 0) else -magnitude

    y = np.stack(
        [
            # Triton divides integers towards zero, and the remainder has the dividend's sign.
            each(quotient),
            each(lambda s, t: s - t * quotient(s, t)),
            each(lambda s, t: s * t),
            each(lambda s, t: (s % 2**64) * (t % 2**64) >> 64),
            each(lambda s, t: (s >> 7) ^ (t << 3)),
            each(min),
        ]
    )
    return TritonFixture(
        name="triton_wide_integers",
        kernel=wide,
        signature={"a": "*i64", "b": "*i64", "y": "*i64", "n": "i32", "BLOCK": ("constexpr", 128)},
        launch=Launch(
            grid=(1, 1, 1),
            params=[
                Buffer("a", a),
                Buffer("b", b),
                Buffer("y", bytes=y.nbytes),
                Scalar("I32", n),
            ],
            expect=[Expect("y", y)],
        ),
    )


def fixtures():
    yield calls_fixture()
    yield lock_fixture()
    yield assembly_fixture()
    yield wide_fixture()
