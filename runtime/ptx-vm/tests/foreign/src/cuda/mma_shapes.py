"""mma.sync of every shape and type; the operands are small, so that every result is exact."""

import struct

import numpy as np
from fixture import DTYPES, Buffer, CudaFixture, Expect, Launch, Raw, generator

# m, n, k, types of A, B and D, in the kernel's order.
PRODUCTS = [
    (16, 8, 16, "f16", "f16", "f32"),
    (16, 8, 8, "f16", "f16", "f32"),
    (16, 8, 16, "bf16", "bf16", "f32"),
    (16, 8, 8, "bf16", "bf16", "f32"),
    (16, 8, 8, "f32", "f32", "f32"),
    (16, 8, 4, "f32", "f32", "f32"),
    (16, 8, 32, "i8", "i8", "i32"),
    (16, 8, 16, "u8", "i8", "i32"),
    (16, 8, 16, "f16", "f16", "f16"),
    (8, 8, 4, "f64", "f64", "f64"),
    (16, 8, 32, "e4m3", "e4m3", "f32"),
    (16, 8, 32, "e5m2", "e4m3", "f32"),
]


def initial(m: int, n: int) -> np.ndarray:
    """What the kernel has in the accumulators: by row half and by parity of the column."""
    if m == 8:
        return np.tile([0, 1], (8, n // 2))
    rows = (np.arange(m)[:, None] >= 8) * 2
    return rows + np.arange(n)[None, :] % 2


def build(products, name, targets, flags):
    rng = generator("mma_shapes")
    inputs, outputs, places = bytearray(), bytearray(), []
    for m, n, k, a_type, b_type, d_type in products:
        operands = []
        for rows, kind in ((m, a_type), (n, b_type)):
            low, high = {"i8": (-128, 128), "u8": (0, 256)}.get(kind, (-4, 5))
            operands.append(rng.integers(low, high, (rows, k)).astype(DTYPES[kind]))
        a, b = operands
        d = a.astype(np.float64) @ b.astype(np.float64).T + initial(m, n)
        at = []
        for x in (a, b):
            at.append(len(inputs))
            inputs += x.tobytes() + bytes(-x.nbytes % 16)
        at.append(len(outputs))
        outputs += d.astype(DTYPES[d_type]).tobytes()
        places.append(at)
    places += [[0, 0, 0]] * (12 - len(places))
    raw = struct.pack("<36i", *(offset for at in places for offset in at))
    out = np.frombuffer(bytes(outputs), np.uint8)
    launch = Launch(
        grid=(1, 1, 1),
        block=(32, 1, 1),
        params=[
            Buffer("in", np.frombuffer(bytes(inputs), np.uint8)),
            Buffer("out", bytes=out.nbytes),
            Raw(raw),
        ],
        expect=[Expect("out", out)],
    )
    return CudaFixture(name, "mma_shapes", "mma_shapes", launch, targets, flags)


def fixtures():
    yield build(PRODUCTS[:10], "cuda_mma_shapes", ("sm_80",), ())
    yield build(PRODUCTS, "cuda_mma_shapes_fp8", ("sm_90a",), ("-DFP8",))
