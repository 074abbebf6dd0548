"""What the measurements share: their options, the machine, medians with spread, results and PERFORMANCE.md."""

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
# Options that say where things lie here: left out of the command that a reader would repeat.
PLACES = ("--perilune", "--out", "--venv", "--speed")


def options(description, name, rounds):
    """The options that every measurement has; results land in `benches/results/NAME.json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--perilune", default=str(ROOT / "target/release/perilune"), help="the program to measure")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", default=str(ROOT / f"benches/results/{name}.json"))
    parser.add_argument("--update", action="store_true", help="write the table into PERFORMANCE.md")
    return parser


def command_line(command):
    """The command as a reader would repeat it."""
    words, skip = [], False
    for word in sys.argv[1:]:
        if not skip and word not in PLACES:
            words.append(word)
        skip = word in PLACES
    return " ".join(["./x", command, *words])


def cpuinfo(key):
    """What Linux says about each processor under a key."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith(key)]


def machine(**more):
    """This machine and this day; the load is that of the last minute."""
    names = cpuinfo("model name")
    return dict(
        cpu=names[0] if names else platform.machine(),
        cores=os.cpu_count(),
        load=round(os.getloadavg()[0], 1),
        system=platform.platform(terse=True),
        date=datetime.date.today().isoformat(),
        **more,
    )


def spread(values):
    """Median, minimum and maximum."""
    return dict(median=statistics.median(values), min=min(values), max=max(values))


def shown(spread, form=",.0f"):
    """A spread as a cell of a table."""
    return "{} ({} to {})".format(*(format(spread[key], form) for key in ("median", "min", "max")))


def table(head, rows):
    """Lines of a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *rows]]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def finish(args, name, result, lines):
    """Keeps a result, prints its page, and with `--update` writes that between its marks in PERFORMANCE.md."""
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    text = "\n".join(lines)
    print(text)
    if args.update:
        page, (begin, end) = ROOT / "PERFORMANCE.md", (f"<!-- {name}: {side} -->" for side in ("begin", "end"))
        head, rest = page.read_text().split(begin, 1)
        page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


def train(perilune, model, steps, *words):
    """The records of a training run: its `run`, its `step`s and its `end`; or what went wrong, as text."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            perilune, "train", f"models/{model}/train.ron", "--json", "--quiet", "--data", "examples/data/moby-dick.txt",
            "--out", out, "--eval-every", "0", "--checkpoint-every", "0", "--steps", str(steps), *words,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            return (done.stderr or done.stdout)[-400:]
        return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
