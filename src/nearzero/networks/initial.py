"""Initial weights equal to those that PyTorch draws for the same seed.

They are computed without PyTorch, because importing it takes two seconds. PyTorch's generator on the
processor is the Mersenne twister MT19937, seeded with the lower 32 bits of the seed, as is NumPy's
`RandomState`. A float32 from low to high is made of the lower 24 bits k of a draw: low + (high - low) k /
2^24, rounded once. So these weights are the same on every machine. PyTorch's weights equal them where PyTorch
uses fused multiply-adds (with AVX2, for example); elsewhere they may differ in the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt

from nearzero.networks.two_layer import Stack, TwoLayer

__all__ = ["generator", "initial_linear", "initial_stack"]

Floats = npt.NDArray[np.float32]


def initial_stack(
    seeds: Sequence[int], activation_name: str, *, inputs: int = 784, units: int = 128, classes: int = 10
) -> Stack:
    """Return networks initialised as in PyTorch, one per seed.

    The weights for seed k are those of ``torch.manual_seed(k); nn.Linear(inputs, units); nn.Linear(units,
    classes)``: uniform between -1 / sqrt(fan in) and 1 / sqrt(fan in). Weights are drawn before biases.

    Raises:
        InputError: an unknown activation.

    Example:
        >>> from nearzero.networks.initial import initial_stack
        >>> stack = initial_stack([0, 1], "relu", inputs=64, units=16, classes=10)
        >>> len(stack), stack.w1.shape, stack[1].activation
        (2, (2, 16, 64), 'relu')
        >>> bool(abs(stack.w1).max() <= 1 / 8)
        True
    """

    def network(seed: int) -> TwoLayer:
        draws = generator(seed)
        hidden = initial_linear(draws, inputs, units)
        return TwoLayer(*hidden, *initial_linear(draws, units, classes), activation=activation_name)

    return Stack.of([network(seed) for seed in seeds])


def generator(seed: int) -> np.random.RandomState:
    """Return a generator that draws the numbers that PyTorch draws after ``torch.manual_seed(seed)``."""
    return np.random.RandomState(seed % 2**32)


def initial_linear(draws: np.random.RandomState, fan_in: int, fan_out: int) -> tuple[Floats, Floats]:
    """Return weights (fan_out, fan_in) and biases (fan_out,) as ``nn.Linear`` draws them."""
    # 1 / sqrt(fan in), but computed as in kaiming_uniform_ with a = sqrt(5), which rounds differently
    bound = sqrt(3) * (sqrt(2 / (1 + sqrt(5) ** 2)) / sqrt(fan_in))
    weight = _uniform(draws, bound, fan_out * fan_in).reshape(fan_out, fan_in)
    return weight, _uniform(draws, 1 / sqrt(fan_in), fan_out)


def _uniform(draws: np.random.RandomState, bound: float, count: int) -> Floats:
    high = np.float32(bound)
    low, width = -high, high - -high  # float32
    fraction = (draws.randint(0, 2**32, count, dtype=np.uint32) & 0xFFFFFF) / 2.0**24
    exact = float(low) + fraction * float(width)  # float64 holds the product and the sum
    return exact.astype(np.float32)
