"""Integer arithmetic of 8 to 64 bits, against Python's unbounded integers."""

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Scalar, generator


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def unsigned(value: int, bits: int = 32) -> int:
    return value & ((1 << bits) - 1)


def towards_zero(x: int, y: int) -> int:
    q = abs(x) // abs(y)
    return q if (x < 0) == (y < 0) else -q


def parts(value: int, bits: int, count: int, sign: bool):
    pieces = [(value >> (bits * i)) & ((1 << bits) - 1) for i in range(count)]
    return [signed(p, bits) for p in pieces] if sign else pieces


def permute(x: int, y: int, selector: int) -> int:
    table = parts(unsigned(x), 8, 4, False) + parts(unsigned(y), 8, 4, False)
    result = 0
    for i in range(4):
        nibble = selector >> (4 * i) & 15
        byte = table[nibble & 7]
        if nibble & 8:
            byte = 0xFF if byte & 0x80 else 0
        result |= byte << (8 * i)
    return result


def clamp(value: int) -> int:
    return max(-(2**31), min(2**31 - 1, value))


def dot(xs, ys) -> int:
    return sum(p * q for p, q in zip(xs, ys))


def words(x: int, y: int) -> list:
    """The results of `integers`, in its order, before they are cut to 32 bits."""
    u, v = unsigned(x), unsigned(y)
    pair = v << 32 | u
    top = u if x >= 0 else unsigned(~x)
    turn = v & 31
    third = 0x0F0F3355
    carry = (u + v) >> 32
    return [
        (x * y) >> 32,
        (u * v) >> 32,
        towards_zero(x, y) if y else 0,
        u % v if v else 0,
        u.bit_count(),
        32 - u.bit_length(),
        int(f"{u:032b}"[::-1], 2),
        u << turn | u >> (32 - turn),
        dot(parts(u, 8, 4, True), parts(v, 8, 4, True)) + x,
        dot(parts(u, 8, 4, False), parts(v, 8, 4, True)),
        dot(parts(u, 16, 2, True), parts(v, 8, 2, True)) + 5,
        signed(u >> 5, 9),
        v & ~(0x1FFF << 7) | (u & 0x1FFF) << 7,
        (pair << (37 & 31)) >> 32,
        pair >> 32,
        clamp(x + y),
        abs(x - y) + 1,
        clamp((x * y >> 32) + 2147483000),
        top.bit_length() - 1,
        permute(u, v, 0x9C6F),
        u & v | u & third | v & third,
        signed(u, 11),
        u + v + carry,
        signed(u, 24) * signed(v, 24),
    ]


def longs(x: int, y: int) -> list:
    """The results of `narrow_and_wide`, in its order, before they are cut to 64 bits."""
    u, v = unsigned(x, 64), unsigned(y, 64)
    less = int(u < v) if x < y else 2
    return [
        x * y,
        (u * v) >> 64,
        towards_zero(x, signed(y | 1, 64)),
        u % (v | 1),
        u.bit_count() + 100 * (64 - (u | 1).bit_length()),
        x >> (v & 63),
        signed(x + y, 8) * (v & 255),
        signed(signed(x, 16) * signed(y, 16), 16),
        (u & 255) << 3 ^ signed(y, 8) >> 1,
        less,
        u >> 21 & (1 << 30) - 1,
        (x * y) >> 64,
        int(np.float64(x)) + int(np.float32(np.int64(y))),
    ]


def fixture(name, entry, dtype, n, reference):
    bits = np.dtype(dtype).itemsize * 8
    rng = generator(entry)
    # All magnitudes, so that small operands and results occur as well as overflow.
    shifts = rng.integers(0, bits - 4, (2, n))
    a, b = rng.integers(-(2 ** (bits - 2)), 2 ** (bits - 2), (2, n)) >> shifts
    rows = [reference(int(x), int(y)) for x, y in zip(a, b)]
    table = np.array([[signed(value, bits) for value in row] for row in rows]).T.astype(dtype)
    launch = Launch(
        grid=(2, 1, 1),
        block=(64, 1, 1),
        params=[
            Buffer("a", a.astype(dtype)),
            Buffer("b", b.astype(dtype)),
            Buffer("out", bytes=table.nbytes),
            Scalar("I32", n),
        ],
        expect=[Expect("out", np.ascontiguousarray(table))],
    )
    return CudaFixture(name, "integers", entry, launch)


def fixtures():
    yield fixture("cuda_integers", "integers", np.int32, 103, words)
    yield fixture("cuda_narrow_and_wide", "narrow_and_wide", np.int64, 91, longs)
