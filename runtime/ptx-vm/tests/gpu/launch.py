"""LAUNCH.ron files: reading them, the bytes of their buffers and parameters, and comparing results.

Needs nothing but Python, so that it is tested where there is no GPU. It shares no code with the
virtual machine: that the two agree about every launch is a test of both.
"""

import math
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

# Bits of exponent and mantissa of the formats that are floats.
FLOATS = {"f64": (11, 52), "f32": (8, 23), "tf32": (8, 10), "f16": (5, 10), "bf16": (8, 7), "e4m3": (4, 3), "e5m2": (5, 2)}
BYTES = {"f64": 8, "i64": 8, "u64": 8, "f32": 4, "tf32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2, "i16": 2, "u16": 2,
         "e4m3": 1, "e5m2": 1, "i8": 1, "u8": 1}  # fmt: skip
SCALARS = {"U32": "<I", "I32": "<i", "U64": "<Q", "I64": "<q", "F32": "<f", "F64": "<d"}

TOKEN = re.compile(
    r"""(?P<blank>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>[-+]?(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?))
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>[()\[\]:,])""",
    re.S | re.X,
)


@dataclass
class Node:
    """`Name(field: value)`, `Name(value)` or a plain `Name`; without a name a tuple or structure."""

    name: str = ""
    fields: dict = field(default_factory=dict)
    values: list = field(default_factory=list)


class Ron:
    """Reads the part of RON that launches are written in."""

    def __init__(self, text):
        self.tokens, at = [], 0
        while at < len(text):
            found = TOKEN.match(text, at)
            if not found:
                raise ValueError(f"not RON: {text[at : at + 20]!r}")
            if found.lastgroup != "blank":
                self.tokens.append((found.lastgroup, found.group()))
            at = found.end()
        self.at = 0

    def peek(self, ahead=0):
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ("end", "")

    def next(self, wanted=None):
        kind, text = self.peek()
        if wanted is not None and text != wanted:
            raise ValueError(f"expected `{wanted}`, found `{text}`")
        self.at += 1
        return kind, text

    def value(self):
        kind, text = self.next()
        if kind == "string":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "number":
            text = text.replace("_", "")
            return float(text) if re.search(r"[.eE]", text) and "x" not in text else int(text, 0)
        if text == "[":
            return self.items("]").values
        if text == "(":
            return self.items(")")
        if text in ("inf", "NaN"):
            return float(text)
        if kind == "name":
            node = Node()
            if self.peek()[1] == "(":
                self.next()
                node = self.items(")")
            return Node(text, node.fields, node.values)
        raise ValueError(f"unexpected `{text}`")

    def items(self, end):
        node = Node()
        while self.peek()[1] != end:
            if self.peek()[0] == "name" and self.peek(1)[1] == ":":
                name = self.next()[1]
                self.next(":")
                node.fields[name] = self.value()
            else:
                node.values.append(self.value())
            if self.peek()[1] != end:
                self.next(",")
        self.next(end)
        return node


@dataclass
class Pointer:
    """A parameter that points into a buffer."""

    buffer: str
    offset: int = 0


@dataclass
class Map:
    """A parameter that is a tensor map over a buffer; extents innermost first, strides in bytes."""

    over: str
    dtype: str
    dims: list
    strides: list
    box: list
    element_strides: list
    swizzle: str
    oob: str


@dataclass
class Expect:
    """What a buffer holds afterwards: raw bytes, and how far off elements may be."""

    buffer: str
    want: bytes
    dtype: str
    tolerance: tuple


@dataclass
class Launch:
    """A launch with everything it needs in memory."""

    entry: str
    grid: tuple
    block: tuple
    cluster: tuple
    shared_bytes: int
    # Name to first content, in the order of allocation.
    buffers: dict
    # In the kernel's order: `bytes`, `Pointer` or `Map`.
    params: list
    expect: list


def read(path):
    """The launch of a file; the files it names lie beside it."""
    path = Path(path)
    root = Ron(path.read_text()).value()
    if root.name not in ("Launch", ""):
        raise ValueError(f"{path}: no Launch")
    get = root.fields.get
    triple = lambda node: tuple(node.values) if node else None  # noqa: E731
    launch = Launch(
        get("entry"), triple(get("grid")), triple(get("block")), triple(get("cluster")), get("shared_bytes", 0), {}, [], []
    )
    for given in get("buffers", []):
        add_buffer(launch, given, path.parent)
    launch.params = [parameter(launch, given, path.parent) for given in get("params", [])]
    for given in get("expect", []):
        f = given.fields
        want = (path.parent / f["file"]).read_bytes()
        launch.expect.append(Expect(f["buffer"], want, f["dtype"].name, tolerance(f["tolerance"])))
    return launch


def add_buffer(launch, given, folder):
    f = given.fields
    content = initial(f["init"], f["bytes"], folder)
    if len(content) > f["bytes"] or f["name"] in launch.buffers:
        raise ValueError(f"buffer `{f['name']}` is too small, or stands twice")
    launch.buffers[f["name"]] = content.ljust(f["bytes"], b"\0")


def parameter(launch, given, folder):
    f = given.fields
    if given.name in SCALARS:
        return struct.pack(SCALARS[given.name], given.values[0])
    if given.name == "Bytes":
        return bytes(given.values[0])
    if given.name == "Buffer":
        add_buffer(launch, given, folder)
        return Pointer(f["name"])
    if given.name == "BufferOffset":
        return Pointer(f["name"], f["bytes"])
    if given.name == "TensorMap":
        steps = f.get("element_strides") or [1] * len(f["dims"])
        swizzle, oob = f.get("swizzle", Node("None")).name, f.get("oob", Node("Zeros")).name
        return Map(f["over"], f["dtype"].name, f["dims"], f["strides"], f["box"], steps, swizzle, oob)
    raise ValueError(f"no parameter is called `{given.name}`")


def initial(init, size, folder):
    """First bytes of a buffer; the rest, and all of `Uninit`, is zeros."""
    if init.name == "File":
        return (folder / init.values[0]).read_bytes()
    if init.name == "Bytes":
        return bytes(init.values[0])
    if init.name == "Random":
        f = init.fields
        return random_bytes(f["seed"], f["dtype"].name, f["low"], f["high"], size)
    return b""


def random_bytes(seed, dtype, low, high, size):
    """Element `i` from SplitMix64 at `seed + (i + 1) * 0x9E3779B97F4A7C15`."""
    mask, each = (1 << 64) - 1, BYTES[dtype]
    out = bytearray()
    for index in range(1, -(-size // each) + 1):
        z = (seed + index * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        unit = ((z ^ (z >> 31)) >> 11) / 2**53
        out += encode(dtype, low + (high - low) * unit).to_bytes(each, "little")
    return bytes(out[:size])


def encode(dtype, value):
    """Bits of a value, rounded to nearest, ties to even; integers round down."""
    if dtype not in FLOATS:
        return math.floor(value) & ((1 << 8 * BYTES[dtype]) - 1)
    exponent_bits, mantissa_bits = FLOATS[dtype]
    total = exponent_bits + mantissa_bits
    # Above the largest value: infinity, which e4m3 lacks, so NaN there.
    bias, above = (1 << exponent_bits - 1) - 1, ((1 << exponent_bits) - 1) << mantissa_bits
    above = 0x7F if dtype == "e4m3" else above
    sign = int(math.copysign(1, value) < 0) << total
    if math.isnan(value):
        bits = above | 1 << mantissa_bits - 1
    elif math.isinf(value):
        bits = above
    else:
        exponent = max(math.frexp(value)[1] - 1, 1 - bias) if value else 1 - bias
        rounded = round(math.ldexp(abs(value), mantissa_bits - exponent))
        bits = min((exponent + bias - 1 << mantissa_bits) + rounded, above)
    return (sign | bits) << (13 if dtype == "tf32" else 0)


def decode(dtype, raw):
    """The value of little-endian bytes."""
    bits = int.from_bytes(raw, "little")
    if dtype not in FLOATS:
        return int.from_bytes(raw, "little", signed=dtype.startswith("i"))
    exponent_bits, mantissa_bits = FLOATS[dtype]
    if dtype == "tf32":
        bits >>= 13
    bias = (1 << exponent_bits - 1) - 1
    sign = -1.0 if bits >> exponent_bits + mantissa_bits else 1.0
    exponent = bits >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = bits & (1 << mantissa_bits) - 1
    if dtype == "e4m3" and bits & 0x7F == 0x7F:
        return math.nan
    if dtype != "e4m3" and exponent == (1 << exponent_bits) - 1:
        return math.nan if mantissa else sign * math.inf
    leading = (1 << mantissa_bits) if exponent else 0
    return sign * math.ldexp(leading + mantissa, max(exponent, 1) - bias - mantissa_bits)


def tolerance(node):
    """Absolute and relative error that is allowed; `Exact` is `None`."""
    if node.name == "Exact":
        return None
    return {"Abs": lambda a: (a, 0.0), "Rel": lambda r: (0.0, r), "AbsRel": lambda a, r: (a, r)}[node.name](*node.values)


def differences(got, want, dtype="u8", allowed=None):
    """Elements that differ by more than allowed: (index, got, want). `want` may be shorter."""
    each, found = BYTES[dtype], []
    for at in range(0, min(len(got), len(want)), each):
        a, b = got[at : at + each], want[at : at + each]
        if a == b:
            continue
        a, b = decode(dtype, a), decode(dtype, b)
        if allowed is not None and not math.isinf(b):
            if a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= allowed[0] + allowed[1] * abs(b):
                continue
        found.append((at // each, a, b))
    return found
