"""Tensor copies of one to five dimensions: every swizzle, boxes that stick out, reductions."""

import struct

import numpy as np
from fixture import DTYPES, Buffer, CudaFixture, Expect, Launch, Raw, Scalar, TensorMap, generator

# Rank, type, shape (outermost first), box, corner of the load, corner of the store, swizzle.
CASES = [
    (1, "f32", (100,), (64,), (50,), (80,), "None"),
    (2, "bf16", (20, 40), (8, 16), (15, -5), (3, 30), "B32"),
    (3, "f32", (5, 9, 24), (2, 8, 16), (3, -2, 4), (0, 4, 12), "B64"),
    (4, "u8", (3, 4, 6, 144), (2, 2, 3, 128), (2, -1, 5, 100), (0, 3, 4, 16), "B128"),
    (5, "i32", (2, 3, 4, 5, 8), (1, 2, 2, 3, 4), (1, 2, -1, 3, 6), (0, 0, 3, 3, 4), "None"),
]


def box_of(x: np.ndarray, corner, box) -> np.ndarray:
    """The elements of a box, with zeros where it sticks out of `x`."""
    result = np.zeros(box, x.dtype)
    for at in np.ndindex(*box):
        where = tuple(c + i for c, i in zip(corner, at))
        if all(0 <= w < size for w, size in zip(where, x.shape)):
            result[at] = x[where]
    return result


def swizzled(data: bytes, mode: str) -> bytes:
    """Where a box's bytes lie: a 16-byte piece's number is xored with its 128-byte line's."""
    mask = {"None": 0, "B32": 1, "B64": 3, "B128": 7}[mode]
    result = bytearray(len(data))
    for i in range(0, len(data), 16):
        to = i ^ (i >> 7 & mask) << 4
        result[to : to + 16] = data[i : i + 16]
    return bytes(result)


def stored(y: np.ndarray, corner, box: np.ndarray, combine) -> np.ndarray:
    result = y.copy()
    for at in np.ndindex(*box.shape):
        where = tuple(c + i for c, i in zip(corner, at))
        if all(0 <= w < size for w, size in zip(where, y.shape)):
            result[where] = combine(result[where], box[at])
    return result


def tensor_map(name, over, kind, x, box, swizzle):
    strides = list(x.strides[:-1])[::-1]
    return TensorMap(name, over, kind, list(x.shape)[::-1], strides, list(box)[::-1], swizzle)


def fixtures():
    for rank, kind, shape, box, corner, target, swizzle in CASES:
        name = f"tensor_copy_{rank}d"
        rng = generator(name)
        low = 0 if kind == "u8" else -100
        x, y = (rng.integers(low, 101, shape).astype(DTYPES[kind]) for _ in range(2))
        tile = box_of(x, corner, box)
        combine = {3: lambda old, new: old + new, 5: max}.get(rank, lambda old, new: new)
        raw = np.frombuffer(swizzled(tile.tobytes(), swizzle), np.uint8)
        corners = [(list(c)[::-1] + [0] * 5)[:5] for c in (corner, target)]
        launch = Launch(
            grid=(1, 1, 1),
            block=(64, 1, 1),
            shared_bytes=tile.nbytes,
            params=[
                Buffer("x", x),
                Buffer("y", y),
                Buffer("raw", bytes=tile.nbytes),
                tensor_map("from", "x", kind, x, box, swizzle),
                tensor_map("to", "y", kind, y, box, swizzle),
                Raw(struct.pack("<10i", *corners[0], *corners[1])),
                Scalar("I32", tile.nbytes),
            ],
            expect=[Expect("raw", raw), Expect("y", stored(y, target, tile, combine))],
        )
        flags = (f"-DRANK={rank}", f"-DNAME={name}")
        yield CudaFixture(f"cuda_{name}", "tensor_copies", name, launch, ("sm_90a",), flags)
