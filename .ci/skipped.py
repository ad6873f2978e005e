"""List the checks that the gate left out, and why. `make test` lists the tests that skip themselves."""

from __future__ import annotations

import os
import shutil

import torch
from long_tests import last_outcome, long_tests

REASONS = {
    "training on a CUDA device": None
    if torch.cuda.is_available()
    else "no CUDA device here; the engine is tested on CPU tensors",
    "compiling the LaTeX tables": "no TeX is installed for it; their structure is tested",
    "pages in a browser": None
    if shutil.which("chromium") or shutil.which("chromium-browser")
    else "no chromium is installed, and `apt-get install chromium` needs root",
    "types of the page's scripts": None
    if shutil.which("npm")
    else "no npm, which brings the TypeScript compiler",
    "public mirrors of the data sets": "a gate must not depend on them; tested against local servers",
    "the paper preset": "hours of computing; the quick preset runs whole",
    "permissions as an unprivileged user": None if hasattr(os, "fork") else "needs a POSIX system",
}

for check, reason in REASONS.items():
    print(f"{'ran' if reason is None else 'skipped':8} {check}" + (f": {reason}" if reason else ""))
for test, law in long_tests().items():
    print(f"{'skipped':8} {test}: {law}; minutes, so run by `make test-long`: {last_outcome(test)}")
