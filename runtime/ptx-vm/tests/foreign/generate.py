"""Regenerates every fixture of this folder from `src/`: PTX, launches, inputs, expected results.

Usage: python generate.py [NAME...]   (see README.md for the tools and their versions)
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# Set before Triton is imported: results must not depend on the caller's environment.
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"
os.environ.setdefault("TRITON_CACHE_DIR", tempfile.mkdtemp(prefix="triton-cache-"))

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "src"))

import triton  # noqa: E402
from fixture import Buffer, CudaFixture, Scalar, TensorMap, TritonFixture, Writer  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

PTX_VERSION = 86
CLANG = os.environ.get("CLANG", "clang-22")


def ptxas() -> str:
    import nvidia.cuda_nvcc

    return str(Path(list(nvidia.cuda_nvcc.__path__)[0]) / "bin" / "ptxas")


def all_fixtures():
    for kind in ("triton", "cuda"):
        for path in sorted((HERE / "src" / kind).glob("*.py")):
            # By path, since a module `triton.x` would belong to the installed package.
            spec = importlib.util.spec_from_file_location(f"{kind}_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            yield from module.fixtures()


def compile_triton(f: TritonFixture, target: str):
    """PTX and metadata of a Triton kernel; without `lines`, no line tables."""
    triton.knobs.compilation.disable_line_info = not f.lines
    capability = int(re.search(r"\d+", target).group())
    signature, constants = {}, {}
    for name, kind in f.signature.items():
        if isinstance(kind, tuple):
            signature[name], constants[name] = kind
        else:
            signature[name] = kind
    order = list(f.signature)
    attrs = {(order.index(n),): [["tt.divisibility", 16]] for n in f.aligned}
    source = ASTSource(fn=f.kernel, signature=signature, constexprs=constants, attrs=attrs)
    options = {"num_warps": 4, "num_stages": 2, "ptx_version": PTX_VERSION} | f.options
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return compiled.asm["ptx"], compiled.metadata


def without_debug_sections(text: str) -> str:
    """Keeps `.loc`, `.file` and the names of inlined functions, drops the other sections."""
    text = re.sub(r"\n\t\.section\s+\.debug_(?!str)\w+\s*\{.*?\n?\t?\}", "", text, flags=re.S)
    installed = str(Path(triton.__file__).parent.parent)
    return text.replace(str(HERE) + "/", "").replace(installed + "/", "")


def write_triton(f: TritonFixture, target: str, writer: Writer):
    text, meta = compile_triton(f, target)
    path = HERE / f"{f.name}.{target}.ptx"
    path.write_text(without_debug_sections(text))
    launch = f.launch
    ctas = launch.grid[0] * launch.grid[1] * launch.grid[2]
    # The hidden parameters that Triton appends: scratch memory of the kernel and of its profiler.
    scratch = meta.global_scratch_size * ctas * meta.num_ctas
    hidden = Buffer("scratch", "Uninit", scratch) if scratch else Scalar("U64", 0)
    assert meta.profile_scratch_size == 0
    check_descriptors(f, meta)
    block = (32 * warps_of(text, meta.num_warps), 1, 1)
    # One program is a cluster of `num_ctas` CTAs, laid along x.
    grid = (launch.grid[0] * meta.num_ctas, *launch.grid[1:])
    full = type(launch)(
        grid=grid,
        params=[*launch.params, hidden, Scalar("U64", 0)],
        expect=launch.expect,
        block=block,
        cluster=(meta.num_ctas, 1, 1),
    )
    writer.launch(f.name, target, meta.name, full, meta.shared)
    return path


def check_descriptors(f: TritonFixture, meta):
    """The host descriptors of the launch are what Triton's launcher would make."""
    swizzles = ["None", "B32", "B64", "B128"]
    maps = [p for p in f.launch.params if isinstance(p, TensorMap)]
    assert len(maps) == len(meta.tensordesc_meta)
    for p, wanted in zip(maps, meta.tensordesc_meta):
        assert p.swizzle == swizzles[wanted["swizzle"]], (p, wanted)
        assert p.box == list(reversed(wanted["block_size"])), (p, wanted)


def warps_of(text: str, num_warps: int) -> int:
    """Warps of a CTA; warp-specialised kernels have more than they were asked for."""
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", text)
    return int(threads.group(1)) // 32 if threads else num_warps


def write_cuda(f: CudaFixture, target: str, writer: Writer):
    path = HERE / f"{f.name}.{target}.ptx"
    command = [CLANG, "-x", "cuda", "--cuda-device-only", "-nocudainc", "-nocudalib"]
    command += [f"--cuda-gpu-arch={target}", f"--cuda-feature=+ptx{PTX_VERSION}", "-std=c++20"]
    command += ["-O2", "-fwrapv", "-Wall", "-Werror", "-fdebug-compilation-dir=.", *f.flags]
    command += ["-S", "-o", str(path), f"{f.source}.cu"]
    subprocess.run(command, check=True, cwd=HERE / "src" / "cuda")
    writer.launch(f.name, target, f.entry, f.launch, f.launch.shared_bytes)
    return path


def assemble(path: Path):
    """Every fixture is valid PTX: ptxas takes it for its own target."""
    target = re.search(r"^\.target (\w+)", path.read_text(), re.M).group(1)
    command = [ptxas(), f"-arch={target}", str(path), "-o", os.devnull]
    subprocess.run(command, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only these fixtures (default: all)")
    wanted = parser.parse_args().names
    writer = Writer(HERE)
    fixtures = [f for f in all_fixtures() if not wanted or f.name in wanted]
    for f in fixtures:
        for target in f.targets:
            write = write_triton if isinstance(f, TritonFixture) else write_cuda
            path = write(f, target, writer)
            assemble(path)
            print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
