#!/usr/bin/env python3
"""Writes from_torch.safetensors with PyTorch: a network, a batch, and what the network makes of it.

    python3 from_torch.py from_torch.safetensors

Needs torch and safetensors; the file was written with 2.15.0 and 0.8.0. `tests/safetensors.rs` of the repository
computes the same with Backrule's layers.
"""

import sys

import torch
from safetensors.torch import save_file

torch.manual_seed(7)
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
x = torch.randn(5, 3)
with torch.no_grad():
    state = {**net.state_dict(), "x": x, "y": net(x), "x64": x.double() / 3}
save_file(state, sys.argv[1], metadata={"format": "pt"})
