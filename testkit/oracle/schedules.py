"""The schedules: one entry each. `rates[k]` is the learning rate of update k, from 0."""

import torch
import torch.optim.lr_scheduler as S

from case import entry, number


def rates(make, options, count=24, metrics=None, base=0.1):
    """A plateau's `metrics[k]` is told after update k."""
    optimizer = torch.optim.SGD([torch.zeros(1).requires_grad_()], lr=base, momentum=0.9)
    schedule = make(optimizer)
    values = []
    for step in range(count):
        values.append(number(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step(*([metrics[step]] if metrics else []))
    case = {"kind": "schedule", "options": options | {"base": base}, "rates": values}
    return case | ({"metrics": [number(metric) for metric in metrics]} if metrics else {})


def schedule(op, make, *settings, **fixed):
    """`make(optimizer, **options)`; `fixed` only says in the file what `make` has fixed."""

    def cases(rng):
        for options in settings or ({},):
            yield rates(lambda optimizer: make(optimizer, **options), fixed | options)

    entry("schedules", op)(cases)


schedule("constant_warmup", lambda o: S.ConstantLR(o, 0.25, 4), factor=0.25, steps=4)
schedule(
    "cosine",
    lambda o: S.CosineAnnealingLR(o, 10, 0.001),
    steps=10,
    least=0.001,
    note="goes up again behind its end",
)
schedule(
    "cosine_restarts",
    lambda o, factor: S.CosineAnnealingWarmRestarts(o, 4, factor, 0.001),
    {"factor": 1},
    {"factor": 2},
    first=4,
    least=0.001,
)
schedule(
    "cyclic",
    lambda o, mode: S.CyclicLR(o, 0.01, 0.1, 4, 6, mode, gamma=0.95),
    {"mode": "triangular"},
    {"mode": "triangular2"},
    {"mode": "exp_range"},
    least=0.01,
    highest=0.1,
    up=4,
    down=6,
    gamma=0.95,
)
schedule("exponential", lambda o: S.ExponentialLR(o, 0.9), gamma=0.9)
schedule("linear", lambda o: S.LinearLR(o, 0.2, 1.0, 5), start=0.2, end=1.0, steps=5)
schedule(
    "linear_times_exponential",
    lambda o: S.ChainedScheduler([S.LinearLR(o, 0.1, 1.0, 4), S.ExponentialLR(o, 0.9)]),
    start=0.1,
    steps=4,
    gamma=0.9,
)
schedule("multi_step", lambda o: S.MultiStepLR(o, [3, 3, 10], 0.1), milestones=[3, 3, 10], gamma=0.1)
schedule(
    "one_cycle",
    lambda o, **options: S.OneCycleLR(o, 0.4, total_steps=24, **options),
    {},
    {"anneal_strategy": "linear"},
    {"three_phase": True},
    {"pct_start": 0.5, "div_factor": 10, "final_div_factor": 100},
    highest=0.4,
    steps=24,
    note="momentum cycles, too, in PyTorch: 0.85 to 0.95",
)
schedule("polynomial", lambda o: S.PolynomialLR(o, 10, 2.0), steps=10, power=2.0)
schedule("step", lambda o: S.StepLR(o, 5, 0.5), every=5, gamma=0.5)
schedule(
    "warmup_then_cosine",
    lambda o: S.SequentialLR(o, [S.LinearLR(o, 0.1, 1.0, 4), S.CosineAnnealingLR(o, 16)], [4]),
    warmup=4,
    start=0.1,
    cosine=16,
)


@entry("schedules")
def plateau(rng):
    metrics = [1.0, 0.9, 0.9, 0.90005, 0.95, 0.9, 0.8, 0.81, 0.82, 0.83, 0.84, 0.85, float("nan"), 0.86] + [
        0.7
    ] * 6
    for options in [
        {"factor": 0.5, "patience": 2},
        {"factor": 0.1, "patience": 1, "cooldown": 2, "min_lr": 1e-3},
        {"factor": 0.5, "patience": 0, "threshold": 0.05, "threshold_mode": "abs"},
        {"mode": "max", "factor": 0.5, "patience": 2},
    ]:
        yield rates(lambda optimizer: S.ReduceLROnPlateau(optimizer, **options), options, 20, metrics)
