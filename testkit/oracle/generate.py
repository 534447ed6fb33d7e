"""Writes the reference values: what PyTorch computes in float64 for layers, losses, optimizers, schedules and whole runs.

    python3 generate.py SEED --out DIR [OP ...]

Named OPs are written anew, all else in DIR stays; without a name every file is. Numbers and the sizes that an entry
draws depend on SEED and the name of the op alone, so an entry more or less changes no other.
"""

import argparse
import json
import pathlib
import random
import warnings
import zlib

import torch

# They register their entries.
import layers  # noqa: F401
import losses  # noqa: F401
import optimizers  # noqa: F401
import runs  # noqa: F401
import schedules  # noqa: F401
from case import ENTRIES

warnings.filterwarnings("ignore")


def cases(op, entry, seed):
    own_seed = zlib.crc32(f"{seed} {op}".encode())
    torch.manual_seed(own_seed)
    counts = {}
    for case in entry(random.Random(own_seed)):
        name = case.pop("op", op)
        number = counts[name] = counts.get(name, -1) + 1
        yield {"name": f"{name}-{number}", "kind": case.pop("kind"), "op": name, "entry": op, **case}


def main():
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("seed", type=int)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    arguments.add_argument("op", nargs="*")
    arguments = arguments.parse_intermixed_args()
    known = {op for entries in ENTRIES.values() for op in entries}
    if unknown := set(arguments.op) - known:
        raise SystemExit(f"no entry for {', '.join(sorted(unknown))}")

    source = f"PyTorch {torch.__version__.split('+')[0]}, float64, seed {arguments.seed}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    for file, entries in ENTRIES.items():
        path = arguments.out / f"{file}.json"
        if arguments.op and not set(arguments.op) & set(entries):
            continue
        kept = {}
        if arguments.op and path.exists():
            old = json.loads(path.read_text())
            if old["source"] != source:
                raise SystemExit(f"{path} is of {old['source']}, not of {source}")
            for case in old["cases"]:
                kept.setdefault(case["entry"], []).append(case)
        lines = []
        for op, entry in entries.items():
            again = not arguments.op or op in arguments.op
            lines += cases(op, entry, arguments.seed) if again else kept.get(op, [])
        text = ",\n".join(json.dumps(case, separators=(",", ":"), allow_nan=False) for case in lines)
        path.write_text(f'{{"source":{json.dumps(source)},"cases":[\n{text}\n]}}\n')


if __name__ == "__main__":
    main()
