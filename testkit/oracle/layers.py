"""The layers: one entry each. What PyTorch refuses stands with its layer."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from case import entry, layer, leaf, pair, refused, tensor

# ------------------------------------------------------------------------------------------------- activation

EXTREMES = [-1e4, -800.0, -100.0, -40.0, -6.5, -1e-8, 0.25, 1e-8, 6.5, 40.0, 100.0, 800.0, 1e4]


def pointwise(op, f, *settings):
    """The entry of an element-wise layer: for each of its settings three sizes, and extreme inputs."""

    def cases(rng):
        for options in settings or ({},):
            for shape, scale in [((1, 1), 1.0), ((3, 5), 2.0), ((3, 11), 6.0)]:
                yield layer(lambda input: f(input, **options), {"input": leaf(*shape, scale=scale)}, options)
            extremes = torch.tensor([EXTREMES]).requires_grad_()
            yield layer(lambda input: f(input, **options), {"input": extremes}, options | {"extreme": True})

    entry("layers", op)(cases)


pointwise("celu", F.celu, {"alpha": 0.7})
pointwise("elu", F.elu, {"alpha": 1.0}, {"alpha": 0.5})
pointwise("gelu", F.gelu, {"approximate": "none"}, {"approximate": "tanh"})
pointwise("hardshrink", F.hardshrink, {"lambd": 0.5})
pointwise("hardsigmoid", F.hardsigmoid)
pointwise("hardswish", F.hardswish)
pointwise("hardtanh", F.hardtanh, {"min_val": -1.0, "max_val": 0.5})
pointwise("leaky_relu", F.leaky_relu, {"negative_slope": 0.01}, {"negative_slope": 0.2})
pointwise("logsigmoid", F.logsigmoid)
pointwise("mish", F.mish)
pointwise("relu", F.relu)
pointwise("relu6", F.relu6)
pointwise("selu", F.selu)
pointwise("sigmoid", torch.sigmoid)
pointwise("silu", F.silu)
pointwise("softplus", F.softplus, {"beta": 1.0, "threshold": 20.0}, {"beta": 2.5, "threshold": 3.0})
pointwise("softshrink", F.softshrink, {"lambd": 0.5})
pointwise("softsign", F.softsign)
pointwise("tanh", torch.tanh)
pointwise("tanhshrink", F.tanhshrink)
pointwise("threshold", F.threshold, {"threshold": 0.1, "value": -2.0})


@entry("layers")
def glu(rng):
    for axis in (1, -1):
        yield layer(lambda input: F.glu(input, axis), {"input": leaf(3, 4, 6)}, {"axis": axis})


def softmax_like(op, f):
    def cases(rng):
        for shape, scale in [((1, 1), 1.0), ((5, 4), 1.0), ((3, 11), 6.0)]:
            yield layer(lambda input: f(input, -1), {"input": leaf(*shape, scale=scale)}, {"axis": -1})
        for axis in (0, 1, -1):
            yield layer(lambda input: f(input, axis), {"input": leaf(2, 4, 3)}, {"axis": axis})

    entry("layers", op)(cases)


softmax_like("log_softmax", F.log_softmax)
softmax_like("softmax", F.softmax)


@entry("layers")
def prelu(rng):
    """One slope, or one for each channel (axis 1)."""
    for shape, slopes in [((4, 3), 1), ((4, 3), 3), ((2, 3, 4, 2), 3)]:
        inputs = {"input": leaf(*shape), "weight": leaf(slopes)}
        yield layer(lambda input, weight: F.prelu(input, weight), inputs, {"slopes": slopes, "axis": 1})


# ------------------------------------------------------------------------------------------ dense, embedding


@entry("layers")
def embedding(rng):
    table = [  # rows, width, shape of the indices, padding index, scale by count
        (7, 5, (3, 4), None, False),
        (4, 3, (1,), None, False),
        (5, 2, (2, 6), 0, False),
        (5, 2, (2, 6), 4, False),
        (3, 2, (10,), None, True),
        (4, 3, (2, 7), 1, True),
        (rng.randint(2, 9), rng.randint(1, 4), (rng.randint(1, 3), rng.randint(1, 5)), None, False),
    ]
    for rows, width, shape, padding, scaled in table:
        yield layer(
            lambda weight, indices: F.embedding(indices, weight, padding, scale_grad_by_freq=scaled),
            {"weight": leaf(rows, width)},
            {"padding_index": padding, "scale_by_count": scaled},
            {"indices": torch.randint(0, rows, shape)},
        )
    for index in (-1, 5):
        f = lambda: F.embedding(torch.tensor([0, index]), torch.randn(5, 2))
        yield refused(f, "an index outside", [[5, 2]], index=index)


@entry("layers")
def embedding_bag(rng):
    indices, starts = torch.tensor([1, 1, 4, 0, 5, 2]), torch.tensor([0, 3, 3, 4])
    for mode in ("sum", "mean", "max"):
        yield layer(
            lambda weight, indices, starts: F.embedding_bag(indices, weight, starts, mode=mode),
            {"weight": leaf(6, 3)},
            {"mode": mode, "note": "the second bag is empty"},
            {"indices": indices, "starts": starts},
        )


@entry("layers")
def linear(rng):
    for batch, inputs, outputs, bias in [
        (1, 1, 1, True),
        (1, 5, 3, True),
        (4, 3, 7, True),
        (17, 33, 9, True),
        (3, 4, 2, False),
    ]:
        parameters = {"weight": leaf(outputs, inputs)} | ({"bias": leaf(outputs)} if bias else {})
        yield layer(F.linear, {"input": leaf(batch, inputs)} | parameters, {"bias": bias})


@entry("layers")
def tied_embedding(rng):
    """One matrix as embedding and as output layer."""
    f = lambda weight, indices: F.linear(torch.tanh(F.embedding(indices, weight)), weight)
    options = {"note": "y = tanh(E[i]) Eᵀ"}
    yield layer(f, {"weight": leaf(5, 4)}, options, {"indices": torch.randint(0, 5, (2, 3))})


# ----------------------------------------------------------------------------------------------- convolution


def weights(outputs, inputs, *kernel, bias=True):
    return {"weight": leaf(outputs, inputs, *kernel)} | ({"bias": leaf(outputs)} if bias else {})


@entry("layers")
def conv1d(rng):
    table = [  # batch, channels, length, outputs, kernel, stride, padding, dilation, groups, bias
        (1, 1, 1, 1, 1, 1, 0, 1, 1, True),
        (2, 3, 9, 4, 3, 1, 1, 1, 1, True),
        (2, 4, 10, 6, 3, 2, 2, 2, 2, True),
        (3, 4, 7, 4, 4, 3, 0, 1, 4, False),
        (1, 2, 5, 3, 5, 1, 0, 1, 1, True),
    ]
    for n, c, length, o, k, stride, padding, dilation, groups, bias in table:
        yield layer(
            lambda input, weight, bias=None: F.conv1d(input, weight, bias, stride, padding, dilation, groups),
            {"input": leaf(n, c, length)} | weights(o, c // groups, k, bias=bias),
            {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias},
        )
    yield layer(
        lambda input, weight, bias: F.conv1d(F.pad(input, (4, 0)), weight, bias, dilation=2),
        {"input": leaf(2, 2, 6)} | weights(3, 2, 3),
        {"stride": 1, "padding": "causal: 4 on the left", "dilation": 2, "groups": 1, "bias": True},
    )


def drawn_convolution(rng):
    """Sizes that fit each other: the padded image is at least as large as the dilated kernel."""
    groups = rng.choice([1, 1, 2, 3])
    channels, outputs = groups * rng.randint(1, 2), groups * rng.randint(1, 2)
    kernel = (rng.randint(1, 3), rng.randint(1, 3))
    dilation = (rng.randint(1, 2), rng.randint(1, 2))
    padding = (rng.randint(0, 2), rng.randint(0, 2))
    size = tuple(
        max(d * (k - 1) + 1 - 2 * p, 1) + rng.randint(0, 4) for k, d, p in zip(kernel, dilation, padding)
    )
    stride = (rng.randint(1, 3), rng.randint(1, 3))
    return (
        rng.randint(1, 3),
        channels,
        size,
        outputs,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        rng.random() < 0.7,
    )


@entry("layers")
def conv2d(rng):
    table = [  # batch, channels, size, outputs, kernel, stride, padding, dilation, groups, bias
        (1, 1, (1, 1), 1, 1, 1, 0, 1, 1, True),
        (1, 1, (3, 3), 2, 3, 1, 0, 1, 1, True),
        (2, 3, (7, 6), 4, 3, 1, 1, 1, 1, True),
        (2, 2, (9, 9), 3, 3, 2, 1, 1, 1, False),
        (2, 4, (8, 7), 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, True),
        (2, 4, (6, 6), 4, 3, 1, 1, 1, 4, True),
        (1, 3, (6, 5), 6, 3, 2, 1, 1, 3, True),
        (3, 4, (5, 5), 5, 1, 1, 0, 1, 1, True),
        (1, 2, (5, 5), 2, 3, 1, 3, 1, 1, True),
        (2, 2, (7, 7), 3, 2, 3, 0, 2, 1, True),
        (1, 1, (2, 9), 1, (1, 5), 1, (0, 2), 1, 1, True),
        (2, 3, (4, 4), 3, 4, 4, 0, 1, 1, True),
        (17, 1, (4, 4), 2, 3, 1, 1, 1, 1, True),
        *(drawn_convolution(rng) for _ in range(8)),
    ]
    for n, c, (h, w), o, k, stride, padding, dilation, groups, bias in table:
        yield layer(
            lambda input, weight, bias=None: F.conv2d(input, weight, bias, stride, padding, dilation, groups),
            {"input": leaf(n, c, h, w)} | weights(o, c // groups, *pair(k), bias=bias),
            {
                "stride": pair(stride),
                "padding": pair(padding),
                "dilation": pair(dilation),
                "groups": groups,
                "bias": bias,
            },
        )
    x = torch.randn(1, 2, 3, 3)
    for shape, why, options in [
        ([2, 2, 4, 4], "the kernel is larger than the padded input", {}),
        ([2, 2, 2, 2], "dilated, the kernel is larger than the input", {"dilation": 3}),
        ([2, 3, 2, 2], "channels of input and weight differ", {}),
    ]:
        yield refused(
            lambda: F.conv2d(x, torch.randn(*shape), **options), why, [[1, 2, 3, 3], shape], **options
        )
    f = lambda: nn.Conv2d(4, 3, 1, groups=2)
    yield refused(f, "groups don't divide the outputs", [], groups=2, in_channels=4, out_channels=3)


@entry("layers")
def conv2d_same(rng):
    """As large as the input: an even kernel pads one more behind than before."""
    for kernel, dilation in [(3, 1), (2, 1), ((4, 3), 1), (3, 2)]:
        yield layer(
            lambda input, weight, bias: F.conv2d(input, weight, bias, 1, "same", dilation),
            {"input": leaf(2, 2, 5, 6)} | weights(3, 2, *pair(kernel)),
            {"padding": "same", "dilation": pair(dilation)},
        )


@entry("layers")
def conv3d(rng):
    options = {"stride": [1, 2, 1], "padding": [1, 0, 1]}
    inputs = {"input": leaf(2, 2, 3, 4, 3)} | weights(2, 2, 2, 2, 3)
    yield layer(lambda input, weight, bias: F.conv3d(input, weight, bias, **options), inputs, options)


@entry("layers")
def conv_transpose1d(rng):
    options = {"stride": 2, "padding": 1, "output_padding": 1}
    inputs = {"input": leaf(2, 2, 5), "weight": leaf(2, 3, 4)}
    yield layer(lambda input, weight: F.conv_transpose1d(input, weight, None, **options), inputs, options)


@entry("layers")
def conv_transpose2d(rng):
    table = [  # batch, channels, size, outputs, kernel, stride, padding, output padding, groups, dilation
        (1, 1, (1, 1), 1, 1, 1, 0, 0, 1, 1),
        (2, 3, (4, 3), 2, 3, 1, 0, 0, 1, 1),
        (2, 2, (4, 4), 3, 3, 2, 1, 1, 1, 1),
        (1, 4, (3, 4), 6, (2, 3), (3, 2), (0, 1), (2, 0), 2, 1),
        (2, 2, (3, 3), 2, 3, 2, 1, 0, 2, 2),
        (1, 2, (5, 5), 1, 4, 2, 1, 0, 1, 1),
    ]
    for n, c, (h, w), o, k, stride, padding, extra, groups, dilation in table:
        settings = stride, padding, extra, groups, dilation
        yield layer(
            lambda input, weight, bias: F.conv_transpose2d(input, weight, bias, *settings),
            {"input": leaf(n, c, h, w), "weight": leaf(c, o // groups, *pair(k)), "bias": leaf(o)},
            {
                "stride": pair(stride),
                "padding": pair(padding),
                "output_padding": pair(extra),
                "groups": groups,
                "dilation": pair(dilation),
            },
        )
    f = lambda: F.conv_transpose2d(torch.randn(1, 2, 3, 3), torch.randn(2, 2, 2, 2), output_padding=1)
    why = "output padding must be below stride or dilation"
    yield refused(f, why, [[1, 2, 3, 3], [2, 2, 2, 2]], output_padding=1, stride=1)


@entry("layers")
def pad2d(rng):
    for mode in ("reflect", "replicate", "circular", "constant"):
        options = {"mode": mode, "left": 1, "right": 2, "top": 0, "bottom": 1}
        yield layer(lambda input: F.pad(input, (1, 2, 0, 1), mode), {"input": leaf(2, 2, 4, 4)}, options)


@entry("layers")
def pixel_shuffle(rng):
    yield layer(lambda input: F.pixel_shuffle(input, 2), {"input": leaf(1, 8, 2, 3)}, {"factor": 2})


@entry("layers")
def upsample_nearest2d(rng):
    for scale in (2, 3):
        f = lambda input: F.interpolate(input, scale_factor=scale, mode="nearest")
        yield layer(f, {"input": leaf(1, 2, 3, 2)}, {"scale": scale})


# --------------------------------------------------------------------------------------------------- pooling


def adaptive(op, f):
    def cases(rng):
        for size in [(1, 1), (2, 3), (5, 4), (7, 2)]:
            yield layer(lambda input: f(input, size), {"input": leaf(2, 2, 5, 7)}, {"size": pair(size)})

    entry("layers", op)(cases)


adaptive("adaptive_avg_pool2d", F.adaptive_avg_pool2d)
adaptive("adaptive_max_pool2d", F.adaptive_max_pool2d)


def windows(rng):
    """Shape, kernel, stride, padding, dilation, ceil mode of the poolings over two axes."""
    yield (2, 3, 8, 9), 2, 2, 0, 1, False
    yield (2, 3, 8, 9), 3, 2, 1, 1, False
    yield (2, 3, 8, 9), 3, 2, 0, 1, False
    yield (1, 2, 5, 5), 2, 2, 0, 1, True
    yield (1, 1, 7, 6), 3, 2, 1, 1, True
    yield (2, 1, 7, 7), 2, 1, 0, 2, False
    yield (1, 2, 8, 7), (2, 3), (1, 2), 1, (3, 2), True
    yield (1, 2, 6, 5), (3, 2), (1, 3), (1, 0), 1, True
    yield (1, 1, 1, 1), 1, 1, 0, 1, False
    yield (2, 2, 4, 4), 4, 4, 0, 1, False
    for _ in range(4):
        kernel = (rng.randint(1, 3), rng.randint(1, 3))
        shape = (rng.randint(1, 3), rng.randint(1, 2), rng.randint(3, 7), rng.randint(3, 7))
        padding = tuple(rng.randint(0, 1) if k > 1 else 0 for k in kernel)
        yield shape, kernel, (rng.randint(1, 3), rng.randint(1, 3)), padding, 1, rng.random() < 0.5


def window_options(kernel, stride, padding, dilation, ceil):
    sizes = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return {name: pair(size) for name, size in sizes.items()} | {"ceil_mode": ceil}


@entry("layers")
def avg_pool1d(rng):
    for ceil in (False, True):
        options = {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": ceil, "count_include_pad": True}
        yield layer(lambda input: F.avg_pool1d(input, 3, 2, 1, ceil), {"input": leaf(2, 3, 8)}, options)


@entry("layers")
def avg_pool2d(rng):
    for shape, k, s, p, d, ceil in windows(rng):
        for padded in (True, False) if d == 1 else ():
            yield layer(
                lambda input: F.avg_pool2d(input, k, s, p, ceil, padded),
                {"input": leaf(*shape)},
                window_options(k, s, p, d, ceil) | {"count_include_pad": padded},
            )
    options = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "divisor": 3}
    yield layer(
        lambda input: F.avg_pool2d(input, 2, 2, divisor_override=3), {"input": leaf(1, 2, 4, 4)}, options
    )


@entry("layers")
def max_pool1d(rng):
    for ceil in (False, True):
        options = {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": ceil}
        yield layer(lambda input: F.max_pool1d(input, 3, 2, 1, 1, ceil), {"input": leaf(2, 3, 8)}, options)


@entry("layers")
def max_pool2d(rng):
    """`indices`: the place of the largest in its channel's plane. It takes the whole gradient, the first of equals."""

    def case(x, k, s, p=0, d=1, ceil=False, **tag):
        indices = F.max_pool2d(x, k, s, p, d, ceil, return_indices=True)[1]
        f = lambda input: F.max_pool2d(input, k, s, p, d, ceil)
        return layer(f, {"input": x}, window_options(k, s, p, d, ceil) | tag, indices=tensor(indices))

    for shape, *settings in windows(rng):
        yield case(leaf(*shape), *settings)
    image = lambda rows: torch.tensor([[rows]]).requires_grad_()
    equals = image([[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, 2.0, 2.0], [3.0, 0.0, 5.0, 5.0], [0.0, 3.0, 5.0, 4.0]])
    yield case(equals, 2, 2, ties=True)
    yield case(torch.full((1, 1, 4, 4), -1.0).requires_grad_(), 3, 2, 1, ties=True)  # padding must not win
    yield case(torch.full((1, 1, 3, 3), -math.inf).requires_grad_(), 2, 2, 1, ties=True)
    yield case(image([[1.0, math.nan, 0.0, 2.0], [1.0, 1.0, 2.0, -math.inf]]), 2, 2, nan=True)  # NaN wins
    yield case(image([[math.nan, 1.0, 0.0, 2.0], [3.0, math.nan, math.inf, math.nan]]), 2, 2, nan=True)
    x = torch.randn(1, 1, 4, 4)
    yield refused(
        lambda: F.max_pool2d(x, 2, 2, 2),
        "padding is more than half of the kernel",
        [[1, 1, 4, 4]],
        kernel=2,
        padding=2,
    )
    yield refused(lambda: F.max_pool2d(x, 5), "the kernel is larger than the input", [[1, 1, 4, 4]], kernel=5)


@entry("layers")
def max_unpool2d(rng):
    for shape, kernel, stride, size in [
        ((2, 3, 4, 6), 2, 2, None),
        ((1, 2, 5, 5), 2, 2, (5, 5)),
        ((1, 1, 6, 6), 3, 2, (6, 6)),
    ]:
        y, indices = F.max_pool2d(torch.randn(*shape), kernel, stride, return_indices=True)
        yield layer(
            lambda input, indices: F.max_unpool2d(input, indices, kernel, stride, output_size=size),
            {"input": y.clone().requires_grad_()},
            {"kernel": kernel, "stride": stride, "output_size": size},
            {"indices": indices},
        )
    f = lambda: F.max_unpool2d(torch.randn(1, 1, 2, 2), torch.tensor([[[[0, 3], [8, 99]]]]), 2)
    yield refused(f, "an index outside", [[1, 1, 2, 2]], index=99)


# ----------------------------------------------------------------------------------------------------- norms


@entry("layers")
def batch_norm(rng):
    """Three batches one after the other in training, then one in evaluation.

    The batch is normalized with the biased variance; the running variance is of the unbiased one.
    """
    table = [  # shape, momentum (None: the average of all batches), ε, affine
        ((8, 5), 0.1, 1e-5, True),
        ((2, 3), 0.3, 1e-3, True),
        ((4, 3, 5, 6), 0.1, 1e-5, True),
        ((1, 2, 3, 3), 0.1, 1e-5, True),
        ((3, 2, 4), 0.1, 1e-5, False),
        ((5, 4), None, 1e-5, True),
        ((rng.randint(2, 4), rng.randint(1, 3), rng.randint(1, 5)), 0.2, 1e-5, True),
    ]
    for shape, momentum, eps, affine in table:
        channels = shape[1]
        norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(channels, eps, momentum, affine)
        with torch.no_grad():
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            for parameter in norm.parameters():
                parameter.normal_()
        running = lambda suffix: {
            f"running_{x}{suffix}": tensor(getattr(norm, f"running_{x}")) for x in ("mean", "var")
        }
        options = {"axis": 1, "eps": eps, "affine": affine}
        for step in (1, 2, 3):
            start = running("_start")
            case = layer(
                lambda input, **_: norm(input),
                {"input": leaf(*shape)} | dict(norm.named_parameters()),
                {"mode": "train", "momentum": momentum or f"cumulative: 1/{step}", "step": step} | options,
            )
            yield case | start | running("_after")
        norm.eval()
        inputs = {"input": leaf(*shape)} | dict(norm.named_parameters())
        yield layer(lambda input, **_: norm(input), inputs, {"mode": "eval"} | options) | running("")
    yield refused(
        lambda: nn.BatchNorm1d(3)(torch.randn(1, 3)), "one value per channel while training", [[1, 3]]
    )


@entry("layers")
def group_norm(rng):
    for shape, groups in [((2, 6, 3, 2), 1), ((2, 6, 3, 2), 3), ((1, 4, 5), 4), ((3, 4), 2)]:
        yield layer(
            lambda input, weight, bias: F.group_norm(input, groups, weight, bias, 1e-5),
            {"input": leaf(*shape), "weight": leaf(shape[1]), "bias": leaf(shape[1])},
            {"groups": groups, "eps": 1e-5},
        )
    f = lambda: F.group_norm(torch.randn(1, 4, 2), 3)
    yield refused(f, "groups don't divide the channels", [[1, 4, 2]], groups=3)


@entry("layers")
def instance_norm(rng):
    f = lambda input, weight, bias: F.instance_norm(input, weight=weight, bias=bias, eps=1e-5)
    yield layer(f, {"input": leaf(2, 3, 4, 3), "weight": leaf(3), "bias": leaf(3)}, {"eps": 1e-5})


LAST_AXES = [  # shape, number of axes, ε, affine
    ((4, 6), 1, 1e-5, True),
    ((2, 3, 4), 2, 1e-3, True),
    ((1, 1), 1, 1e-5, True),
    ((3, 5), 1, 0.0, False),
    ((2, 1, 7), 1, 1e-5, True),
]


@entry("layers")
def layer_norm(rng):
    def case(x, axes, eps, affine, **tag):
        size = x.shape[-axes:]
        parameters = {"weight": leaf(*size), "bias": leaf(*size)} if affine else {}
        # Far from 0 PyTorch's own y and ∂l/∂x are rounded to 1e-9. A shift changes neither, and is taken off exactly.
        shift = tag.get("shift", 0.0)
        f = lambda input, weight=None, bias=None: F.layer_norm(input - shift, size, weight, bias, eps)
        return layer(f, {"input": x} | parameters, {"axes": axes, "eps": eps, "affine": affine} | tag)

    for shape, axes, eps, affine in LAST_AXES:
        yield case(leaf(*shape), axes, eps, affine)
    yield case(leaf(2, rng.randint(1, 3), rng.randint(1, 3), rng.randint(2, 4)), 3, 1e-5, True)
    yield case((1e6 + torch.randn(2, 4)).requires_grad_(), 1, 1e-5, True, shift=1e6)
    yield case(torch.ones(2, 3).requires_grad_(), 1, 1e-5, False, constant_row=True)


@entry("layers")
def normalize_rows(rng):
    options = {"p": 2, "eps": 1e-12}
    yield layer(lambda input: F.normalize(input, dim=-1, **options), {"input": leaf(3, 4)}, options)


@entry("layers")
def rms_norm(rng):
    for shape, axes, eps, affine in LAST_AXES:
        size = shape[-axes:]
        yield layer(
            lambda input, weight=None: F.rms_norm(input, size, weight, eps),
            {"input": leaf(*shape)} | ({"weight": leaf(*size)} if affine else {}),
            {"axes": axes, "eps": eps, "affine": affine},
        )


# ------------------------------------------------------------------------------------------------- recurrent


def recurrent(op, make, gates=None, lengths=False):
    """The entry of a recurrent layer, states in and out. `lengths`: truncated runs and different lengths, too."""
    long = op == "lstm"  # two states
    states = ("h", "c") if long else ("h",)

    def run(net, input, initial=None):
        y, final = net(input, initial if initial is None or long else initial[0])
        return y, *(final if long else (final,))

    def cases(rng):
        drawn = (rng.randint(1, 3), rng.randint(2, 6), rng.randint(1, 4), rng.randint(1, 4))
        table = [  # batch, time, features, units, layers, bidirectional, bias
            (1, 1, 1, 1, 1, False, True),
            (3, 5, 4, 3, 1, False, True),
            (2, 4, 3, 2, 2, False, True),
            (2, 3, 2, 3, 1, True, True),
            (2, 3, 2, 2, 2, True, True),
            (2, 3, 3, 4, 1, False, False),
            (*drawn, 1, False, True),
        ]
        for n, time, features, units, layers, both, bias in table:
            net = make(features, units, layers, bias=bias, batch_first=True, bidirectional=both)
            initial = {f"{state}0": leaf(layers * (1 + both), n, units) for state in states}
            yield layer(
                lambda input, **given: run(net, input, tuple(given[name] for name in initial)),
                {"input": leaf(n, time, features)} | initial | dict(net.named_parameters()),
                {"layers": layers, "bidirectional": both, "bias": bias} | ({"gates": gates} if gates else {}),
                outputs=("output", *(f"{state}n" for state in states)),
            )
        if lengths:
            yield truncated(make(3, 2, batch_first=True))
            yield different_lengths(make(3, 2, batch_first=True), {})
            net = make(3, 2, 2, batch_first=True, bidirectional=True)
            yield different_lengths(net, {"layers": 2, "bidirectional": True})

    def truncated(net):
        """Six steps as 3 + 3: the state is handed on, its gradient is not, both parts' gradients add."""
        x = torch.randn(2, 6, 3)
        initial, ys, dys = None, [], []
        for part in x.split(3, 1):
            y, *final = run(net, part, initial)
            dys.append(torch.randn_like(y))
            y.backward(dys[-1])
            initial = tuple(state.detach() for state in final)
            ys.append(y)
        case = {"op": f"{op}_truncated", "kind": "layer", "options": {"parts": [3, 3]}, "input": tensor(x)}
        case |= {"output": tensor(torch.cat(ys, 1)), "grad_output": tensor(torch.cat(dys, 1))}
        case |= {f"{state}n": tensor(value) for state, value in zip(states, initial)}
        for name, parameter in net.named_parameters():
            case |= {name: tensor(parameter), f"grad_{name}": tensor(parameter.grad)}
        return case

    def different_lengths(net, options):
        """Behind a sequence's end y is 0; its last state is that at its end."""
        ends = torch.tensor([4, 1, 3])

        def f(input, **_):
            packed = nn.utils.rnn.pack_padded_sequence(input, ends, batch_first=True, enforce_sorted=False)
            y, *final = run(net, packed)
            return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0], final[0]

        inputs = {"input": leaf(3, 4, 3)} | dict(net.named_parameters())
        case = layer(f, inputs, options, outputs=("output", "hn"), lengths=ends.tolist())
        return {"op": f"{op}_lengths"} | case

    entry("layers", op)(cases)


recurrent("gru", nn.GRU, "r, z, n; b_hn inside r ⊙ (…)", lengths=True)
recurrent("lstm", nn.LSTM, "i, f, g, o", lengths=True)
recurrent("rnn_relu", lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options))
recurrent("rnn_tanh", lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="tanh", **options))


# ------------------------------------------------------------------------------------------------- attention


def underscored(module):
    """A module's parameters. A name that goes into a keyword can't have dots."""
    return {name.replace(".", "_"): parameter for name, parameter in module.named_parameters()}


def blur(module, scale):
    """Biases start at 0 and gains at 1, where a mistake can hide."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return module


def later(time):
    """The keys behind each query's own place."""
    return torch.ones(time, time, dtype=torch.bool).triu(1)


@entry("layers")
def multi_head_attention(rng):
    """`weights`: the probabilities. `lengths` hide keys only: a query behind its sample's end has an output."""
    table = [  # batch, queries, keys, features, heads, causal, lengths, bias; keys: None is self-attention
        (2, 4, None, 6, 2, False, None, True),
        (2, 5, None, 4, 4, True, None, True),
        (3, 4, None, 4, 2, False, [4, 2, 1], True),
        (3, 4, None, 4, 1, True, [4, 2, 1], False),
        (2, 3, 5, 4, 2, False, None, True),
        (2, 3, 5, 4, 2, False, [5, 2], True),
        (1, 1, None, 2, 1, True, None, True),
        (
            rng.randint(1, 3),
            rng.randint(1, 6),
            None,
            6,
            rng.choice([1, 2, 3]),
            rng.random() < 0.5,
            None,
            True,
        ),
    ]
    for n, time, source, features, heads, causal, lengths, bias in table:
        net = nn.MultiheadAttention(features, heads, bias=bias, batch_first=True)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.normal_(0, 0.5)
        hidden = None if lengths is None else torch.arange(source or time) >= torch.tensor(lengths)[:, None]
        masks = {"key_padding_mask": hidden, "attn_mask": later(time) if causal else None}

        def run(input, memory=None, **options):
            keys = input if memory is None else memory
            return net(input, keys, keys, **masks, **options)

        x = {"input": leaf(n, time, features)} | ({"memory": leaf(n, source, features)} if source else {})
        options = {
            "heads": heads,
            "causal": causal,
            "lengths": lengths,
            "cross": source is not None,
            "bias": bias,
        }
        yield layer(
            lambda input, memory=None, **_: run(input, memory, need_weights=False)[0],
            x | underscored(net),
            options | {"note": "in_proj_weight is [q; k; v] stacked, [3e, e]"},
            weights=tensor(run(**x, average_attn_weights=False)[1]),
        )


@entry("layers")
def scaled_dot_product(rng):
    """A row that may see no key gives 0, and 0 as its gradient."""
    table = [  # batch, heads, queries, keys, features, causal, lengths
        (1, 1, 1, 1, 1, False, None),
        (2, 2, 4, 4, 3, False, None),
        (2, 2, 4, 4, 3, True, None),
        (2, 1, 3, 5, 2, False, None),
        (3, 2, 4, 4, 2, False, [4, 1, 3]),
        (3, 1, 4, 4, 2, True, [4, 1, 3]),
        (2, 1, 3, 3, 2, False, [3, 0]),
        (2, 1, 2, 4, 2, True, None),
    ]
    for n, heads, queries, keys, features, causal, lengths in table:
        seen = torch.ones(n, 1, queries, keys, dtype=torch.bool)
        constants = {}
        if lengths is not None:
            seen &= (torch.arange(keys) < torch.tensor(lengths)[:, None])[:, None, None, :]
            constants["mask"] = seen.clone()
        if causal:
            seen = seen.tril(keys - queries)

        def f(query, key, value, **_):
            scores = query @ key.transpose(-1, -2) / math.sqrt(features)
            p = torch.where(seen, scores, -torch.inf).softmax(-1)
            return torch.where(seen.any(-1, keepdim=True), p, 0.0) @ value

        inputs = {"query": leaf(n, heads, queries, features)}
        inputs |= {name: leaf(n, heads, keys, features) for name in ("key", "value")}
        if seen.any(-1).all():
            assert torch.allclose(
                f(**inputs), F.scaled_dot_product_attention(**inputs, attn_mask=seen), atol=1e-12
            )
        note = "[batch, heads, time, features]; mask 1 = may be seen; causal is aligned at the end"
        yield layer(f, inputs, {"causal": causal, "lengths": lengths, "note": note}, constants)


@entry("layers")
def sinusoidal_positions(rng):
    time, features = 7, 6
    angles = torch.arange(time).unsqueeze(1) / 10000 ** (torch.arange(0, features, 2) / features)
    y = torch.stack([angles.sin(), angles.cos()], -1).reshape(time, features)
    yield {
        "kind": "value",
        "options": {"time": time, "features": features, "base": 10000},
        "output": tensor(y),
    }


@entry("layers")
def transformer_block(rng):
    for first, activation in [(False, "relu"), (True, "gelu")]:
        net = blur(
            nn.TransformerEncoderLayer(4, 2, 6, 0.0, activation, batch_first=True, norm_first=first), 0.3
        )
        options = {
            "heads": 2,
            "feedforward": 6,
            "activation": activation,
            "norm_first": first,
            "causal": True,
            "eps": 1e-5,
        }
        yield layer(
            lambda input, **_: net(input, src_mask=later(3)),
            {"input": leaf(2, 3, 4)} | underscored(net),
            options,
        )


@entry("layers")
def transformer_decoder_block(rng):
    net = blur(nn.TransformerDecoderLayer(4, 2, 6, 0.0, "gelu", batch_first=True, norm_first=True), 0.3)
    options = {
        "heads": 2,
        "feedforward": 6,
        "activation": "gelu",
        "norm_first": True,
        "causal": True,
        "eps": 1e-5,
    }
    f = lambda input, memory, **_: net(input, memory, tgt_mask=later(3))
    yield layer(f, {"input": leaf(2, 3, 4), "memory": leaf(2, 5, 4)} | underscored(net), options)


# --------------------------------------------------------------------------------------------------- regular


@entry("layers")
def flatten(rng):
    """The axes from `start_axis` become one."""
    for shape, start in [
        ((3, 5), 1),
        ((2, 3, 4), 1),
        ((2, 3, 4, 5), 1),
        ((2, 3, 4, 5), 2),
        ((1, 1, 1, 1), 1),
    ]:
        yield layer(lambda input: input.flatten(start), {"input": leaf(*shape)}, {"start_axis": start})
