#!/usr/bin/env python3
"""How long `perilune check` and compilation to a plan take, and how much memory, each cold.

`./x bench-compile` builds and calls this. Every sample is a process of its own with nothing kept
between them; time is wall-clock from start to exit, beside it the processor time, which a busy machine
does not stretch as much; memory is the largest resident set. The figure is the median over rounds,
the spread its minimum and maximum; rounds go through all cases in turn, so that a slow moment of the
machine hits all of them.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
K2 = "models/kimi-k2/train.ron"
ONE_LAYER = ["--set", "n_layers=1", "--set", "first_k_dense=0"]
# What → arguments, and how long and how large it may be (seconds, MiB).
CASES = {
    "k2-nano, check": (["check", "models/k2-nano/train.ron"], None, None),
    "k2-nano, to plan": (["build", "models/k2-nano/train.ron"], 1, None),
    "one layer of Kimi-K2, to plan": (["build", K2, *ONE_LAYER], 2, None),
    "Kimi-K2, check": (["check", K2], 1, None),
    "Kimi-K2, to plan": (["build", K2], 10, 4096),
}


def main():
    args = arguments()
    samples = {what: [] for what in CASES}
    for round_index in range(args.rounds):
        for what, (command, _, _) in CASES.items():
            samples[what].append(run(args, command))
            seconds, busy, mib = samples[what][-1]
            line = f"round {round_index}  {what:<32} {seconds:7.3f} s  {busy:7.3f} s busy  {mib:6.0f} MiB"
            print(line, file=sys.stderr, flush=True)
    table = [summary(what, samples[what]) for what in CASES]
    result = dict(machine=machine(), command=command_line(), rounds=args.rounds, table=table)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    text = page(result)
    print(text)
    if args.update:
        write_page(text, ROOT / "PERFORMANCE.md")
    missed = [row["what"] for row in table if not row["ok"]]
    if missed:
        sys.exit(f"over the bar: {', '.join(missed)}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perilune", default=str(ROOT / "target/release/perilune"), help="the program to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=str(ROOT / "benches/results/compile.json"))
    parser.add_argument("--update", action="store_true", help="write the table into PERFORMANCE.md")
    return parser.parse_args()


def command_line():
    """The command as a reader would repeat it."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if word in ("--perilune", "--out"):
            skip = True
        elif skip:
            skip = False
        else:
            words.append(word)
    return ["./x", "bench-compile", *words]


def run(args, command):
    """Seconds, processor seconds and MiB of one process."""
    with tempfile.TemporaryDirectory() as folder:
        plan = ["--emit", "plan", "--output", f"{folder}/plan"] if command[0] == "build" else []
        words = [args.perilune, *command, *plan, "--quiet"]
        begin = time.monotonic()
        child = os.posix_spawn(
            args.perilune, words, os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )  # fmt: skip
        _, status, usage = os.wait4(child, 0)
        seconds = time.monotonic() - begin
    if status:
        sys.exit(f"`{' '.join(words)}` failed")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def summary(what, runs):
    seconds, busy, mib = (sorted(column) for column in zip(*runs))
    _, most_seconds, most_mib = CASES[what]
    row = dict(
        what=what,
        seconds=statistics.median(seconds),
        seconds_min=seconds[0],
        seconds_max=seconds[-1],
        processor_seconds=statistics.median(busy),
        peak_mib=mib[-1],
        bar_seconds=most_seconds,
        bar_mib=most_mib,
    )
    row["ok"] = row["seconds"] <= (most_seconds or float("inf")) and row["peak_mib"] <= (most_mib or float("inf"))
    return row


def machine():
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    load = os.getloadavg()[0]
    return dict(
        cpu=names[0] if names else platform.machine(),
        cores=os.cpu_count(),
        load=round(load, 1),
        system=platform.platform(terse=True),
        date=datetime.date.today().isoformat(),
    )


def page(result):
    m = result["machine"]
    lines = [
        f"{m['cpu']}, {m['cores']} cores, load {m['load']} after; median of {result['rounds']}; {m['date']}; `{' '.join(result['command'])}`",
        "",
        "| cold | seconds (min to max) | bar, s | processor, s | peak memory, MiB | bar, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["table"]:
        spread = f"{row['seconds']:.2f} ({row['seconds_min']:.2f} to {row['seconds_max']:.2f})"
        bars = [f"{row[key]:,}" if row[key] else "" for key in ("bar_seconds", "bar_mib")]
        lines.append(f"| {row['what']} | {spread} | {bars[0]} | {row['processor_seconds']:.2f} | {row['peak_mib']:,.0f} | {bars[1]} |")
    return "\n".join(lines)


def write_page(text, path):
    begin, end = "<!-- compile: begin -->", "<!-- compile: end -->"
    old = path.read_text()
    head, rest = old.split(begin, 1)
    tail = rest.split(end, 1)[1]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


if __name__ == "__main__":
    main()
