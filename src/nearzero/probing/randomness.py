"""The states of all random generators: Python's, NumPy's, and PyTorch's on every device in use."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["RandomStates", "seed_all"]


def _generators() -> list[torch.Generator]:
    """PyTorch's own, on every device in use."""
    found = [torch.default_generator]
    if torch.cuda.is_initialized():
        found += torch.cuda.default_generators
    if torch.backends.mps.is_available():
        found.append(torch.mps._get_default_mps_generator())
    return found


class RandomStates:
    """The states as they are now, to be put back.

    Args:
        more: generators beside the global ones.
    """

    def __init__(self, more: tuple[torch.Generator, ...] = ()) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._torch = [(each, each.get_state()) for each in (*_generators(), *more)]

    def restore(self) -> None:
        """Put them back."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for generator, state in self._torch:
            generator.set_state(state)


def seed_all() -> None:
    """The same states each time."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    for each in _generators():
        each.manual_seed(0)
