"""A launch on a GPU, through NVIDIA's driver as the package `cuda-bindings` (cuda-python) has it.

Imported only where there is a GPU; everything that can be checked without one is in `launch.py`.
"""

import ctypes
import re

from cuda.bindings import driver as cuda
from launch import Map, Pointer

ELEMENTS = {"f64": "FLOAT64", "f32": "FLOAT32", "tf32": "TFLOAT32", "f16": "FLOAT16", "bf16": "BFLOAT16", "i64": "INT64",
            "u64": "UINT64", "i32": "INT32", "u32": "UINT32", "i16": "UINT16", "u16": "UINT16", "i8": "UINT8", "u8": "UINT8",
            "e4m3": "UINT8", "e5m2": "UINT8"}  # fmt: skip
SWIZZLES = {"None": "NONE", "B32": "32B", "B64": "64B", "B128": "128B"}
FILLS = {"Zeros": "NONE", "Nan": "NAN_REQUEST_ZERO_FMA"}
# Clusters of more CTAs than this are not portable; the driver wants to be told.
PORTABLE_CLUSTER = 8


def check(result):
    """What a call of the driver gave, without its status."""
    status, *values = result
    if status != cuda.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver says {status.name}")
    return values[0] if values else None


def attribute(device, name):
    wanted = getattr(cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return check(cuda.cuDeviceGetAttribute(wanted, device))


class Gpu:
    """The first GPU, and its name and compute capability."""

    def __init__(self):
        check(cuda.cuInit(0))
        device = check(cuda.cuDeviceGet(0))
        check(cuda.cuCtxSetCurrent(check(cuda.cuDevicePrimaryCtxRetain(device))))
        self.name = check(cuda.cuDeviceGetName(256, device)).decode().strip("\0")
        self.capability = tuple(attribute(device, f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))

    def takes(self, text):
        """Whether PTX of this `.target` runs here: `sm_90a` on 9.0 alone, `sm_80` on all that came later."""
        digits, only = re.search(r"^\s*\.target\s+sm_(\d+)([af]?)", text, re.M).groups()
        wanted = (int(digits[:-1]), int(digits[-1]))
        return self.capability == wanted if only else self.capability >= wanted

    def run(self, text, launch):
        """Every buffer of a launch after it, by name."""
        module = check(cuda.cuModuleLoadData(text.encode() + b"\0"))
        places = {}
        try:
            for name, content in launch.buffers.items():
                places[name] = check(cuda.cuMemAlloc(max(len(content), 1)))
                if content:
                    check(cuda.cuMemcpyHtoD(places[name], content, len(content)))
            self.start(check(cuda.cuModuleGetFunction(module, launch.entry.encode())), launch, places)
            check(cuda.cuCtxSynchronize())
            return {name: self.read(place, len(launch.buffers[name])) for name, place in places.items()}
        finally:
            for place in places.values():
                cuda.cuMemFree(place)
            cuda.cuModuleUnload(module)

    def read(self, place, size):
        out = bytearray(size)
        if size:
            check(cuda.cuMemcpyDtoH(out, place, size))
        return bytes(out)

    def start(self, function, launch, places):
        kinds = cuda.CUfunction_attribute
        if launch.shared_bytes:
            kind = kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(cuda.cuFuncSetAttribute(function, kind, launch.shared_bytes))
        cluster = launch.cluster or (1, 1, 1)
        if cluster[0] * cluster[1] * cluster[2] > PORTABLE_CLUSTER:
            kind = kinds.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
            check(cuda.cuFuncSetAttribute(function, kind, 1))
        kept = [self.parameter(given, places) for given in launch.params]
        pointers = (ctypes.c_void_p * max(len(kept), 1))(*[address for address, _ in kept])
        check(cuda.cuLaunchKernelEx(configuration(launch), function, ctypes.addressof(pointers), 0))

    def parameter(self, given, places):
        """Address of a parameter's bytes, and what keeps them alive."""
        if isinstance(given, Map):
            encoded = tensor_map(given, places[given.over])
            return int(encoded.getPtr()), encoded
        if isinstance(given, Pointer):
            given = (int(places[given.buffer]) + given.offset).to_bytes(8, "little")
        kept = ctypes.create_string_buffer(given, len(given))
        return ctypes.addressof(kept), kept


def configuration(launch):
    """Extents of a launch as the driver takes them."""
    config = cuda.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
    config.blockDimX, config.blockDimY, config.blockDimZ = launch.block
    config.sharedMemBytes = launch.shared_bytes
    if launch.cluster:
        cluster = cuda.CUlaunchAttribute()
        cluster.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        value = cluster.value
        value.clusterDim.x, value.clusterDim.y, value.clusterDim.z = launch.cluster
        cluster.value = value
        config.attrs, config.numAttrs = [cluster], 1
    return config


def tensor_map(given, place):
    """A tensor map of the driver's making."""
    wide, narrow = cuda.cuuint64_t, cuda.cuuint32_t
    return check(
        cuda.cuTensorMapEncodeTiled(
            getattr(cuda.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{ELEMENTS[given.dtype]}"),
            len(given.dims),
            int(place),
            [wide(extent) for extent in given.dims],
            [wide(stride) for stride in given.strides],
            [narrow(extent) for extent in given.box],
            [narrow(step) for step in given.element_strides],
            cuda.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            getattr(cuda.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{SWIZZLES[given.swizzle]}"),
            cuda.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
            getattr(cuda.CUtensorMapFloatOOBfill, f"CU_TENSOR_MAP_FLOAT_OOB_FILL_{FILLS[given.oob]}"),
        )
    )
