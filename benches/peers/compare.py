#!/usr/bin/env python3
"""Times Backrule and its peers in turn, several rounds, and prints one Markdown table.

    python3 compare.py --rounds 5 --threads 1 --only train_step
    python3 compare.py --peer backrule=/elsewhere/backrule --peer candle
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
OURS = "backrule"
RUST = [OURS, "candle", "burn", "dfdx", "rustyml"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="how often each one runs (default: 5)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each (default: 1)")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="rows whose id contains it")
    parser.add_argument("--seconds", type=float, default=0.6, metavar="S", help="time for each row (default: 0.6)")
    parser.add_argument(
        "--peer",
        action="append",
        metavar="NAME[=COMMAND]",
        help="only these; COMMAND takes the options --only, --seconds and --threads and prints lines of JSON "
        "(default: all programs that are built, and PyTorch if there is one)",
    )
    parser.add_argument("--torch", default=sys.executable, metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--raw", metavar="FILE", help="write every result there, as lines of JSON")
    return parser.parse_args()


def commands(args):
    """The command of each implementation, Backrule's first."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release"
    known = {name: [str(target / name)] for name in RUST if (target / name).is_file()}
    if subprocess.run([args.torch, "-c", "import torch"], capture_output=True).returncode == 0:
        known["torch"] = [args.torch, str(HERE / "torch_bench.py")]
    if not args.peer:
        if not known:
            sys.exit(f"no program is built in {target}, and {args.torch} has no PyTorch; see README.md")
        return known
    chosen = {}
    for peer in args.peer:
        name, given, command = peer.partition("=")
        if given:
            chosen[name] = shlex.split(command)
        elif name in known:
            chosen[name] = known[name]
        else:
            sys.exit(f"--peer {name}: not among {', '.join(known) or 'none'}, which are what is built in {target}")
    return chosen


def run(name, command, args):
    """The lines of one run. A program that fails keeps the rows that it printed before."""
    options = ["--only", args.only, "--seconds", str(args.seconds), "--threads", str(args.threads)]
    process = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True)
    if process.returncode != 0:
        print(f"{name}: exit code {process.returncode}", file=sys.stderr)
    return [json.loads(line) for line in process.stdout.splitlines()]


def measure(peers, args):
    """All results: id, then name, then the number of the round. Each round begins with another implementation."""
    times, versions = {}, {}
    raw = open(args.raw, "w", encoding="utf-8") if args.raw else None
    names = list(peers)
    for number in range(args.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            print(f"round {number + 1} of {args.rounds}: {name}", file=sys.stderr)
            for result in run(name, peers[name], args):
                versions[name] = result["version"]
                times.setdefault(result["id"], {}).setdefault(name, {})[number] = result
                if raw:
                    raw.write(json.dumps({**result, "peer": name, "round": number + 1}) + "\n")
                    raw.flush()
    if raw:
        raw.close()
    return times, versions


def ratio(row):
    """The best other implementation's time by Backrule's: the median over the rounds that have both."""
    ratios = []
    for number, ours in row.get(OURS, {}).items():
        others = [rounds[number]["median_us"] for name, rounds in row.items() if name != OURS and number in rounds]
        if others:
            ratios.append(min(others) / ours["median_us"])
    return f"{statistics.median(ratios):.2f}" if ratios else "–"


def fastest(row):
    """The same of each one's fastest sample of all rounds, which neighbors on the machine disturb least."""
    best = {name: min(result["min_us"] for result in rounds.values()) for name, rounds in row.items()}
    ours = best.pop(OURS, None)
    return f"{min(best.values()) / ours:.2f}" if ours and best else "–"


def duration(row, name):
    if name not in row:
        return "–"
    microseconds = statistics.median(result["median_us"] for result in row[name].values())
    if microseconds >= 10_000:
        return f"{microseconds / 1000:,.1f} ms"
    if microseconds >= 1000:
        return f"{microseconds / 1000:.2f} ms"
    return f"{microseconds:.{1 if microseconds >= 10 else 2}f} µs"


def table(times, versions):
    names = list(versions)
    yield ["row", *(f"{name} {versions[name]}" for name in names), "Backrule against the best other", "fastest samples"]
    yield ["---", *("---:" for _ in names), "---:", "---:"]
    for row, results in times.items():
        yield [row, *(duration(results, name) for name in names), ratio(results), fastest(results)]


def main():
    args = arguments()
    peers = commands(args)
    times, versions = measure(peers, args)
    versions = {name: versions[name] for name in peers if name in versions}
    for cells in table(times, versions):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
