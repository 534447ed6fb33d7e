"""What the Python programs of this folder share: their rows, their clock, their options and their output, which are
those of the Rust programs.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

TRAIN_STEP = [
    ([64, 32, 10], 32),
    ([784, 128, 64, 10], 64),
    ([784, 128, 64, 10], 1024),
    ([1024, 4096, 4096, 1000], 256),
    ([33, 33, 7], 7),
    ([100, 50, 3], 1),
    ([200, 300, 17], 50),
]
PREDICT = [
    *(([784, 128, 64, 10], batch) for batch in (1, 2, 8, 16, 64, 256, 1024)),
    *(([1024, 4096, 4096, 1000], batch) for batch in (1, 16, 64, 1024)),
    ([33, 33, 7], 5),
]
CROSS_ENTROPY = [(1024, 10), (256, 1000), (64, 50257)]
SGD = 10_000_000
EPOCHS = 50
DIGITS = Path(__file__).parents[2] / "examples" / "data" / "digits.csv"

# Short calls are timed in groups that last at least this long, so that reading the clock doesn't count.
SAMPLE = 50e-6
FEWEST = 3


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="rows whose id contains it")
    parser.add_argument("--seconds", type=float, default=0.6, metavar="S", help="time for each row")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads that the library may use")
    return parser.parse_args()


def name(what, sizes, batch):
    return f"{what}/{'-'.join(map(str, sizes))}/{batch}"


def labels_of(rows, classes):
    """The right answers, as a list."""
    return [7 * row % classes for row in range(rows)]


def training(step):
    """A step that returns its loss, and the check that the loss falls."""
    first = step()

    def check():
        last = step()
        assert last < first, f"the loss went from {first} to {last}"

    return step, check


def rows(train_step, predict, loss_and_gradient, sgd):
    """Ids of the rows, each with a function that makes the call to time and its check."""
    for what, cases, make in (("train_step", TRAIN_STEP, train_step), ("predict", PREDICT, predict)):
        for sizes, batch in cases:
            yield name(what, sizes, batch), lambda make=make, size=(sizes, batch): make(*size)
    for batch, classes in CROSS_ENTROPY:
        yield f"cross_entropy/{batch}x{classes}", lambda size=(batch, classes): loss_and_gradient(*size)
    yield f"sgd_momentum/{SGD}", lambda: sgd(SGD)


def digits():
    """Pixels from 0 to 1, and labels: 1,437 rows to train, then 360 to test."""
    rows = [[int(n) for n in line.split(",")] for line in DIGITS.read_text().split()]
    return [[pixel / 16 for pixel in row[:64]] for row in rows], [row[64] for row in rows]


def timing(limit, call):
    """Seconds a call takes: all samples, after a warm-up of a tenth of the time."""
    clock = time.perf_counter
    fastest, began = math.inf, clock()
    while True:
        start = clock()
        call()
        fastest = min(fastest, clock() - start)
        if clock() - began >= limit / 10:
            break
    calls = max(1, int(SAMPLE / fastest))
    samples, began = [], clock()
    while len(samples) < FEWEST or clock() - began < limit:
        start = clock()
        for _ in range(calls):
            call()
        samples.append((clock() - start) / calls)
    return samples


def report(args, peer, version, rows, overhead=(0.0,)):
    """Times each row, checks what it computes, and prints a line for it. `rows` gives ids, and functions that make the
    call to time and its check. `overhead` are samples of a call that does nothing: the median is taken off the median,
    and the fastest off the fastest."""
    for row, make in rows:
        if args.only not in row:
            continue
        call, check = make()
        samples = timing(args.seconds, call)
        check()
        result = {
            "id": row,
            "peer": peer,
            "version": version,
            "threads": args.threads,
            "median_us": round((statistics.median(samples) - statistics.median(overhead)) * 1e6, 3),
            "min_us": round((min(samples) - min(overhead)) * 1e6, 3),
            "n": len(samples),
        }
        print(json.dumps(result, separators=(",", ":")), flush=True)
