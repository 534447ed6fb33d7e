#!/usr/bin/env python3
"""Times Backrule and its peers in turn, several rounds, and prints one Markdown table.

    python3 compare.py --rounds 5 --threads 1 --only train_step
    python3 compare.py --peer backrule=/elsewhere/backrule --peer candle

Backrule's program has lines of two: of networks, and of networks that are prepared for predictions.
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
OURS, PREPARED = "backrule", "prepared"
RUST = [OURS, "candle", "burn", "dfdx", "rustyml"]
# Programs in Python, each with the module that has to be there.
PYTHON = {"torch": "torch_bench.py", "jax": "jax_bench.py", "onnxruntime": "ort_bench.py"}


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
        "(default: all programs that are built, and the Python libraries that there are)",
    )
    parser.add_argument(
        "--python", default=sys.executable, metavar="PYTHON", help="one that has PyTorch, JAX, onnxruntime"
    )
    parser.add_argument("--raw", metavar="FILE", help="write every result there, as lines of JSON")
    return parser.parse_args()


def commands(args):
    """The command of each implementation, Backrule's first."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")) / "release"
    known = {name: [str(target / name)] for name in RUST if (target / name).is_file()}
    for module, program in PYTHON.items():
        if subprocess.run([args.python, "-c", f"import {module}"], capture_output=True).returncode == 0:
            known[module] = [args.python, str(HERE / program)]
    if not args.peer:
        if not known:
            sys.exit(f"no program is built in {target}, and {args.python} has no library; see README.md")
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
    """All results: id, then implementation, then the number of the round. Each round begins with another program."""
    times, versions = {}, {}
    raw = open(args.raw, "w", encoding="utf-8") if args.raw else None
    names = list(peers)
    for number in range(args.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            print(f"round {number + 1} of {args.rounds}: {name}", file=sys.stderr)
            for result in run(name, peers[name], args):
                # A command of one's own has the name that it was given, and only one program has a second line.
                if result["peer"] == PREPARED and name != OURS:
                    continue
                peer = PREPARED if result["peer"] == PREPARED else name
                versions[peer] = result["version"]
                times.setdefault(result["id"], {}).setdefault(peer, {})[number] = result
                if raw:
                    raw.write(json.dumps({**result, "peer": peer, "round": number + 1}) + "\n")
                    raw.flush()
    if raw:
        raw.close()
    return times, versions


def ratio(row, ours=OURS):
    """The best other implementation's time by ours: the median over the rounds that have both."""
    ratios = []
    for number, own in row.get(ours, {}).items():
        others = [rounds[number]["median_us"] for name, rounds in others_of(row) if number in rounds]
        if others:
            ratios.append(min(others) / own["median_us"])
    return f"{statistics.median(ratios):.2f}" if ratios else "–"


def fastest(row, ours=OURS):
    """The same of each one's fastest sample of all rounds, which neighbors on the machine disturb least."""
    others = [min(result["min_us"] for result in rounds.values()) for _, rounds in others_of(row)]
    own = [result["min_us"] for result in row.get(ours, {}).values()]
    return f"{min(others) / min(own):.2f}" if own and others else "–"


def others_of(row):
    return [(name, rounds) for name, rounds in row.items() if name not in (OURS, PREPARED)]


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
    names, prepared = list(versions), PREPARED in versions
    ratios = ["Backrule against the best other", "fastest samples"]
    if prepared:
        ratios += ["prepared against it", "fastest samples"]
    yield ["row", *(f"{name} {versions[name]}" for name in names), *ratios]
    yield ["---", *("---:" for _ in names + ratios)]
    for row, results in times.items():
        cells = [row, *(duration(results, name) for name in names), ratio(results), fastest(results)]
        yield cells + ([ratio(results, PREPARED), fastest(results, PREPARED)] if prepared else [])


def main():
    args = arguments()
    peers = commands(args)
    times, versions = measure(peers, args)
    versions = {name: versions[name] for name in [OURS, PREPARED, *peers] if name in versions}
    for cells in table(times, versions):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
