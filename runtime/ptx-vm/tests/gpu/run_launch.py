#!/usr/bin/env python3
"""Runs PTX on a GPU and compares every buffer with what the virtual machine leaves in it.

    python run_launch.py KERNEL.ptx --launch LAUNCH.ron
    python run_launch.py --all FOLDER

`--all` takes every `NAME.ptx` that has a `NAME.launch.ron` beside it, each in a process of its own,
since a kernel that fails takes its context with it. A buffer that the launch expects something of
may differ from the machine's as much as it may from that; every other one must be equal.

Two things need no GPU: `--dry-run` prints what would be launched as JSON, and with `--write DIR`
leaves the first content of each buffer there; `--side expect` compares the machine's buffers with
what the launches expect, not with a GPU's.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import launch as launches

TIMEOUT_SECONDS = 120


def main():
    args = arguments()
    files = [args.file]
    if args.all:
        files = [path for path in sorted(args.all.glob("*.ptx")) if path.with_suffix(".launch.ron").exists()]
    if args.dry_run:
        for file in files:
            show(args, file)
        return
    alone = args.side == "gpu" and args.all
    wrong = sum(not (in_a_process(args, file) if alone else agrees(args, file)) for file in files)
    print(f"{len(files) - wrong} of {len(files)} launches agree", file=sys.stderr)
    sys.exit(1 if wrong else 0)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="KERNEL.ptx")
    parser.add_argument("--launch", type=Path, metavar="LAUNCH.ron", help="KERNEL.launch.ron without it")
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    parser.add_argument("--perilune", default="perilune", help="the program whose virtual machine is compared with")
    parser.add_argument("--side", choices=("gpu", "expect"), default="gpu", help="what the machine is compared with")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--write", type=Path, metavar="DIR")
    args = parser.parse_args()
    if bool(args.file) == bool(args.all):
        parser.error("give either a file or --all FOLDER")
    return args


def beside(args, file):
    return args.launch or file.with_suffix(".launch.ron")


def show(args, file):
    """Prints a launch: extents, sizes of buffers, parameters as bytes or as what they point to."""
    launch = launches.read(beside(args, file))

    def parameter(given):
        return given.hex() if isinstance(given, bytes) else {type(given).__name__.lower(): vars(given)}

    shown = dict(
        entry=launch.entry,
        grid=launch.grid,
        block=launch.block,
        cluster=launch.cluster,
        shared_bytes=launch.shared_bytes,
        buffers={name: len(content) for name, content in launch.buffers.items()},
        params=[parameter(given) for given in launch.params],
    )
    print(json.dumps(shown))
    if args.write:
        folder = args.write / file.stem
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in launch.buffers.items():
            (folder / name).write_bytes(content)


def in_a_process(args, file):
    """Whether a launch agrees, found out by a process that ends with its kernel."""
    command = [sys.executable, __file__, str(file), "--perilune", args.perilune]
    try:
        return subprocess.run(command, timeout=TIMEOUT_SECONDS, stderr=subprocess.DEVNULL).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"{file}: no end after {TIMEOUT_SECONDS} s")
        return False


def agrees(args, file):
    """Whether the buffers of both sides agree; prints where they do not."""
    launch = launches.read(beside(args, file))
    if args.side == "expect":
        theirs = {e.buffer: e.want for e in launch.expect}
    else:
        from device import Gpu

        gpu, text = Gpu(), file.read_text()
        if not gpu.takes(text):
            print(f"{file}: skipped, its target is not for {gpu.name}")
            return True
        theirs = gpu.run(text, launch)
    ours = machine(args, file, theirs)
    expected = {e.buffer: (e.dtype, e.tolerance) for e in launch.expect}
    good = True
    for name in theirs:
        wrong = launches.differences(ours[name], theirs[name], *expected.get(name, ("u8", None)))
        if wrong:
            (at, a, b), good = wrong[0], False
            print(f"{file}: `{name}` differs in {len(wrong)} elements, first [{at}]: {a} in the machine, {b} there")
    return good


def machine(args, file, names):
    """Buffers as the virtual machine leaves them."""
    with tempfile.TemporaryDirectory() as folder:
        command = [args.perilune, "vm", str(file), "--launch", str(beside(args, file)), "--check", "none", "--quiet"]
        for name in names:
            command += ["--dump", f"{name}={folder}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        found = {name: Path(folder) / name for name in names}
        if not all(path.exists() for path in found.values()):
            sys.exit(f"{' '.join(command)}\n{done.stderr}{done.stdout}")
        return {name: path.read_bytes() for name, path in found.items()}


if __name__ == "__main__":
    main()
