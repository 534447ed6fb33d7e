"""Prints the coefficients of crates/tensor/src/kernels/double.rs, and how far each polynomial is from its function.

    python3 coefficients.py

Each polynomial goes through its function at Chebyshev's nodes, in 50 digits; its coefficients are then rounded to
doubles. It needs mpmath.
"""

from mpmath import cos, erf, erfc, exp, log, mp, mpf, pi, polyval, sqrt

mp.dps = 50
POINTS = 1000


def through(f, low, high, n):
    """The n coefficients, the constant one first, of the polynomial through f at n of Chebyshev's nodes."""
    x = nodes(low, high, n)
    differences = [f(x) for x in x]
    for j in range(1, n):
        for i in range(n - 1, j - 1, -1):
            differences[i] = (differences[i] - differences[i - 1]) / (x[i] - x[i - j])
    c = [differences[-1]]
    for i in range(n - 2, -1, -1):
        # c ← c (t − xᵢ) + difference
        c = [below - x[i] * own for below, own in zip([mpf(0), *c], [*c, mpf(0)], strict=True)]
        c[0] += differences[i]
    return c


def nodes(low, high, n):
    low, high = mpf(low), mpf(high)
    return [(low + high) / 2 + (high - low) / 2 * cos(pi * (2 * i + 1) / (2 * n)) for i in range(n)]


def show(name, f, low, high, n, weight):
    c = [float(c) for c in through(f, low, high, n)]
    worst = max(abs((f(t) - polyval(c[::-1], t)) * weight(t)) for t in nodes(low, high, POINTS))
    print(f"const {name}: [f64; {n}] = [")
    for c in c:
        print(f"    {c!r},")
    print(f"];  // 2^{float(log(worst, 2)):.1f}\n")


def exponential(r):
    """(eʳ − 1 − r) / r²"""
    return (exp(r) - 1 - r) / r**2 if abs(r) > mpf(10) ** -15 else mpf(1) / 2 + r / 6


def mills(v):
    """(a + 3) Φ(−a) exp(a²/2) for v = 1 / (a + 3) − 3/16"""
    w = v + mpf(3) / 16
    a = 1 / w - 3
    return exp(a * a / 2) * erfc(a / sqrt(2)) / 2 / w


def error_function(s):
    """erf x / x − 1 for s = x²"""
    return erf(sqrt(s)) / sqrt(s) - 1 if s > mpf(10) ** -30 else 2 / sqrt(pi) - 1


def tail(v):
    """ln (x erfc x) + x² + 3/4 for v = 1 / (x + 1) − 5/16"""
    x = 1 / (v + mpf(5) / 16) - 1
    return log(x * erfc(x)) + x * x + mpf(3) / 4


if __name__ == "__main__":
    half = log(2) / 2 * mpf("1.0001")
    # Where erfc x is ¼, and s = x².
    least = mpf(13) / 16
    show("Q", exponential, -half, half, 11, lambda r: r * r / exp(r))
    show("Q_SINGLE", exponential, -half, half, 6, lambda r: r * r / exp(r))
    show("MILLS", mills, mpf(1) / 18 - mpf(3) / 16, mpf(1) / 3 - mpf(3) / 16, 11, lambda v: 1 / mills(v))
    show("ERF", error_function, 0, least**2, 11, lambda s: 1 / (1 + error_function(s)))
    show("TAIL", tail, mpf(1) / 29 - mpf(5) / 16, 1 / (1 + least) - mpf(5) / 16, 26, lambda v: 1)
