#!/usr/bin/env python3
"""A training step of k2-tiny and k2-small, Perilune beside transformers + torch, in one run.

`./x bench` builds and calls this. Both sides do the same work: forward, backward, Muon on every
matrix with QK-clip, AdamW on the rest, 1,024 tokens a step, two threads, float32 throughout; where
the processor multiplies bfloat16, torch is measured with Newton–Schulz in bfloat16 as well.
Rounds are interleaved, one process per configuration and round, so that a slow moment of the
machine hits all of them; the figure is the median over rounds, the spread its minimum and maximum.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
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
        machine=machine(args, python),
        command=command_line(),
        table=[row for row in (summary(samples, m, s) for m in args.models for s in sides) if row],
        samples=samples,
    )
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    text = table(result)
    print(text)
    if args.update:
        write_page(text, ROOT / "PERFORMANCE.md")
    failed = [s for s in samples if "error" in s]
    sys.exit(1 if failed else 0)


def peers():
    """Torch's configurations on this processor."""
    return TORCH | TORCH_BF16 if BF16_FLAGS & processor_flags() else TORCH


def processor_flags():
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return {flag for line in info.splitlines() if line.startswith("flags") for flag in line.split(":", 1)[1].split()}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perilune", default=str(ROOT / "target/release/perilune"), help="the program to measure")
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="steps a round of ours (torch: at least five)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=60, help="most seconds a round of torch may measure")
    parser.add_argument("--venv", default=os.environ.get("PERILUNE_TORCH_VENV", str(ROOT / "target/torch-venv")))
    parser.add_argument("--out", default=str(ROOT / "benches/results/train.json"))
    parser.add_argument("--update", action="store_true", help="write the table into PERFORMANCE.md")
    parser.add_argument("--skip-torch", action="store_true")
    parser.add_argument("--skip-perilune", action="store_true")
    return parser.parse_args()


def command_line():
    """The command as a reader would repeat it."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if word in ("--perilune", "--venv", "--out"):
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)
    return ["./x", "bench", *words]


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
    with tempfile.TemporaryDirectory() as out:
        command = [
            args.perilune, "train", f"models/{model}/train.ron", "--json", "--quiet",
            "--data", "examples/data/moby-dick.txt", "--out", out, "--eval-every", "0",
            "--checkpoint-every", "0",
            "--steps", str(args.steps + WARM_UP_STEPS), "--threads", str(args.threads),
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return dict(error=(done.stderr or done.stdout)[-400:])
        records = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
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
    rates = sorted(s["tokens_per_s"] for s in good)
    return dict(
        model=model,
        side=side,
        rounds=len(good),
        tokens_per_s=statistics.median(rates),
        tokens_per_s_min=rates[0],
        tokens_per_s_max=rates[-1],
        peak_mib=max(s["peak_mib"] for s in good),
        first_call_s=statistics.median(s["first_call_s"] for s in good),
    )


def machine(args, python):
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    versions = ""
    if python:
        code = "import torch, transformers; print('torch', torch.__version__, 'transformers', transformers.__version__)"
        versions = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
    return dict(
        cpu=names[0] if names else platform.machine(),
        cores=os.cpu_count(),
        threads=args.threads,
        system=platform.platform(terse=True),
        peer=versions,
        date=datetime.date.today().isoformat(),
    )


def table(result):
    m = result["machine"]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, {m['threads']} threads; {m['peer'] or 'no peer'}; {m['date']}; `{' '.join(result['command'])}`",
        "",
        "| model | side | tokens/s (min to max) | against best torch | peak memory, MiB | first step, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["table"]:
        peers = [r["tokens_per_s"] for r in result["table"] if r["model"] == row["model"] and r["side"] != OURS]
        ratio = f"{row['tokens_per_s'] / max(peers):.2f} ×" if peers else ""
        spread = f"{row['tokens_per_s']:,.0f} ({row['tokens_per_s_min']:,.0f} to {row['tokens_per_s_max']:,.0f})"
        lines.append(
            f"| {row['model']} | {row['side']} | {spread} | {ratio} | {row['peak_mib']:,.0f} | {row['first_call_s']:.1f} |"
        )
    return "\n".join(lines)


def write_page(text, page):
    begin, end = "<!-- train: begin -->", "<!-- train: end -->"
    old = page.read_text()
    head, rest = old.split(begin, 1)
    tail = rest.split(end, 1)[1]
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


if __name__ == "__main__":
    main()
