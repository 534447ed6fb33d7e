"""The losses: one entry each."""

import itertools
import math

import torch
import torch.nn.functional as F

from case import entry, gradients, number, tensor, tensors

REDUCTIONS = ("mean", "sum", "none")


def loss(f, prediction, options, constants=None, others=None, reductions=REDUCTIONS):
    """Cases of l = f(prediction, *others, reduction): one for each reduction, all inputs differentiated.

    Without a reduction l has a random upstream gradient, `grad_value`.
    """
    for reduction in reductions:
        named = {"prediction": prediction} | (others or {})
        inputs = {name: x.detach().clone().requires_grad_() for name, x in named.items()}
        value = f(*inputs.values(), reduction)
        whole = reduction != "none"
        upstream = torch.ones_like(value) if whole else torch.randn_like(value)
        case = {"kind": "loss", "options": options | {"reduction": reduction}}
        case |= (
            {"value": number(value.detach())}
            if whole
            else {"value": tensor(value), "grad_value": tensor(upstream)}
        )
        yield case | tensors(inputs) | gradients((value,), (upstream,), inputs) | tensors(constants or {})


def reduced(values, reduction):
    return values if reduction == "none" else getattr(values, reduction)()


# ------------------------------------------------------------------------------------------------ regression


def differences(rng):
    """Predictions and targets; the first pair is equal."""
    for shape in [(1, 1), (4, 3), (2, 3, 2), (rng.randint(2, 5), rng.randint(1, 4))]:
        y = torch.randn(*shape)
        p = torch.randn(*shape)
        p.view(-1)[0] = y.view(-1)[0]
        yield p, y


@entry("losses")
def gaussian_nll(rng):
    y, variance = torch.randn(3, 2), torch.rand(3, 2) + 0.1
    f = lambda p, v, r: F.gaussian_nll_loss(p, y, v, reduction=r)
    yield from loss(f, torch.randn(3, 2), {"full": False, "eps": 1e-6}, {"target": y}, {"variance": variance})


@entry("losses")
def huber(rng):
    for p, y in differences(rng):
        for delta in (0.5, 1.0):
            f = lambda p, r: F.huber_loss(p, y, reduction=r, delta=delta)
            yield from loss(f, 2 * p, {"delta": delta}, {"target": y})


@entry("losses")
def mae(rng):
    for p, y in differences(rng):
        yield from loss(lambda p, r: F.l1_loss(p, y, reduction=r), p, {}, {"target": y})


@entry("losses")
def mse(rng):
    for shape in [(1, 1), (4, 3), (7, 1), (2, 3, 4), (rng.randint(2, 5), rng.randint(1, 4))]:
        y = torch.randn(*shape)
        f = lambda p, r: F.mse_loss(p, y, reduction=r)
        yield from loss(
            f, torch.randn(*shape), {}, {"target": y, "target_kind": "values"}, reductions=("mean", "sum")
        )


@entry("losses")
def poisson_nll(rng):
    y = torch.tensor([0.0, 1.0, 3.0, 7.0])
    for full in (False, True):
        f = lambda p, r: F.poisson_nll_loss(p, y, True, full, reduction=r)
        yield from loss(f, torch.randn(4), {"log_input": True, "full": full}, {"target": y})


@entry("losses")
def smooth_l1(rng):
    for p, y in differences(rng):
        for beta in (0.0, 0.7):
            f = lambda p, r: F.smooth_l1_loss(p, y, reduction=r, beta=beta)
            yield from loss(f, 2 * p, {"beta": beta}, {"target": y})


# ------------------------------------------------------------------------------------------------- two classes

PROBABILITIES = torch.tensor([[0.0, 1.0, 1.0], [0.3, 0.0, 1.0]])


def logits():
    yield torch.randn(2, 3), {}
    yield torch.tensor([[1e4, 1e4, -1e4], [-1e4, 0.0, 40.0]]), {"extreme": True}


@entry("losses")
def bce(rng):
    f = lambda p, r: F.binary_cross_entropy(p, PROBABILITIES, reduction=r)
    yield from loss(f, torch.rand(2, 3) * 0.98 + 0.01, {}, {"target": PROBABILITIES})


@entry("losses")
def bce_logits(rng):
    weight, positive = torch.rand(2, 3) + 0.2, torch.tensor([0.5, 2.0, 1.0])
    for p, tag in logits():
        for weights in ({}, {"weight": weight, "positive_weight": positive}):
            f = lambda p, r: F.binary_cross_entropy_with_logits(
                p,
                PROBABILITIES,
                weights.get("weight"),
                reduction=r,
                pos_weight=weights.get("positive_weight"),
            )
            yield from loss(f, p, tag, {"target": PROBABILITIES} | weights)


@entry("losses")
def sigmoid_focal(rng):
    """T.-Y. Lin et al., 2017, composed of PyTorch's parts."""
    y, alpha = PROBABILITIES, 0.25
    for p, tag in logits():
        for gamma in (0.0, 2.0):

            def f(p, reduction):
                q = torch.sigmoid(p)
                right = q * y + (1 - q) * (1 - y)
                weight = (alpha * y + (1 - alpha) * (1 - y)) * (1 - right) ** gamma
                return reduced(weight * F.binary_cross_entropy_with_logits(p, y, reduction="none"), reduction)

            yield from loss(f, p, {"alpha": alpha, "gamma": gamma} | tag, {"target": y})


# ------------------------------------------------------------------------------------------------ many classes


@entry("losses")
def cross_entropy(rng):
    """Every combination of the options, for labels and for probabilities, and infinite logits."""

    def case(p, y, reduction, weights=None, smoothing=0.0, ignored=None, **tag):
        options = tag.copy()
        if weights is not None:
            options["class_weights"] = weights.tolist()
        if smoothing:
            options["label_smoothing"] = smoothing
        if ignored is not None:
            options["ignore_index"] = ignored
        f = lambda p, r: F.cross_entropy(
            p,
            y,
            weights,
            reduction=r,
            label_smoothing=smoothing,
            ignore_index=-100 if ignored is None else ignored,
        )
        kind = "values" if y.is_floating_point() else "classes"
        return loss(f, p, options, {"target": y, "target_kind": kind}, reductions=(reduction,))

    for n, classes, scale in [
        (1, 2, 1.0),
        (5, 4, 1.0),
        (6, 10, 8.0),
        (rng.randint(2, 7), rng.randint(2, 9), 2.0),
    ]:
        for reduction in ("mean", "sum"):
            p, weights = torch.randn(n, classes) * scale, torch.rand(classes) + 0.1
            y = torch.randint(0, classes, (n,))
            yield from case(p, y, reduction)
            yield from case(p, y, reduction, weights)
            yield from case(p, y, reduction, smoothing=0.1)
            yield from case(p, torch.randn(n, classes).softmax(-1), reduction)

    p, weights = 2 * torch.randn(6, 4), torch.tensor([0.5, 2.0, 0.0, 1.25])
    labels, probabilities = torch.tensor([0, 2, 3, 1, 2, 3]), torch.randn(6, 4).softmax(-1)
    for reduction, w, smoothing in itertools.product(["mean", "sum"], [None, weights], [0.0, 0.1, 1.0]):
        for ignored in (None, 2):
            yield from case(p, labels, reduction, w, smoothing, ignored)
        yield from case(p, probabilities, reduction, w, smoothing)
    yield from case(torch.randn(5, 3), torch.tensor([0, -100, 2, -100, 1]), "mean", ignored=-100)

    # An impossible class, the label's own class impossible, certainty, nothing possible.
    inf = math.inf
    for row in [[1.0, -inf, 0.5], [-inf, 1.0, 0.5], [inf, 1.0, 0.5], [-inf, -inf, -inf]]:
        for y in (torch.tensor([0]), torch.tensor([[1.0, 0.0, 0.0]])):
            for smoothing in (0.0, 0.1):
                yield from case(torch.tensor([row]), y, "sum", smoothing=smoothing, extreme=True)


@entry("losses")
def cross_entropy_all_ignored(rng):
    y = torch.tensor([-100, -100])
    p = torch.randn(2, 3)
    options = {"reduction": "mean", "ignore_index": -100}
    note = "PyTorch gives NaN, 0/0; here the mean of no rows is refused"
    value = number(F.cross_entropy(p, y))
    yield {
        "kind": "loss",
        "options": options,
        "prediction": tensor(p),
        "target": tensor(y),
        "value": value,
        "note": note,
    }


@entry("losses")
def ctc(rng):
    """Connectionist temporal classification. The prediction is logits, [time, batch, classes]; the blank is 0."""
    table = [  # time, classes, targets, lengths of the inputs
        (5, 4, [[1, 2], [3, 3]], [5, 4]),
        (6, 3, [[1, 1, 2], [2]], [6, 6]),
        (2, 3, [[1, 1], [2]], [2, 2]),
        (1, 3, [[], [1]], [1, 1]),
    ]
    for time, classes, targets, lengths in table:
        flat = torch.tensor([label for target in targets for label in target], dtype=torch.long)
        sizes = torch.tensor([len(target) for target in targets])
        for zero in (False, True):
            yield from loss(
                lambda p, r: F.ctc_loss(F.log_softmax(p, -1), flat, torch.tensor(lengths), sizes, 0, r, zero),
                torch.randn(time, 2, classes),
                {"blank": 0, "zero_infinity": zero, "note": "mean divides by each target's length"},
                {"targets": targets, "lengths": lengths},
            )


@entry("losses")
def kl_div(rng):
    q = torch.randn(3, 4).softmax(-1)
    certain = torch.cat([q[:2], torch.tensor([[0.0, 0.5, 0.5, 0.0]])])  # 0 ln 0 = 0
    for log, y in [(False, certain), (True, q.log())]:
        f = lambda p, r: F.kl_div(p, y, reduction=r, log_target=log)
        yield from loss(f, torch.randn(3, 4).log_softmax(-1), {"log_target": log}, {"target": y})
    f = lambda p, r: F.kl_div(p, q, reduction=r)
    p = torch.randn(3, 4).log_softmax(-1)
    yield from loss(f, p, {"log_target": False}, {"target": q}, reductions=("batchmean",))


@entry("losses")
def multi_margin(rng):
    y = torch.tensor([2, 0, 1])
    for power in (1, 2):
        f = lambda p, r: F.multi_margin_loss(p, y, power, 1.0, reduction=r)
        yield from loss(f, torch.randn(3, 4), {"p": power, "margin": 1.0}, {"target": y})


@entry("losses")
def nll(rng):
    y = torch.tensor([3, 0, 2, 0])
    for options in ({}, {"ignore_index": 0}):
        f = lambda p, r: F.nll_loss(p, y, reduction=r, **options)
        yield from loss(f, torch.randn(4, 4).log_softmax(-1), options, {"target": y})


# ----------------------------------------------------------------------------------------------------- margins

SIGNS = torch.tensor([1.0, -1.0, 1.0, -1.0])


@entry("losses")
def cosine_embedding(rng):
    f = lambda p, other, r: F.cosine_embedding_loss(p, other, SIGNS, 0.1, reduction=r)
    yield from loss(f, torch.randn(4, 3), {"margin": 0.1}, {"target": SIGNS}, {"other": torch.randn(4, 3)})


@entry("losses")
def hinge(rng):
    for power in (1, 2):
        f = lambda p, r: reduced(torch.clamp(1 - SIGNS * p, min=0) ** power, r)
        yield from loss(f, torch.tensor([0.3, 0.4, 2.0, -1.5]), {"power": power}, {"target": SIGNS})


@entry("losses")
def hinge_embedding(rng):
    f = lambda p, r: F.hinge_embedding_loss(p, SIGNS, 1.0, reduction=r)
    yield from loss(f, torch.tensor([0.3, 0.4, -0.2, 1.5]), {"margin": 1.0}, {"target": SIGNS})


@entry("losses")
def margin_ranking(rng):
    f = lambda p, other, r: F.margin_ranking_loss(p, other, SIGNS, 0.2, reduction=r)
    yield from loss(f, torch.randn(4), {"margin": 0.2}, {"target": SIGNS}, {"other": torch.randn(4)})


@entry("losses")
def soft_margin(rng):
    f = lambda p, r: F.soft_margin_loss(p, SIGNS, reduction=r)
    yield from loss(f, torch.randn(4), {}, {"target": SIGNS})


@entry("losses")
def triplet_margin(rng):
    f = lambda p, positive, negative, r: F.triplet_margin_loss(p, positive, negative, 1.0, reduction=r)
    others = {"positive": torch.randn(3, 4), "negative": torch.randn(3, 4)}
    yield from loss(f, torch.randn(3, 4), {"margin": 1.0, "p": 2, "eps": 1e-6}, {}, others)
