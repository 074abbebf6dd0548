"""What a fixture is: a compiled kernel, its launch, its inputs and the results it must have.

Everything here is data and its way to disk; `generate.py` compiles and calls it.
Expected values are computed by numpy from the kernel's definition, never by running the kernel.
"""

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np

# The names of LAUNCH.ron for element types.
DTYPES = {
    "f64": np.float64,
    "f32": np.float32,
    "f16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "i64": np.int64,
    "u64": np.uint64,
    "i32": np.int32,
    "u32": np.uint32,
    "i16": np.int16,
    "u16": np.uint16,
    "i8": np.int8,
    "u8": np.uint8,
}


def name_of(dtype) -> str:
    """The LAUNCH.ron name of a numpy dtype."""
    return next(name for name, known in DTYPES.items() if np.dtype(known) == np.dtype(dtype))


def generator(name: str) -> np.random.Generator:
    """A random stream that depends on the fixture's name and on nothing else."""
    return np.random.default_rng(zlib.crc32(name.encode()))


@dataclass
class Buffer:
    """A device buffer: `init` is an array, or "Zeros", or "Uninit" with `bytes` given."""

    name: str
    init: object = "Uninit"
    bytes: int = 0


@dataclass
class Scalar:
    """A scalar parameter: kind is U32, I32, U64, I64, F32 or F64."""

    kind: str
    value: object


@dataclass
class Offset:
    """A pointer into a buffer named before."""

    name: str
    bytes: int


@dataclass
class Raw:
    """A parameter of raw bytes (a struct passed by value)."""

    data: bytes


@dataclass
class TensorMap:
    """A TMA descriptor over a buffer; dims, box and byte strides innermost first."""

    name: str
    over: str
    dtype: str
    dims: list
    strides: list
    box: list
    swizzle: str = "None"
    element_strides: list = None
    oob: str = "Zeros"


@dataclass
class Expect:
    """What a buffer holds after the launch; `tolerance` as LAUNCH.ron writes it."""

    buffer: str
    values: np.ndarray
    tolerance: str = "Exact"


@dataclass
class Launch:
    """One launch of one kernel, the same for every target it is compiled for."""

    grid: tuple
    params: list
    expect: list
    block: tuple = (1, 1, 1)
    cluster: tuple = (1, 1, 1)
    shared_bytes: int = 0


@dataclass
class TritonFixture:
    """A Triton kernel: `signature` in parameter order, constants as ("constexpr", value)."""

    name: str
    kernel: object
    signature: dict
    launch: Launch
    targets: tuple = ("sm_80", "sm_90a")
    aligned: tuple = ()
    options: dict = field(default_factory=dict)
    lines: bool = False


@dataclass
class CudaFixture:
    """A CUDA kernel of `src/cuda/<source>.cu`."""

    name: str
    source: str
    entry: str
    launch: Launch
    targets: tuple = ("sm_80", "sm_90a")
    flags: tuple = ()


def ron_tuple(values) -> str:
    return "(" + ", ".join(str(v) for v in values) + ")"


def ron_list(values) -> str:
    return "[" + ", ".join(str(v) for v in values) + "]"


def float_text(value) -> str:
    return repr(float(value))


class Writer:
    """Writes launches into a folder; buffers that two targets share are written once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.written = {}

    def bin(self, file: str, values: np.ndarray) -> str:
        data = np.ascontiguousarray(values).tobytes()
        assert self.written.get(file, data) == data, f"{file} differs between two targets"
        self.written[file] = data
        (self.folder / file).write_bytes(data)
        return file

    def param(self, fixture: str, p) -> str:
        if isinstance(p, Buffer):
            return self.buffer(fixture, p)
        if isinstance(p, Scalar):
            value = float_text(p.value) if p.kind in ("F32", "F64") else int(p.value)
            return f"{p.kind}({value})"
        if isinstance(p, Offset):
            return f'BufferOffset(name: "{p.name}", bytes: {p.bytes})'
        if isinstance(p, Raw):
            return f"Bytes({ron_list(p.data)})"
        element_strides = p.element_strides or [1] * len(p.dims)
        return (
            f'TensorMap(name: "{p.name}", over: "{p.over}", dtype: {p.dtype}, '
            f"dims: {ron_list(p.dims)}, strides: {ron_list(p.strides)}, box: {ron_list(p.box)}, "
            f"element_strides: {ron_list(element_strides)}, swizzle: {p.swizzle}, oob: {p.oob})"
        )

    def buffer(self, fixture: str, p: Buffer) -> str:
        if isinstance(p.init, str):
            return f'Buffer(name: "{p.name}", bytes: {p.bytes}, init: {p.init})'
        file = self.bin(f"{fixture}.{p.name}.bin", p.init)
        return f'Buffer(name: "{p.name}", bytes: {p.init.nbytes}, init: File("{file}"))'

    def launch(self, fixture: str, target: str, entry: str, launch: Launch, shared_bytes: int):
        lines = ["Launch("]
        lines.append(f'    entry: "{entry}",')
        lines.append(f"    grid: {ron_tuple(launch.grid)},")
        lines.append(f"    block: {ron_tuple(launch.block)},")
        if launch.cluster != (1, 1, 1):
            lines.append(f"    cluster: {ron_tuple(launch.cluster)},")
        if shared_bytes:
            lines.append(f"    shared_bytes: {shared_bytes},")
        lines.append("    params: [")
        lines += [f"        {self.param(fixture, p)}," for p in launch.params]
        lines.append("    ],")
        lines.append("    expect: [")
        for e in launch.expect:
            file = self.bin(f"{fixture}.{e.buffer}.expected.bin", e.values)
            lines.append(
                f'        (buffer: "{e.buffer}", file: "{file}", '
                f"dtype: {name_of(e.values.dtype)}, tolerance: {e.tolerance}),"
            )
        lines.append("    ],")
        lines.append(")")
        path = self.folder / f"{fixture}.{target}.launch.ron"
        path.write_text("\n".join(lines) + "\n")
