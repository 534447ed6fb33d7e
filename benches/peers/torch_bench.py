"""PyTorch's rows. Options and output are those of the Rust programs of this package.

    python torch_bench.py --only train_step --threads 1
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

TRAIN_STEP = [
    ([64, 32, 10], 32),
    ([784, 128, 64, 10], 64),
    ([784, 128, 64, 10], 1024),
    ([1024, 4096, 4096, 1000], 256),
    ([33, 33, 7], 7),
    ([100, 50, 3], 1),
    ([200, 300, 17], 50),
]
PREDICT = [([784, 128, 64, 10], 1), ([784, 128, 64, 10], 1024), ([33, 33, 7], 5)]
CROSS_ENTROPY = [(1024, 10), (256, 1000), (64, 50257)]
SGD = 10_000_000
EPOCHS = 50
DIGITS = Path(__file__).parents[2] / "examples" / "data" / "digits.csv"

# Short calls are timed in groups that last at least this long, so that reading the clock doesn't count.
SAMPLE = 50e-6
FEWEST = 3


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


def network(sizes):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, fused=True)


def labels_for(rows, classes):
    return torch.arange(rows) * 7 % classes


def train_step(sizes, batch):
    net, x, labels = network(sizes), torch.randn(batch, sizes[0]), labels_for(batch, sizes[-1])
    optimizer = momentum(net.parameters(), 0.001)

    def step():
        optimizer.zero_grad()
        loss = cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    first = step()

    def check():
        last = step()
        assert last < first, f"the loss went from {first} to {last}"

    return step, check


def predict(sizes, batch):
    net, x = network(sizes).eval(), torch.randn(batch, sizes[0])

    def step():
        with torch.inference_mode():
            return net(x)

    def check():
        assert step().isfinite().all()

    return step, check


def loss_and_gradient(batch, classes):
    z, labels = torch.randn(batch, classes, requires_grad=True), labels_for(batch, classes)

    def step():
        z.grad = None
        loss = cross_entropy(z, labels)
        loss.backward()
        return loss.item()

    def check():
        exact = z.detach().double().requires_grad_()
        cross_entropy(exact, labels).backward()
        step()
        assert torch.allclose(z.grad.double(), exact.grad, rtol=1e-3, atol=1e-9)

    return step, check


def sgd(length):
    parameters = torch.randn(length, requires_grad=True)
    parameters.grad = torch.randn(length)
    optimizer = momentum([parameters], 1e-6)
    before = parameters.detach().clone()

    def check():
        moved = (before - parameters.detach()) * parameters.grad
        assert moved.sum() > 0, "the parameters didn't move against the gradient"

    return optimizer.step, check


def digits(epochs):
    numbers = torch.tensor([[int(n) for n in line.split(",")] for line in DIGITS.read_text().split()])
    x, labels = numbers[:, :64] / 16, numbers[:, 64]
    net = None

    def train():
        nonlocal net
        net = network([64, 32, 10])
        optimizer = momentum(net.parameters(), 0.1)
        for _ in range(epochs):
            for rows in torch.randperm(1437).split(32):
                optimizer.zero_grad()
                cross_entropy(net(x[rows]), labels[rows]).backward()
                optimizer.step()

    def check():
        right = (net(x[1437:]).argmax(1) == labels[1437:]).float().mean()
        assert right > 0.85, f"test accuracy is {right}"

    return train, check


def rows():
    """The id of each row, and what makes the call to time and its check."""
    for what, cases, make in (("train_step", TRAIN_STEP, train_step), ("predict", PREDICT, predict)):
        for sizes, batch in cases:
            name = "-".join(map(str, sizes))
            yield f"{what}/{name}/{batch}", lambda sizes=sizes, batch=batch, make=make: make(sizes, batch)
    for batch, classes in CROSS_ENTROPY:
        yield f"cross_entropy/{batch}x{classes}", lambda size=(batch, classes): loss_and_gradient(*size)
    yield f"sgd_momentum/{SGD}", lambda: sgd(SGD)
    yield f"digits/{EPOCHS}-epochs", lambda: digits(EPOCHS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="rows whose id contains it")
    parser.add_argument("--seconds", type=float, default=0.6, metavar="S", help="time for each row")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads that PyTorch may use")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(1)
    for row, make in rows():
        if args.only not in row:
            continue
        call, check = make()
        samples = timing(args.seconds, call)
        check()
        result = {
            "id": row,
            "peer": "torch",
            "version": torch.__version__.split("+")[0],
            "threads": args.threads,
            "median_us": round(statistics.median(samples) * 1e6, 3),
            "min_us": round(min(samples) * 1e6, 3),
            "n": len(samples),
        }
        print(json.dumps(result, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    main()
