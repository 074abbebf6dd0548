#!/usr/bin/env python3
"""How long `perilune check` and compilation to a plan take, and how much memory, each cold.

`./x bench-compile` builds and calls this. Every sample is a process of its own with nothing kept
between them; time is wall-clock from start to exit, beside it the processor time, which a busy machine
does not stretch as much; memory is the largest resident set. The figure is the median over rounds,
the spread its minimum and maximum; rounds go through all cases in turn, so that a slow moment of the
machine hits all of them.
"""
import os
import sys
import tempfile
import time

import measure

K2 = "models/kimi-k2/train.ron"
RANKS = ["--mesh", "dp=8,ep=16", "--set", "batch=128"]
ONE_LAYER = ["--set", "n_layers=1", "--set", "first_k_dense=0"]
# What → arguments, and how long and how large it may be (seconds, MiB).
CASES = {
    "k2-nano, check": (["check", "models/k2-nano/train.ron"], None, None),
    "k2-nano, to plan": (["build", "models/k2-nano/train.ron"], 1, None),
    "one layer of Kimi-K2, to plan": (["build", K2, *ONE_LAYER], 2, None),
    "Kimi-K2, check": (["check", K2], 1, None),
    "Kimi-K2, to plan": (["build", K2], 10, 4096),
    "Kimi-K2 on 128 ranks, to plan": (["build", K2, *RANKS], 30, 4096),
    "Kimi-K2 on 128 ranks, explained": (["explain", "collectives", "--spec", K2, *RANKS], 30, 4096),
}


def main():
    args = measure.options(__doc__, "compile", 5).parse_args()
    samples = {what: [] for what in CASES}
    for round_index in range(args.rounds):
        for what, (command, _, _) in CASES.items():
            samples[what].append(run(args, command))
            seconds, busy, mib = samples[what][-1]
            line = f"round {round_index}  {what:<32} {seconds:7.3f} s  {busy:7.3f} s busy  {mib:6.0f} MiB"
            print(line, file=sys.stderr, flush=True)
    rows = [summary(what, samples[what]) for what in CASES]
    result = dict(
        machine=measure.machine(), command=measure.command_line("bench-compile"), rounds=args.rounds, table=rows
    )
    measure.finish(args, "compile", result, page(result))
    missed = [row["what"] for row in rows if not row["ok"]]
    if missed:
        sys.exit(f"over the bar: {', '.join(missed)}")


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
    seconds, busy, mib = map(measure.spread, zip(*runs))
    _, most_seconds, most_mib = CASES[what]
    return dict(
        what=what,
        seconds=seconds,
        processor_seconds=busy,
        mib=mib,
        bar_seconds=most_seconds,
        bar_mib=most_mib,
        ok=seconds["median"] <= (most_seconds or float("inf")) and mib["max"] <= (most_mib or float("inf")),
    )


def page(result):
    m = result["machine"]
    rows = []
    for row in result["table"]:
        bars = [f"{row[key]:,}" if row[key] else "" for key in ("bar_seconds", "bar_mib")]
        busy, mib = f"{row['processor_seconds']['median']:.2f}", f"{row['mib']['max']:,.0f}"
        rows.append([row["what"], measure.shown(row["seconds"], ".2f"), bars[0], busy, mib, bars[1]])
    head = ["cold", "seconds (min to max)", "bar, s", "processor, s", "peak memory, MiB", "bar, MiB"]
    about = f"{m['cpu']}, {m['cores']} cores, load {m['load']} after; median of {result['rounds']}; {m['date']}; `{result['command']}`"
    return [about, "", *measure.table(head, rows)]


if __name__ == "__main__":
    main()
