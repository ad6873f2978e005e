"""Several runs of a small model, its data, and a verdict that is measured in a moment."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import nearzero as nz

RULES = nz.Rules(targets=(0.2,), checks=("held_out",))
DESIGN = nz.Design(families=("gains", "cap", "signed_shift"), targets=(0.2,), draws=2, checks=())
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(120, 4)).astype(np.float32), RNG.integers(0, 3, 120)
OTHER = RNG.normal(size=(60, 4)).astype(np.float32), RNG.integers(0, 3, 60)
CODE = """
from torch import nn

def build():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
"""


def build(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
