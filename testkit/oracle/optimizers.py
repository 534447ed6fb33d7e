"""The optimizers, one entry each, and what else changes gradients or weights: clipping, averages."""

import torch
import torch.nn as nn
import torch.optim as O

from case import entry, number, tensor


def steps(make, options, count=8, shape=(3, 4), rates=None, **more):
    """A parameter after each step of an optimizer. Step 5 has a gradient of 0, step 6 a hundred times the usual one."""
    x = torch.randn(*shape).requires_grad_()
    start, optimizer = tensor(x), make([x])
    grads, after = [], []
    for step in range(count):
        if rates:
            optimizer.param_groups[0]["lr"] = rates[step]
        x.grad = torch.randn(*shape) * {4: 0.0, 5: 100.0}.get(step, 1.0)
        grads.append(tensor(x.grad))
        optimizer.step()
        after.append(tensor(x))
    case = {"kind": "optimizer", "options": options, "start": start, "grads": grads, "after": after}
    return case | ({"rates": rates} if rates else {}) | more


def optimizer(op, rule, *settings):
    def cases(rng):
        for options in settings:
            yield steps(lambda x: rule(x, **options), options)

    entry("optimizers", op)(cases)


optimizer("adadelta", O.Adadelta, {"lr": 1.0}, {"lr": 0.5, "rho": 0.8, "weight_decay": 0.1})
optimizer(
    "adagrad",
    O.Adagrad,
    {"lr": 0.1},
    {"lr": 0.1, "lr_decay": 0.1},
    {"lr": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
)
optimizer(
    "adam",
    O.Adam,
    {"lr": 0.01},
    {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6},
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.01, "amsgrad": True},
    {"lr": 0.01, "maximize": True},
)
optimizer("adamax", O.Adamax, {"lr": 0.02}, {"lr": 0.02, "weight_decay": 0.1})
optimizer(
    "adamw",
    O.AdamW,
    {"lr": 0.01},
    {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6},
    {"lr": 0.01, "amsgrad": True},
    {"lr": 0.01, "weight_decay": 0.0},
)
optimizer("asgd", O.ASGD, {"lr": 0.01})
optimizer(
    "nadam",
    O.NAdam,
    {"lr": 0.01},
    {"lr": 0.01, "momentum_decay": 0.01, "weight_decay": 0.1},
    {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
)
optimizer(
    "radam",
    O.RAdam,
    {"lr": 0.01},
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
)
optimizer(
    "rmsprop",
    O.RMSprop,
    {"lr": 0.01},
    {"lr": 0.01, "alpha": 0.9, "momentum": 0.5},
    {"lr": 0.01, "centered": True},
    {"lr": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.1},
)
optimizer("rprop", O.Rprop, {"lr": 0.01})


@entry("optimizers")
def sgd(rng):
    """Every combination of the options; then the rate changes after the fourth step."""
    for options in [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.05, "momentum": 0.8, "nesterov": True},
        {"lr": 0.1, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.02, "nesterov": True},
    ]:
        yield steps(lambda x: O.SGD(x, **options), options, 12)
    rates = [0.1] * 4 + [0.03] * 2
    for decay in (0.0, 0.05):
        for momentum in (0.0, 0.5, 0.9, 1.5):
            every = [{"dampening": dampening} for dampening in (0.0, 0.3, 1.0, -0.5)]
            for more in every + ([{"nesterov": True}] if momentum else []):
                options = {"lr": rates[0], "weight_decay": decay, "momentum": momentum} | more
                yield steps(lambda x: O.SGD(x, **options), options, 6, (3,), rates)


@entry("optimizers")
def muon(rng):
    for options in [{"lr": 0.02}, {"lr": 0.02, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01}]:
        note = "Newton-Schulz in bfloat16 in PyTorch: agreement to 1e-2 only"
        for shape in [(3, 4), (5, 2)]:
            yield steps(lambda x: O.Muon(x, **options), options | {"note": note}, 4, shape)


class Paper:
    """A rule that PyTorch doesn't have, with the interface of one that it has."""

    def __init__(self, parameters, update):
        (self.x,), self.update, self.state, self.count = parameters, update, {}, 0

    def step(self):
        self.count += 1
        with torch.no_grad():
            self.update(self.x, self.x.grad, self.state, self.count)


@entry("optimizers")
def lion(rng):
    """X. Chen et al., 2023, algorithm 2."""

    def rule(lr, b1, b2, wd):
        def update(x, dx, state, _):
            m = state.setdefault("m", torch.zeros_like(x))
            direction = (b1 * m + (1 - b1) * dx).sign()
            x.mul_(1 - lr * wd).sub_(lr * direction)
            m.mul_(b2).add_((1 - b2) * dx)

        return update

    for options in [
        {"lr": 0.01, "b1": 0.9, "b2": 0.99, "wd": 0.0},
        {"lr": 0.003, "b1": 0.95, "b2": 0.98, "wd": 0.1},
    ]:
        yield steps(lambda x: Paper(x, rule(**options)), options, source="paper")


@entry("optimizers")
def lamb(rng):
    """Y. You et al., 2019, algorithm 2, with φ(x) = x and a ratio of 1 where a norm is 0."""

    def rule(lr, b1, b2, eps, wd):
        def update(x, dx, state, count):
            m, v = (state.setdefault(name, torch.zeros_like(x)) for name in "mv")
            m.mul_(b1).add_((1 - b1) * dx)
            v.mul_(b2).add_((1 - b2) * dx * dx)
            r = (m / (1 - b1**count)) / ((v / (1 - b2**count)).sqrt() + eps) + wd * x
            ratio = x.norm() / r.norm() if x.norm() > 0 and r.norm() > 0 else 1.0
            x.sub_(lr * ratio * r)

        return update

    options = {"lr": 0.01, "b1": 0.9, "b2": 0.999, "eps": 1e-6, "wd": 0.01}
    yield steps(lambda x: Paper(x, rule(**options)), options, source="paper")


@entry("optimizers")
def adamw_groups(rng):
    """Decay for the weight only, another rate for the bias."""
    w, b = torch.randn(2, 3).requires_grad_(), torch.randn(2).requires_grad_()
    groups = [{"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.05, "weight_decay": 0.0}]
    rule = O.AdamW([{"params": [x]} | group for x, group in zip((w, b), groups)])
    start, grads, after = [tensor(w), tensor(b)], [], []
    for _ in range(4):
        w.grad, b.grad = torch.randn(2, 3), torch.randn(2)
        rule.step()
        grads.append([tensor(w.grad), tensor(b.grad)])
        after.append([tensor(w), tensor(b)])
    options = {"groups": [{"of": of} | group for of, group in zip(("weight", "bias"), groups)]}
    yield {"kind": "optimizer", "options": options, "start": start, "grads": grads, "after": after}


@entry("optimizers")
def lbfgs(rng):
    """Rosenbrock's function from (−1.2, 1): value and place after each outer step."""
    for rate, search in [(0.1, None), (1.0, "strong_wolfe")]:
        x = torch.tensor([-1.2, 1.0]).requires_grad_()
        rule = O.LBFGS([x], lr=rate, max_iter=5, history_size=4, line_search_fn=search)

        def closure():
            rule.zero_grad()
            value = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
            value.backward()
            return value

        values, after = [], []
        for _ in range(5):
            values.append(number(rule.step(closure).detach()))
            after.append(tensor(x))
        options = {"function": "rosenbrock", "lr": rate, "max_iter": 5, "history": 4, "line_search": search}
        yield {
            "kind": "optimizer",
            "options": options,
            "start": [-1.2, 1.0],
            "values": values,
            "after": after,
        }


@entry("optimizers")
def clip_norm(rng):
    note = (
        "PyTorch scales by limit / (norm + 1e-6), at most 1; where the norm is inf or NaN it writes NaN and 0"
    )
    table = [  # limit, norm, scale of the gradients, special
        (1.0, 2.0, 1.0, None),
        (100.0, 2.0, 1.0, None),
        (2.0, 1.0, 3.0, None),
        (0.5, float("inf"), 1.0, None),
        (1.0, 2.0, 0.0, None),
        (1.0, 2.0, 1.0, "inf"),
        (1.0, 2.0, 1.0, "nan"),
        (1.0, 2.0, 1e200, None),
    ]
    for limit, norm, scale, special in table:
        parameters = [torch.zeros(2, 3).requires_grad_(), torch.zeros(4).requires_grad_()]
        for x in parameters:
            x.grad = torch.randn_like(x) * scale
        if special:
            parameters[0].grad[0, 1] = float(special)
        grads = lambda: [tensor(x.grad) for x in parameters]
        case = {
            "kind": "clip",
            "options": {"limit": limit, "norm": number(norm), "special": special, "note": note},
        }
        case["grads"] = grads()
        case["total"] = number(nn.utils.clip_grad_norm_(parameters, limit, norm))
        yield case | {"after": grads()}


@entry("optimizers")
def clip_value(rng):
    x = torch.zeros(6).requires_grad_()
    x.grad = torch.tensor([-3.0, -0.5, 0.0, 0.5, float("inf"), float("nan")])
    case = {"kind": "clip", "options": {"limit": 1.0}, "grads": [tensor(x.grad)]}
    nn.utils.clip_grad_value_([x], 1.0)
    yield case | {"after": [tensor(x.grad)]}


@entry("optimizers")
def ema(rng):
    for decay in (0.9, 0.999):
        net = nn.Linear(2, 2)
        average = O.swa_utils.AveragedModel(net, multi_avg_fn=O.swa_utils.get_ema_multi_avg_fn(decay))
        values, after = [], []
        for _ in range(5):
            with torch.no_grad():
                net.weight.normal_()
            average.update_parameters(net)
            values.append(tensor(net.weight))
            after.append(tensor(average.module.weight))
        options = {"decay": decay, "note": "the first update copies"}
        yield {"kind": "average", "options": options, "values": values, "after": after}
