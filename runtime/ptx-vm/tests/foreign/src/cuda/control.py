"""Control flow and addressing, all in integers or exact floats."""

import struct
from functools import lru_cache

import numpy as np
from fixture import Buffer, CudaFixture, Expect, Launch, Raw, Scalar, generator


def wrapped(value: int) -> int:
    return (value + 2**31) % 2**32 - 2**31


@lru_cache(None)
def ackermann(m: int, n: int) -> int:
    if m == 0:
        return n + 1
    return ackermann(m - 1, 1 if n == 0 else ackermann(m, n - 1))


def recursion():
    x = generator("recursion").integers(0, [3, 4], (40, 2)).astype(np.uint32)
    y = np.array([ackermann(int(m), int(n)) for m, n in x], np.uint32)
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes)]
    return Launch((1, 1, 1), params, [Expect("y", y)], block=(40, 1, 1))


def pointers():
    n = 50
    rng = generator("pointers")
    which = rng.integers(0, 3, n).astype(np.int32)
    x = rng.normal(0, 1, n).astype(np.float32)
    y = np.choose(which, [2 * x, x * x, -x])
    params = [Buffer("which", which), Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    return Launch((1, 1, 1), params, [Expect("y", y)], block=(64, 1, 1))


def interpret(v, steps, offset, scale, bias, codes):
    constants = [3, -1, 4, -1, 5, -9, 2, 6]
    for step in range(steps):
        code = (codes[step] + v) & 15
        if code == 0:
            v += offset
        elif code == 1:
            v *= scale
        elif code == 2:
            v ^= 0x55
        elif code == 3:
            v = v * v - 7
        elif code == 4:
            v >>= 2
        elif code == 5:
            v = -v
        elif code == 6:
            v += constants[v & 7]
        elif code == 7:
            v = abs(v) % 1000 * (1 if v >= 0 else -1)
        elif code == 8:
            v |= step
        else:
            v += 11
        v = wrapped(v)
    return np.float32(np.float32(v) + np.float32(bias))


def interpreter():
    n = 77
    rng = generator("interpreter")
    codes = rng.integers(0, 16, 12).tolist()
    program = (10, -300, -3, 0.25, codes)
    x = rng.integers(-1000, 1000, n).astype(np.int32)
    y = np.array([interpret(int(v), *program) for v in x], np.float32)
    raw = struct.pack("<ihbxf12i", *program[:4], *codes)
    params = [Raw(raw), Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    return Launch((3, 1, 1), params, [Expect("y", y)], block=(32, 1, 1))


def local_array():
    n = 37
    x = generator("local_array").integers(-999, 999, (n, 24)).astype(np.int32)
    y = np.sort(x, axis=1)
    params = [Buffer("x", x), Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    return Launch((1, 1, 1), params, [Expect("y", y)], block=(64, 1, 1))


def mandelbrot():
    width, height, limit = 45, 19, 60
    y = np.zeros((height, width), np.int32)
    for py in range(height):
        for px in range(width):
            cx = -2 * 4096 + px * 3 * 4096 // width
            cy = -4096 + py * 2 * 4096 // height
            zx = zy = count = 0
            while count < limit:
                xx, yy = zx * zx >> 12, zy * zy >> 12
                if xx + yy > 4 * 4096:
                    break
                zx, zy = xx - yy + cx, (zx * zy >> 11) + cy
                count += 1
            y[py, px] = count
    sizes = [Scalar("I32", s) for s in (width, height, limit)]
    params = [Buffer("y", bytes=y.nbytes), *sizes]
    return Launch((3, 3, 1), params, [Expect("y", y)], block=(16, 8, 1))


def dynamic_shared():
    n = 91
    rng = generator("dynamic_shared")
    x = rng.normal(0, 1, n)
    k = rng.integers(0, 256, n).astype(np.uint8)
    y = (x * 0.5)[::-1] + (k ^ 1)[np.arange(n) * 7 % n]
    params = [Buffer("x", x), Buffer("k", k), Buffer("y", bytes=y.nbytes), Scalar("I32", n)]
    return Launch((1, 1, 1), params, [Expect("y", y)], block=(64, 1, 1), shared_bytes=9 * n)


def special_registers():
    grid, block = (3, 2, 2), (5, 3, 3)
    size = block[0] * block[1] * block[2]
    y = np.zeros((grid[2], grid[1], grid[0], size), np.uint32)
    for (bz, by, bx, thread), _ in np.ndenumerate(y):
        at = (bz * grid[1] + by) * grid[0] + bx
        ty = thread // block[0] % block[1]
        lane = thread % 32
        y[bz, by, bx, thread] = at << 24 ^ bz << 20 ^ ty << 16 ^ lane << 8 ^ lane ^ grid[2] << 12
    return Launch(grid, [Buffer("y", bytes=y.nbytes)], [Expect("y", y)], block=block)


def fixtures():
    launches = (
        recursion,
        pointers,
        interpreter,
        local_array,
        mandelbrot,
        dynamic_shared,
        special_registers,
    )
    for launch in launches:
        name = launch.__name__
        yield CudaFixture(f"cuda_{name}", name, name, launch())
