#!/usr/bin/env python3
"""How much of the all-to-all's time a schedule hides, and how near predictions come.

`./x bench-overlap` builds and calls this. Two ranks, one thread each, train k2-tiny in two micro-batches
over links with a latency and a bandwidth put on top; a round runs the plan that waits for every
collective at once, finds the machine's rates in its profile, and runs the plan that is scheduled by
them. So the scheduled step's prediction is one; of the other step it is how well the rates fit. Times of
a round are medians and means over its steps; the figure is the median over rounds, the spread its
minimum and maximum.
"""
import json
import subprocess
import sys

import measure

# The part of the exposed time that a schedule must hide, and how far a prediction may be off.
HIDDEN, OFF = 0.8, 0.15
RUNS = ("in order", "scheduled")


def main():
    parser = measure.options(__doc__, "overlap", 5)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--latency-us", type=int, default=500)
    parser.add_argument("--megabytes-per-second", type=int, default=200)
    args = parser.parse_args()
    rounds = []
    for index in range(args.rounds):
        rounds.append(measured(args))
        off = ", ".join(f"{run} {rounds[-1]['runs'][run]['off']:+.1%}" for run in RUNS)
        print(f"round {index}  hidden {rounds[-1]['hidden']:.1%}  prediction off by {off}", file=sys.stderr, flush=True)
    result = dict(machine=measure.machine(), command=measure.command_line("bench-overlap"), rounds=rounds)
    measure.finish(args, "overlap", result, page(result))
    hidden = measure.spread([r["hidden"] for r in rounds])["median"]
    off = max(abs(over(rounds, run, "off")["median"]) for run in RUNS)
    if hidden < HIDDEN or off > OFF:
        sys.exit(f"under the bar: {hidden:.1%} hidden, predictions off by {off:.1%}")


def measured(args):
    """One round."""
    words = ["--steps", args.steps, "--latency-us", args.latency_us, "--megabytes-per-second", args.megabytes_per_second]
    bench = ["cargo", "bench", "--locked", "--quiet", "-p", "perilune", "--bench", "overlap", "--"]
    done = subprocess.run([*bench, *map(str, words)], cwd=measure.ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def over(rounds, run, key):
    return measure.spread([r["runs"][run][key] for r in rounds])


def page(result):
    m, rounds = result["machine"], result["rounds"]
    first = rounds[0]
    about = f"{m['cpu']}, {m['cores']} cores, load {m['load']} after; median of {len(rounds)}; {m['date']}; `{result['command']}`"
    link = f"{first['latency_us']} µs and {first['bytes_per_second'] / 1e6:.0f} MB/s"
    setting = f"{first['spec']} on {first['mesh']}, {first['micro_batches']} micro-batches, links of {link}, {first['steps']} steps a round"
    labels = {
        "step_ms": "a step, ms",
        "predicted_ms": "predicted, ms",
        "compute_ms": "kernels, ms",
        "all_to_all_ms": "all-to-all, ms",
        "exposed_ms": "of it waited for, ms",
        "exposed_all_ms": "all collectives waited for, ms",
    }
    rows = [[label, *(measure.shown(over(rounds, run, key), ",.1f") for run in RUNS)] for key, label in labels.items()]
    off = [measure.spread([100 * r["runs"][run]["off"] for r in rounds]) for run in RUNS]
    rows.append(["prediction off by, % (bar ±15; waited for: fitted)", *(measure.shown(o, "+.1f") for o in off)])
    hidden = measure.spread([100 * r["hidden"] for r in rounds])
    rows.append(["all-to-all hidden, % (bar 80)", "", measure.shown(hidden, ".1f")])
    return [about, "", setting, "", *measure.table(["", "every collective waited for (min to max)", "scheduled"], rows)]


if __name__ == "__main__":
    main()
