"""List what the gate left out, and why. Nothing is skipped silently."""

from __future__ import annotations

import os

import torch

REASONS = {
    "training on a CUDA device": None
    if torch.cuda.is_available()
    else "no CUDA device here; the engine is tested on CPU tensors",
    "compiling the LaTeX tables": "no TeX is installed for it; their structure is tested",
    "public mirrors of the data sets": "a gate must not depend on them; tested against local servers",
    "the paper preset": "hours of computing; the quick preset runs whole",
    "permissions as an unprivileged user": None if hasattr(os, "fork") else "needs a POSIX system",
}

for what, reason in REASONS.items():
    print(f"{'ran' if reason is None else 'skipped':8} {what}" + (f": {reason}" if reason else ""))
