#!/usr/bin/env python3
"""Speed of the PTX virtual machine: lane-instructions a second, and a training step on it.

`./x bench-vm` builds and calls this. Each sample runs a launch again and again for the given time in
a process of its own; rounds go through all cases in turn. The figure is the median over rounds, the
spread its minimum and maximum. A rate is by wall-clock; processor time is kept beside it in the
result, since a busy machine stretches the one and not the other. Where `perf` is installed, samples
of the processor say in which part of the machine the time of one thread goes.
"""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

FOREIGN = "runtime/ptx-vm/tests/foreign"
# Kernel → its PTX; the launch is benches/vm/NAME.launch.ron.
KERNELS = {
    "elementwise": {
        "saxpy (clang)": (f"{FOREIGN}/cuda_saxpy.sm_90a.ptx", "saxpy"),
        "activation": ("benches/vm/activation.ptx", "activation"),
        "AdamW (Triton)": (f"{FOREIGN}/triton_adamw.sm_90a.ptx", "adamw"),
    },
    "reduction": {
        "sum of squares": ("benches/vm/sum_of_squares.ptx", "sum_of_squares"),
        "sum and maximum (clang)": (f"{FOREIGN}/cuda_reduce.sm_90a.ptx", "reduce"),
        "softmax (Triton)": (f"{FOREIGN}/triton_softmax.sm_90a.ptx", "softmax"),
    },
}
# Checks and threads → millions of lane-instructions a second that a kernel must reach.
RATES = {("none", 1): 200, ("all", 1): 40, ("none", 2): None}
# Checks → seconds that a training step of k2-nano may take.
STEPS = {"none": 20, "all": None}
# Part of the machine → where its functions live. Loads and stores are inlined into the warps' loop.
PARTS = {
    "arithmetic": r"::(number|matrix|module)\b",
    "checks": r"::check\b",
    "counters": r"::count\b",
    "warps: dispatch, registers, loads and stores": r"::(execute|memory)\b",
}


def main():
    args = arguments()
    kernels = {name: paths for family in KERNELS.values() for name, paths in family.items()}
    rates = {(name, *how): [] for name in kernels for how in RATES}
    steps = {checks: [] for checks in STEPS}
    for round_index in range(args.rounds):
        for (name, checks, threads), samples in rates.items():
            samples.append(rate(args, kernels[name], checks, threads))
            say(f"round {round_index}  {name:<24} checks {checks:<4} {threads} threads {samples[-1]['millions']:8.0f} M/s")
        for checks, samples in steps.items():
            samples.append(step(args, checks))
            say(f"round {round_index}  k2-nano step, checks {checks:<4} {samples[-1]:8.2f} s")
    result = dict(
        machine=measure.machine(),
        command=measure.command_line("bench-vm"),
        rounds=args.rounds,
        seconds=args.seconds,
        rates=[summary(key, samples) for key, samples in rates.items()],
        steps=[dict(checks=c, seconds=measure.spread(s), bar=STEPS[c]) for c, s in steps.items()],
        profile={checks: profile(args, kernels, checks) for checks in ("none", "all")},
    )
    measure.finish(args, "vm", result, page(result))
    missed = [f"{r['kernel']}, checks {r['checks']}" for r in result["rates"] if r["millions"]["median"] < (r["bar"] or 0)]
    missed += [f"k2-nano, checks {s['checks']}" for s in result["steps"] if s["bar"] and s["seconds"]["median"] > s["bar"]]
    if missed:
        sys.exit(f"under the bar: {'; '.join(missed)}")


def arguments():
    parser = measure.options(__doc__, "vm", 5)
    speed = measure.ROOT / "target/release/examples/lane_rate"
    parser.add_argument("--speed", default=str(speed), help="the program that runs launches")
    parser.add_argument("--seconds", type=float, default=1.5, help="how long a sample takes at least")
    parser.add_argument("--steps", type=int, default=3, help="training steps of a sample, the first of which does not count")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def lane_rate(args, paths, checks, threads):
    """The command that runs a launch again and again."""
    ptx, launch = paths
    return [args.speed, ptx, f"benches/vm/{launch}.launch.ron", checks, str(threads), str(args.seconds)]


def rate(args, paths, checks, threads):
    """Millions of lane-instructions a second, by the wall's clock and by the processor's."""
    words = lane_rate(args, paths, checks, threads)
    done = subprocess.run(words, cwd=measure.ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}\n{done.stderr}")
    sample = json.loads(done.stdout)
    busy = sample["processor_seconds"]
    by = lambda seconds: sample["lanes"] / seconds / 1e6  # noqa: E731
    return dict(millions=by(sample["seconds"]), busy_millions=by(busy) if busy else None)


def step(args, checks):
    """Median seconds of a training step on the virtual machine."""
    words = ["--set", "vocab=256", "--device", "ptx-vm", "--checks", checks]
    records = measure.train(args.perilune, "k2-nano", args.steps, *words)
    if isinstance(records, str):
        sys.exit(records)
    return measure.spread([r["seconds"] for r in records if r["kind"] == "step"][1:])["median"]


def summary(key, samples):
    kernel, checks, threads = key
    busy = [s["busy_millions"] for s in samples if s["busy_millions"]]
    return dict(
        kernel=kernel,
        checks=checks,
        threads=threads,
        bar=RATES[checks, threads],
        millions=measure.spread([s["millions"] for s in samples]),
        busy_millions=measure.spread(busy) if busy else None,
    )


def profile(args, kernels, checks):
    """Share of the processor's samples by part of the machine, over all kernels alike; empty without `perf`."""
    found = dict.fromkeys([*PARTS, "the rest"], 0.0)
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        record = ["perf", "record", "-q", "-e", "cpu-clock:u", "-F", "499", "-o", data]
        report = ["perf", "report", "-i", data, "--stdio", "--no-children", "-g", "none", "-F", "overhead,symbol"]
        for paths in kernels.values():
            try:
                subprocess.run([*record, *lane_rate(args, paths, checks, 1)], cwd=measure.ROOT, capture_output=True, check=True)
                lines = subprocess.run(report, capture_output=True, text=True, check=True).stdout
            except (FileNotFoundError, subprocess.CalledProcessError) as error:
                say(f"no profile: {error}")
                return {}
            for share, symbol in re.findall(r"^ *([0-9.]+)% +\[.\] (.*)$", lines, re.M):
                part = next((part for part, where in PARTS.items() if re.search(where, symbol)), "the rest")
                found[part] += float(share)
    return {part: share / sum(found.values()) for part, share in found.items()}


def page(result):
    m = result["machine"]
    about = f"{m['cpu']}, {m['cores']} cores, load {m['load']} after; median of {result['rounds']}; {m['date']}; `{result['command']}`"
    by_key = {(r["kernel"], r["checks"], r["threads"]): r["millions"] for r in result["rates"]}
    rows = []
    for family, kernels in KERNELS.items():
        for kernel in kernels:
            one, checked, two = (by_key[kernel, *how] for how in RATES)
            scale = f"{two['median'] / one['median']:.2f} ×"
            rows.append([family, kernel, measure.shown(one), measure.shown(checked), scale])
    rows.append(["bar", "", *(str(RATES[how] or "") for how in RATES)])
    head = ["", "millions of lane-instructions a second", "checks off (min to max)", "all checks", "2 threads, checks off"]
    lines = [about, "", *measure.table(head, rows), ""]
    rows = [[f"checks {s['checks']}", measure.shown(s["seconds"], ".2f"), str(s["bar"] or "")] for s in result["steps"]]
    lines += measure.table(["a training step of k2-nano", "seconds (min to max)", "bar, s"], rows)
    if all(result["profile"].values()):
        off, on = result["profile"]["none"], result["profile"]["all"]
        rows = [[part, f"{off[part]:.0%}", f"{on[part]:.0%}"] for part in off]
        lines += ["", *measure.table(["where one thread's time goes (`perf`, by function)", "checks off", "all checks"], rows)]
    return lines


if __name__ == "__main__":
    main()
