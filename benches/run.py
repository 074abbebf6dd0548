#!/usr/bin/env python3
"""A training step of k2-tiny and k2-small, Perilune beside transformers + torch, in one run.

`./x bench` builds and calls this. Both sides do the same work: forward, backward, Muon on every
matrix with QK-clip, AdamW on the rest, 1,024 tokens a step, two threads, float32 throughout; where
the processor multiplies bfloat16, torch is measured with Newton–Schulz in bfloat16 as well.
Rounds are interleaved, one process per configuration and round, so that a slow moment of the
machine hits all of them; the figure is the median over rounds, the spread its minimum and maximum.
"""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import measure

ROOT = measure.ROOT
TORCH_PACKAGES = ["torch", "transformers", "safetensors", "numpy"]
SHAPES = {"k2-tiny": (4, 256), "k2-small": (2, 512)}
# Name in the table → arguments of torch/bench_train.py.
TORCH = {
    "torch eager, Muon per matrix": dict(mode="eager", opt="muonclip", ns="f32"),
    "torch eager, Muon stacked": dict(mode="eager", opt="muonclip_stacked", ns="f32"),
    "torch compiled, Muon per matrix": dict(mode="compile", opt="muonclip", ns="f32"),
    "torch compiled, Muon stacked": dict(mode="compile", opt="muonclip_stacked", ns="f32"),
}
# As torch ships Muon, Newton–Schulz in bfloat16: a gain where the processor multiplies bfloat16, and
# ten times slower than float32 where it does not.
TORCH_BF16 = {f"{name}, bf16 Newton–Schulz": dict(settings, ns="bf16") for name, settings in TORCH.items()}
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
OURS = "perilune"
# Torch gains 5 to 10 % when malloc keeps its memory; the peer gets its best.
WARM_MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 33),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
WARM_UP_STEPS = 2


def main():
    args = arguments()
    python = None if args.skip_torch else torch_python(args)
    sides = {} if args.skip_perilune else {OURS: None}
    sides.update({} if args.skip_torch else peers())
    samples = []
    for round_index in range(args.rounds):
        for model in args.models:
            for side, settings in sides.items():
                run = ours(args, model) if settings is None else torch(args, python, model, settings)
                run.update(model=model, side=side, round=round_index)
                samples.append(run)
                print(progress(run), file=sys.stderr, flush=True)
    result = dict(
        machine=measure.machine(threads=args.threads, peer=versions(python)),
        command=measure.command_line("bench"),
        table=[row for row in (summary(samples, m, s) for m in args.models for s in sides) if row],
        samples=samples,
    )
    measure.finish(args, "train", result, page(result))
    failed = [s for s in samples if "error" in s]
    sys.exit(1 if failed else 0)


def peers():
    """Torch's configurations on this processor."""
    return TORCH | TORCH_BF16 if BF16_FLAGS & processor_flags() else TORCH


def processor_flags():
    return {flag for line in measure.cpuinfo("flags") for flag in line.split()}


def arguments():
    parser = measure.options(__doc__, "train", 3)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--steps", type=int, default=12, help="steps a round of ours (torch: at least five)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=60, help="most seconds a round of torch may measure")
    parser.add_argument("--venv", default=os.environ.get("PERILUNE_TORCH_VENV", str(ROOT / "target/torch-venv")))
    parser.add_argument("--skip-torch", action="store_true")
    parser.add_argument("--skip-perilune", action="store_true")
    return parser.parse_args()


def torch_python(args):
    """The interpreter of the venv with torch, made when missing."""
    python = Path(args.venv) / "bin/python"
    if subprocess.run([python, "-c", "import torch, transformers"], capture_output=True).returncode if python.exists() else True:
        print(f"installing {', '.join(TORCH_PACKAGES)} into {args.venv}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", args.venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *TORCH_PACKAGES], check=True)
    return str(python)


def ours(args, model):
    batch, seq = SHAPES[model]
    records = measure.train(args.perilune, model, args.steps + WARM_UP_STEPS, "--threads", str(args.threads))
    if isinstance(records, str):
        return dict(error=records)
    run = next(r for r in records if r["kind"] == "run")
    end = next(r for r in records if r["kind"] == "end")
    if run["tokens_per_step"] != batch * seq:
        return dict(error=f"{model} trains on {run['tokens_per_step']} tokens a step, not {batch * seq}")
    seconds = [r["seconds"] for r in records if r["kind"] == "step"][WARM_UP_STEPS:]
    median = statistics.median(seconds)
    return dict(
        median_s=median,
        tokens_per_s=batch * seq / median,
        peak_mib=end["peak_rss_bytes"] / 2**20,
        first_call_s=run["compile_seconds"],
    )


def torch(args, python, model, settings):
    batch, seq = SHAPES[model]
    options = dict(settings, model=model, B=batch, T=seq, threads=args.threads, attn="smax", experts="grouped_mm",
                   what="train", max_time=args.seconds)  # fmt: skip
    script = ROOT / "benches/torch/bench_train.py"
    command = [python, str(script)] + [word for k, v in options.items() for word in ("--" + k, str(v))]
    env = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(Path(args.venv) / "inductor-cache"), **WARM_MALLOC)
    done = subprocess.run(command, cwd=script.parent, env=env, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return dict(error=done.stderr[-400:])
    r = json.loads(lines[-1])
    return dict(
        median_s=r["median_s"],
        tokens_per_s=r["tokens_per_s"],
        peak_mib=r["peak_rss_mb"],
        first_call_s=r["first_call_s"],
        quiet=r["quiet"],
    )


def progress(run):
    head = f"round {run['round']}  {run['model']:<9} {run['side']:<32}"
    if "error" in run:
        return f"{head} failed: {run['error'].strip()}"
    return f"{head} {run['tokens_per_s']:8.0f} tokens/s  {run['median_s'] * 1e3:7.0f} ms  {run['peak_mib']:6.0f} MiB"


def summary(samples, model, side):
    good = [s for s in samples if s["model"] == model and s["side"] == side and "error" not in s]
    if not good:
        return None
    return dict(
        model=model,
        side=side,
        rounds=len(good),
        tokens_per_s=measure.spread([s["tokens_per_s"] for s in good]),
        peak_mib=max(s["peak_mib"] for s in good),
        first_call_s=statistics.median(s["first_call_s"] for s in good),
    )


def versions(python):
    """Versions of what we are compared with."""
    if not python:
        return ""
    code = "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__)"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def page(result):
    m = result["machine"]
    rows = []
    for row in result["table"]:
        peers = [r["tokens_per_s"] for r in result["table"] if r["model"] == row["model"] and r["side"] != OURS]
        rate, best = row["tokens_per_s"], max((p["median"] for p in peers), default=None)
        ratio = f"{rate['median'] / best:.2f} ×" if best else ""
        memory, first = f"{row['peak_mib']:,.0f}", f"{row['first_call_s']:.1f}"
        rows.append([row["model"], row["side"], measure.shown(rate), ratio, memory, first])
    head = ["model", "side", "tokens/s (min to max)", "against best torch", "peak memory, MiB", "first step, s"]
    about = f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads; {m['peer'] or 'no peer'}; {m['date']}; `{result['command']}`"
    return [about, "", *measure.table(head, rows)]


if __name__ == "__main__":
    main()
