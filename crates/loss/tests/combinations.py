"""Writes combinations.json: PyTorch's cross-entropy for every combination of its options, and at infinite logits.

    python3 combinations.py > combinations.json

It ran with PyTorch 1.13 in float64; what it uses has kept its meaning since 1.10.
"""

import itertools
import json

import torch
from torch.nn.functional import cross_entropy

torch.manual_seed(20200714)
torch.set_default_dtype(torch.float64)

ROWS, CLASSES, IGNORED = 6, 4, 2
logits = 2 * torch.randn(ROWS, CLASSES)
labels = torch.tensor([0, 2, 3, 1, 2, 3])
probabilities = torch.softmax(torch.randn(ROWS, CLASSES), dim=1)
weights = torch.tensor([0.5, 2.0, 0.0, 1.25])

# One row each: a class that cannot be, the label's own class among them, certainty, and nothing possible.
inf = float("inf")
edges = torch.tensor([[1.0, -inf, 0.5], [-inf, 1.0, 0.5], [inf, 1.0, 0.5], [-inf, -inf, -inf]])
edge_labels = torch.zeros(4, dtype=torch.long)
edge_probabilities = torch.tensor([[1.0, 0.0, 0.0]] * 4)


def text(x):
    """JSON has no infinities: every number that is not finite is a string."""
    if isinstance(x, list):
        return [text(x) for x in x]
    return x if x == x and abs(x) != inf else str(x)


def tensor(x):
    return {"shape": list(x.shape), "data": text(x.flatten().tolist())}


def case(prediction, target, reduction, weighted, smoothing, ignored):
    prediction = prediction.clone().requires_grad_()
    options = {"weight": weights[: prediction.shape[1]] if weighted else None}
    if ignored:
        options["ignore_index"] = IGNORED
    value = cross_entropy(prediction, target, reduction=reduction, label_smoothing=smoothing, **options)
    value.backward()
    return {
        "reduction": reduction,
        "weighted": weighted,
        "label_smoothing": smoothing,
        "ignored": ignored,
        "value": text(value.item()),
        "grad_prediction": tensor(prediction.grad),
    }


every = list(itertools.product(["mean", "sum"], [False, True], [0.0, 0.1, 1.0]))
print(json.dumps({
    "source": f"PyTorch {torch.__version__}, float64: combinations.py",
    "class_weights": weights.tolist(),
    "ignore_index": IGNORED,
    "prediction": tensor(logits),
    "labels": labels.tolist(),
    "probabilities": tensor(probabilities),
    "of_labels": [case(logits, labels, *options, ignored) for options in every for ignored in [False, True]],
    "of_probabilities": [case(logits, probabilities, *options, False) for options in every],
    "edges": tensor(edges),
    "edge_labels": edge_labels.tolist(),
    "edge_probabilities": tensor(edge_probabilities),
    "edges_of_labels": [case(edges[i : i + 1], edge_labels[i : i + 1], "sum", False, smoothing, False)
                        for i in range(4) for smoothing in [0.0, 0.1]],
    "edges_of_probabilities": [case(edges[i : i + 1], edge_probabilities[i : i + 1], "sum", False, smoothing, False)
                               for i in range(4) for smoothing in [0.0, 0.1]],
}, indent=None, separators=(",", ":")).replace('},{"red', '},\n{"red').replace(',"of_', ',\n"of_').replace(',"edges', ',\n"edges'))
