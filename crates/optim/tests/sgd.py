"""Writes sgd.json: what PyTorch's SGD makes of a parameter, for every combination of its options.

    python3 sgd.py > sgd.json

It ran with PyTorch 1.13 in float64; SGD has kept its meaning since.
"""

import json

import torch

torch.manual_seed(20200714)
torch.set_default_dtype(torch.float64)

STEPS, CHANGE = 6, 4  # the learning rate changes after the fourth step
start = torch.randn(3)
grads = [torch.randn(3) for _ in range(STEPS)]


def case(**options):
    x = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=0.1, **options)
    after = []
    for step, grad in enumerate(grads):
        if step == CHANGE:
            optimizer.param_groups[0]["lr"] = 0.03
        x.grad = grad.clone()
        optimizer.step()
        after.append(x.tolist())
    return {"options": options, "after": after}


cases = []
for weight_decay in [0.0, 0.05]:
    for momentum in [0.0, 0.5, 0.9, 1.5]:
        for dampening in [0.0, 0.3, 1.0, -0.5]:
            cases.append(case(weight_decay=weight_decay, momentum=momentum, dampening=dampening))
        if momentum > 0:
            cases.append(case(weight_decay=weight_decay, momentum=momentum, nesterov=True))

print(json.dumps({
    "source": f"PyTorch {torch.__version__}, float64: sgd.py",
    "learning_rates": [0.1 if step < CHANGE else 0.03 for step in range(STEPS)],
    "start": start.tolist(),
    "grads": [grad.tolist() for grad in grads],
    "cases": cases,
}, separators=(",", ":")).replace('},{"options', '},\n{"options'))
