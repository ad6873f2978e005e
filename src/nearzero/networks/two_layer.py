"""The paper's network, z = W1 x + b1, logits = W2 act(z) + b2, alone and stacked many runs at a time.

Only arrays live here: how networks are trained is in `nearzero.training`, how they are perturbed in
`nearzero.analysis.sweep`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nearzero.errors import InputError
from nearzero.perturbations.activations import Activation, activation
from nearzero.support.arrays import as_numbers

if TYPE_CHECKING:
    from torch import Tensor, nn

    ArrayLike = npt.ArrayLike | Tensor

__all__ = ["Stack", "TwoLayer", "as_network", "from_module"]

Floats = npt.NDArray[np.float32]
ARRAYS = ("w1", "b1", "w2", "b2")
MOST_CLASSES = 65_535  # predictions are kept in two bytes


def _float32(name: str, array: Any, ndim: int) -> Floats:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and `finite` says so
        result = np.array(as_numbers(array, name), dtype=np.float32, order="C")
    if result.ndim != ndim or not result.size:
        raise InputError(f"{name} must have {ndim} dimensions, none of them 0; got shape {result.shape}")
    result.setflags(write=False)
    return result


@dataclass(frozen=True, eq=False)
class TwoLayer:
    """One network, from four plain arrays and the name of an activation.

    Attributes:
        w1: (U, D), b1: (U,): the hidden layer, z = w1 x + b1.
        w2: (K, U), b2: (K,): the output layer, logits = w2 act(z) + b2.
        activation: one of the nine names of `nearzero.perturbations.activations`.

    Arrays or tensors of real numbers are taken, and kept as read-only copies in float32.

    Raises:
        InputError: shapes that don't fit each other, or an unknown activation.
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    activation: str = "relu"

    if TYPE_CHECKING:  # what it takes is wider than what it keeps

        def __init__(
            self, w1: ArrayLike, b1: ArrayLike, w2: ArrayLike, b2: ArrayLike, activation: str = "relu"
        ) -> None: ...

    def __post_init__(self) -> None:
        activation(self.activation)
        for name, ndim in zip(ARRAYS, (2, 1, 2, 1), strict=True):
            object.__setattr__(self, name, _float32(name, getattr(self, name), ndim))
        units, classes = len(self.w1), len(self.w2)
        if self.b1.shape != (units,) or self.w2.shape != (classes, units) or self.b2.shape != (classes,):
            shapes = ", ".join(f"{name} {getattr(self, name).shape}" for name in ARRAYS)
            raise InputError(f"shapes don't fit: {shapes}; needed are w1 (U, D), b1 (U,), w2 (K, U), b2 (K,)")
        if classes > MOST_CLASSES:
            raise InputError(f"a network can have up to {MOST_CLASSES:,} classes; got {classes:,}")

    @property
    def act(self) -> Activation:
        """The activation itself."""
        return activation(self.activation)

    @property
    def inputs(self) -> int:
        """D, the number of inputs."""
        return int(self.w1.shape[1])

    @property
    def units(self) -> int:
        """U, the number of hidden units."""
        return len(self.w1)

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return len(self.w2)

    @property
    def finite(self) -> bool:
        """Whether every weight is a finite number; a network that diverged has others."""
        return all(bool(np.isfinite(getattr(self, name)).all()) for name in ARRAYS)

    def to_module(self) -> nn.Sequential:
        """The same network as Linear, activation, Linear in PyTorch."""
        import torch

        from nearzero.networks.modules import activation_module

        linear = partial(torch.nn.utils.skip_init, torch.nn.Linear)  # draws no random numbers
        hidden, output = linear(self.inputs, self.units), linear(self.units, self.classes)
        model = torch.nn.Sequential(hidden, activation_module(self.activation), output)
        state = {"0.weight": self.w1, "0.bias": self.b1, "2.weight": self.w2, "2.bias": self.b2}
        model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in state.items()})
        return model


@dataclass(eq=False)
class Stack:
    """R networks of one shape, stacked on the first axis; an engine changes the arrays in place.

    Attributes:
        w1: (R, U, D), b1: (R, U), w2: (R, K, U), b2: (R, K), float32.
        activations: (R,) of each.
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    activations: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.w1)

    def __getitem__(self, index: int) -> TwoLayer:
        """A copy of network `index`."""
        w1, b1, w2, b2 = (getattr(self, name)[index].copy() for name in ARRAYS)
        return TwoLayer(w1, b1, w2, b2, self.activations[index])

    def __iter__(self) -> Iterator[TwoLayer]:
        return (self[index] for index in range(len(self)))

    @classmethod
    def of(cls, networks: Sequence[TwoLayer]) -> Stack:
        """Stack networks of one shape."""
        w1, b1, w2, b2 = (np.stack([getattr(network, name) for network in networks]) for name in ARRAYS)
        return cls(w1, b1, w2, b2, tuple(network.activation for network in networks))

    @classmethod
    def joined(cls, stacks: Sequence[Stack]) -> Stack:
        """One stack of several, of the same shape but for R."""
        w1, b1, w2, b2 = (np.concatenate([getattr(stack, name) for stack in stacks]) for name in ARRAYS)
        return cls(w1, b1, w2, b2, tuple(name for stack in stacks for name in stack.activations))

    def part(self, rows: slice) -> Stack:
        """Some of the networks; their arrays are views."""
        return Stack(self.w1[rows], self.b1[rows], self.w2[rows], self.b2[rows], self.activations[rows])


def as_network(network: TwoLayer | nn.Module) -> TwoLayer:
    """A network as it is, or read from a PyTorch module Linear, activation, Linear.

    Raises:
        InputError: neither of the two.
    """
    if isinstance(network, TwoLayer):
        return network
    from torch import nn

    if isinstance(network, nn.Module):
        return from_module(network)
    raise InputError(
        f"a network is a TwoLayer or a PyTorch module Linear, activation, Linear; got {type(network).__name__}"
    )


def from_module(module: nn.Module) -> TwoLayer:
    """Read a network of the shape Linear, activation, Linear; flatten and dropout are passed over.

    The module is run once on a few inputs, to see that it computes what its layers say.

    Raises:
        InputError: the module has another shape, or computes something else, and what was seen instead.
    """
    from torch import nn

    from nearzero.networks.modules import activation_name

    passive = (nn.Flatten, nn.Dropout)
    leaves = [each for each in module.modules() if not any(True for _ in each.children())]
    parts = [each for each in leaves if not isinstance(each, passive)]
    match parts:
        case [nn.Linear() as hidden, act, nn.Linear() as output]:
            pass
        case _:
            shape = ", ".join(type(each).__name__ for each in parts) or "no layers"
            raise InputError(f"a two-layer network is Linear, activation, Linear; this module has {shape}")
    if hidden.bias is None or output.bias is None:
        raise InputError("both Linear layers need a bias; give zeros where there is none")
    name = activation_name(act)
    network = TwoLayer(hidden.weight, hidden.bias, output.weight, output.bias, activation=name)
    if network.finite:
        _check_forward(module, network, hidden.weight)
    return network


def _check_forward(module: nn.Module, network: TwoLayer, like: Tensor) -> None:
    """Hold what the module computes on a few inputs against what its layers say; `like` has its precision and device.

    The order of layers says nothing about `forward`. Logits may differ by a constant per example, as
    log-probabilities do. The module's mode is put back.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    x = 10 * torch.randn(32, network.inputs, generator=generator)
    modes = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            found = module(x.to(like)).double().cpu()
            hidden, act, output = network.to_module().double()
            expected = output(act(hidden(x.to(like).double().cpu())))
    except Exception as error:  # whatever a stranger's forward may raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the module can't be run on inputs (examples, {network.inputs}): {reason}"
        ) from error
    finally:
        for each, mode in modes:
            each.training = mode
    if found.shape != expected.shape:
        raise InputError(
            f"the module gives {tuple(found.shape)} where its layers give {tuple(expected.shape)}"
        )
    found, expected = (each - each.mean(dim=1, keepdim=True) for each in (found, expected))
    slack = 64 * torch.finfo(like.dtype).eps * max(1.0, float(expected.abs().max()))
    if not float((found - expected).abs().max()) <= slack:
        raise InputError(
            "the module's forward computes something else than Linear, activation, Linear of its layers "
            f"(logits differ by up to {float((found - expected).abs().max()):.3g}); make a TwoLayer from its arrays"
        )
