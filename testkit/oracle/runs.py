"""Whole runs, one entry each: the network's start, every batch, the loss before each step, the network at the end."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from case import entry, leaf, number, tensor, tensors


def state(net):
    return tensors({name: x for name, x in net.state_dict().items() if x.is_floating_point()})


def run(net, loss, batches, make, clip=None, evaluated=None, **options):
    """`loss(net, *batch)`. Afterwards `evaluated` goes through the network once more."""
    with torch.no_grad():
        for x in net.parameters():
            x.copy_(torch.randn_like(x) * (0.4 if x.dim() > 1 else 0.1))
    case = {
        "kind": "trajectory",
        "options": options | {"clip_norm": clip},
        "start": state(net),
        "batches": [],
        "losses": [],
    }
    optimizer = make(net.parameters())
    for batch in batches:
        value = loss(net, *batch)
        optimizer.zero_grad()
        value.backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        case["losses"].append(number(value.detach()))
        case["batches"].append([tensor(x) for x in batch])
    net.eval()
    output = (
        {"eval_input": tensor(evaluated), "eval_output": tensor(net(evaluated))}
        if evaluated is not None
        else {}
    )
    return case | {"final": state(net)} | output


def perceptron(op, loss, target):
    """20 steps of a 6-5-4-3 ReLU network; `start` and `final` are lists of [weight, bias]."""

    def cases(rng):
        sizes, rates = [6, 5, 4, 3], {"lr": 0.1, "momentum": 0.9}
        layers = [(leaf(o, i, scale=0.5), leaf(o, scale=0.1)) for i, o in zip(sizes, sizes[1:])]
        pairs = lambda: [[tensor(weight), tensor(bias)] for weight, bias in layers]
        options = {"sizes": sizes, "activation": "relu"} | rates
        case = {"kind": "trajectory", "options": options, "start": pairs(), "batches": [], "losses": []}
        optimizer = torch.optim.SGD([x for layer in layers for x in layer], **rates)
        for _ in range(20):
            x, y = torch.randn(8, 6), target()
            h = x
            for i, layer in enumerate(layers):
                h = F.linear(F.relu(h) if i else h, *layer)
            value = loss(h, y)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            case["batches"].append({"input": tensor(x), "target": tensor(y)})
            case["losses"].append(number(value.detach()))
        yield case | {"final": pairs()}

    entry("runs", op)(cases)


perceptron("mlp_cross_entropy", F.cross_entropy, lambda: torch.randint(0, 3, (8,)))
perceptron("mlp_mse", F.mse_loss, lambda: torch.randn(8, 3))


@entry("runs")
def accumulation(rng):
    """Four micro-batches whose mean losses are divided by 4 are the whole batch of 8."""
    net, x, y = nn.Linear(3, 2), torch.randn(8, 3), torch.randn(8, 2)
    F.mse_loss(net(x), y).backward()
    whole = tensor(net.weight.grad)
    net.zero_grad()
    for part, target in zip(x.split(2), y.split(2)):
        (F.mse_loss(net(part), target) / 4).backward()
    case = tensors(
        {"weight": net.weight, "bias": net.bias, "input": x, "target": y, "grad_weight": net.weight.grad}
    )
    yield {"kind": "trajectory", "options": {"micro_batches": 4}} | case | {"grad_weight_of_the_whole": whole}


class Characters(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = (
            nn.Embedding(6, 4),
            nn.LSTM(4, 5, batch_first=True),
            nn.Linear(5, 6),
        )

    def forward(self, x):
        return self.head(self.lstm(self.embedding(x))[0])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.position = nn.Embedding(6, 4), nn.Parameter(torch.zeros(6, 4))
        self.block = nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        time = x.shape[1]
        later = torch.ones(time, time, dtype=torch.bool).triu(1)
        h = self.embedding(x) + self.position[:time]
        return F.linear(self.norm(self.block(h, src_mask=later)), self.embedding.weight)


def next_token(net, x):
    return F.cross_entropy(net(x[:, :-1]).reshape(-1, 6), x[:, 1:].reshape(-1))


def text():
    return [torch.randint(0, 6, (3, 6)) for _ in range(5)]


@entry("runs")
def char_lstm(rng):
    batches = text()
    yield run(
        Characters(),
        next_token,
        [(x,) for x in batches],
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
        clip=0.5,
        evaluated=batches[0],
        layers="embedding 6x4, lstm 4-5, dense 5-6; next token",
        optimizer="rmsprop 0.01",
    )


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


@entry("runs")
def cnn(rng):
    """With Adam, and with SGD."""
    for name, optimizer in [
        ("adam 0.01", lambda parameters: torch.optim.Adam(parameters, lr=0.01)),
        ("sgd 0.05, momentum 0.9", lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)),
    ]:
        yield run(
            convolutional(),
            lambda net, x, y: F.cross_entropy(net(x), y),
            [(torch.randn(4, 1, 8, 8), torch.randint(0, 3, (4,))) for _ in range(5)],
            optimizer,
            evaluated=torch.randn(2, 1, 8, 8),
            layers="conv 1-3 3x3 pad 1, batch norm, relu, max pool 2, conv 3-4 3x3, relu, flatten, dense 16-3",
            optimizer=name,
        )


@entry("runs")
def tied_transformer(rng):
    batches = text()
    yield run(
        Transformer(),
        next_token,
        [(x,) for x in batches],
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
        clip=1.0,
        evaluated=batches[1],
        layers="embedding 6x4 (also the head) + learned positions, one pre-norm block (2 heads, 8, gelu), layer norm",
        optimizer="adamw 0.01, decay 0.1",
    )
