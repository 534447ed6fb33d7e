"""Writes values.txt: functions in 50 digits, to compare testkit/src/exact.rs with.

    python3 values.py >values.txt

A line has the function, the bits of x, the result as the bits of two doubles, whose sum is from 1 to 2 or from −1 to
−2, and the exponent of the two that they are multiplied with. It needs mpmath.
"""

import random
import struct

from mpmath import erf, erfc, exp, floor, log, log1p, mp, mpf, tanh

mp.dps = 60
COUNT = 150


def logistic(x):
    return 1 / (1 + exp(-x))


def bits(x):
    return struct.pack(">d", x).hex()


def near(*points):
    """Points with a few doubles on both sides."""
    for point in points:
        for sign in (1, -1):
            (middle,) = struct.unpack(">q", struct.pack(">d", sign * point))
            for away in (-64, -1, 0, 1, 64):
                yield struct.unpack(">d", struct.pack(">q", middle + away))[0]


def spread(low, high):
    """Evenly between two powers of two, of both signs."""
    for _ in range(COUNT):
        yield random.choice((1, -1)) * 2.0 ** random.uniform(low, high)


def uniform(low, high):
    for _ in range(COUNT):
        yield random.uniform(low, high)


# The function, and where it is neither simple nor out of range.
FUNCTIONS = {
    "exp": (exp, [*near(0.5, 1, 20, 700), *uniform(-750, 709), *spread(-60, 9)]),
    "tanh": (tanh, [*near(0.17, 0.45, 0.55, 1, 19, 1e-100), *uniform(-20, 20), *spread(-400, 5)]),
    "logistic": (logistic, [*near(0.5, 1, 37, 700), *uniform(-750, 750), *spread(-60, 9)]),
    "ln": (log, [*map(abs, near(0.7071, 1, 1.4142, 2)), *uniform(0.4, 2.2), *map(abs, spread(-1074, 1023))]),
    "ln_1p": (log1p, [*near(1e-100, 0.0625, 0.29, 0.4142), *uniform(-1, 1), *map(abs, spread(-900, 1023))]),
    "erf": (erf, [*near(1e-100, 0.25, 0.5, 1, 2, 5.9), *uniform(-6, 6), *spread(-900, 3)]),
    "erfc": (erfc, [*near(0.25, 0.5, 1, 2, 26), *uniform(-6, 27.9), *spread(-60, 3)]),
}


def show(name, f, x):
    y = f(mpf(x))
    if y == 0:
        return
    exponent = int(floor(log(abs(y), 2)))
    y = mp.ldexp(y, -exponent)
    high = float(y)
    print(name, bits(x), bits(high), bits(float(y - high)), exponent)


if __name__ == "__main__":
    random.seed(1)
    print("# By values.py.")
    for name, (f, points) in FUNCTIONS.items():
        for x in points:
            show(name, f, x)
