"""What the entries of the generator share: the register of entries, the numbers in the files, derivatives."""

import math

import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)  # several threads may add in another order

ENTRIES = {}  # file -> {op: function that yields the op's cases}


def entry(file, op=None):
    """Registers a function `cases(rng)`, which yields the cases of one op, under its own name or `op`."""

    def register(cases):
        name = op or cases.__name__
        entries = ENTRIES.setdefault(file, {})
        assert name not in entries, f"two entries for {name}"
        entries[name] = cases
        return cases

    return register


def number(x):
    """JSON has no infinities and no NaN: they are strings."""
    x = float(x)
    return x if math.isfinite(x) else "nan" if math.isnan(x) else "inf" if x > 0 else "-inf"


def tensor(x):
    """Shape and data, row-major. Whole numbers stay whole: they are indices or masks."""
    x = x.detach()
    data = x.flatten().tolist()
    return {"shape": list(x.shape), "data": data if not x.is_floating_point() else [number(v) for v in data]}


def tensors(named):
    return {name: tensor(x) if isinstance(x, torch.Tensor) else x for name, x in named.items()}


def leaf(*shape, scale=1.0):
    """A random tensor that takes a gradient."""
    return (torch.randn(*shape) * scale).requires_grad_()


def pair(x):
    return list(x) if isinstance(x, tuple) else [x, x]


def gradients(ys, dys, xs):
    """`grad_<name>` of every x, zero where no y depends on it."""
    grads = torch.autograd.grad(ys, list(xs.values()), dys, allow_unused=True)
    return {
        f"grad_{name}": tensor(torch.zeros_like(x) if dx is None else dx)
        for (name, x), dx in zip(xs.items(), grads)
    }


def layer(f, inputs, options=None, constants=None, outputs=("output",), **more):
    """A case of y = f(**inputs, **constants) with a random upstream gradient.

    Inputs and parameters are differentiated; constants (indices, masks) are not.
    """
    constants = constants or {}
    ys = f(**inputs, **constants)
    ys = ys if isinstance(ys, tuple) else (ys,)
    dys = tuple(torch.randn_like(y) for y in ys)
    case = {"kind": "layer", "options": options or {}}
    for name, y, dy in zip(outputs, ys, dys, strict=True):
        case |= {name: tensor(y), f"grad_{name}": tensor(dy)}
    return case | tensors(inputs) | gradients(ys, dys, inputs) | tensors(constants) | more


def refused(f, why, shapes, **options):
    """A case that PyTorch refuses."""
    try:
        f()
    except (RuntimeError, ValueError, IndexError) as error:
        message = str(error).splitlines()[0][:200]
        return {"kind": "error", "options": options, "why": why, "shapes": shapes, "message": message}
    raise SystemExit(f"PyTorch accepts what it should refuse: {why}")
