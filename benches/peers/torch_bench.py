"""PyTorch's rows. Options and output are those of the Rust programs of this package.

    python torch_bench.py --only train_step --threads 1
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import bench


def network(sizes):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, fused=True)


def labels_for(rows, classes):
    return torch.tensor(bench.labels_of(rows, classes))


def train_step(sizes, batch):
    net, x, labels = network(sizes), torch.randn(batch, sizes[0]), labels_for(batch, sizes[-1])
    optimizer = momentum(net.parameters(), 0.001)

    def step():
        optimizer.zero_grad()
        loss = cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return bench.training(step)


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
    x, labels = map(torch.tensor, bench.digits())
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
    yield from bench.rows(train_step, predict, loss_and_gradient, sgd)
    yield f"digits/{bench.EPOCHS}-epochs", lambda: digits(bench.EPOCHS)


def main():
    args = bench.arguments(__doc__)
    torch.set_num_threads(args.threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(1)
    bench.report(args, "torch", torch.__version__.split("+")[0], rows())


if __name__ == "__main__":
    main()
