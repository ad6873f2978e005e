"""The paper's network, z = W1 x + b1, logits = W2 act(z) + b2: a single one, and a stack of many runs.

This module holds arrays only. `nearzero.training` trains networks, `nearzero.analysis.sweep` perturbs them.
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
from nearzero.support.words import number_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    ArrayLike = npt.ArrayLike | Tensor

__all__ = ["Stack", "TwoLayer", "as_network", "from_module"]

Floats = npt.NDArray[np.float32]
ARRAYS = ("w1", "b1", "w2", "b2")
MOST_CLASSES = 65_535  # predictions are kept in two bytes
# Operations that a module's forward may run beside its layers. All others might compute something else under a
# perturbation, such as a limit that no activation reaches, or a branch that is never taken.
BESIDE = {
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "squeeze",
        "unsqueeze",
        "t",
        "transpose",
        "alias",
        "detach",
        "clone",
    ),
    *("_to_copy", "addmm", "mm", "linear", "_log_softmax"),
}


def _float32(name: str, array: Any, ndim: int) -> Floats:
    """Return a read-only copy in float32 of the array called `name`, which must have `ndim` dimensions."""
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite, which `finite` reports
        copy = np.array(as_numbers(array, name), dtype=np.float32, order="C")
    if copy.ndim != ndim or not copy.size:
        raise InputError(
            f"{name} must have {number_of(ndim, 'dimension')}, none of them 0; got shape {copy.shape}"
        )
    copy.setflags(write=False)
    return copy


@dataclass(frozen=True, eq=False)
class TwoLayer:
    """One network of D inputs, U hidden units and K classes: four arrays and the name of an activation.

    Arrays or tensors of real numbers are accepted and kept as read-only copies in float32.

    Attributes:
        w1: (U, D), b1: (U,): the hidden layer, z = w1 x + b1.
        w2: (K, U), b2: (K,): the output layer, logits = w2 act(z) + b2.
        activation: one of the nine names in `nearzero.ACTIVATIONS`.

    Raises:
        InputError: an array isn't one of real numbers, the shapes don't fit each other, there are more than
            65,535 classes, or the activation is unknown.

    Example:
        >>> import numpy as np
        >>> import nearzero as nz
        >>> w1, w2 = [[1, 1], [1, -1]], [[1, 0], [0, 2]]
        >>> network = nz.TwoLayer(w1, b1=[0, 0], w2=w2, b2=[0, 0.5], activation="abs")
        >>> network.inputs, network.units, network.classes
        (2, 2, 2)
        >>> z = network.w1 @ np.array([1.0, 2.0]) + network.b1
        >>> (network.w2 @ network.act(z) + network.b2).tolist()  # z = (3, -1)
        [3.0, 2.5]
        >>> len(network.to_module())  # Linear, Abs, Linear
        3
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    activation: str = "relu"

    if TYPE_CHECKING:  # the arguments have wider types than the attributes

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
        """Return the activation itself, a function."""
        return activation(self.activation)

    @property
    def inputs(self) -> int:
        """Return D, the number of inputs."""
        return int(self.w1.shape[1])

    @property
    def units(self) -> int:
        """Return U, the number of hidden units."""
        return len(self.w1)

    @property
    def classes(self) -> int:
        """Return K, the number of classes."""
        return len(self.w2)

    @property
    def finite(self) -> bool:
        """Return True if every weight and bias is finite; in a network that diverged, some aren't."""
        return all(bool(np.isfinite(getattr(self, name)).all()) for name in ARRAYS)

    def to_module(self) -> nn.Sequential:
        """Return the same network as a PyTorch module: Linear, activation, Linear."""
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
    """R networks of one shape, stacked on the first axis. Training engines change the arrays in place.

    Attributes:
        w1: (R, U, D), b1: (R, U), w2: (R, K, U), b2: (R, K), float32.
        activations: the name of each network's activation, (R,).

    Example:
        >>> import nearzero as nz
        >>> networks = [nz.TwoLayer([[1, 2]], [0], [[1], [-1]], [0, 0], name) for name in ("relu", "abs")]
        >>> stack = nz.Stack.of(networks)
        >>> len(stack), stack.w1.shape, stack.activations
        (2, (2, 1, 2), ('relu', 'abs'))
        >>> stack[1].activation, len(stack.part(slice(1)))
        ('abs', 1)
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    activations: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.w1)

    def __getitem__(self, index: int) -> TwoLayer:
        """Return a copy of network `index`."""
        w1, b1, w2, b2 = (getattr(self, name)[index].copy() for name in ARRAYS)
        return TwoLayer(w1, b1, w2, b2, self.activations[index])

    def __iter__(self) -> Iterator[TwoLayer]:
        return (self[index] for index in range(len(self)))

    @classmethod
    def of(cls, networks: Sequence[TwoLayer]) -> Stack:
        """Return a stack of copies of networks of one shape."""
        w1, b1, w2, b2 = (np.stack([getattr(network, name) for network in networks]) for name in ARRAYS)
        return cls(w1, b1, w2, b2, tuple(network.activation for network in networks))

    @classmethod
    def joined(cls, stacks: Sequence[Stack]) -> Stack:
        """Return one stack with the networks of all stacks, whose shapes may differ in R only."""
        w1, b1, w2, b2 = (np.concatenate([getattr(stack, name) for stack in stacks]) for name in ARRAYS)
        return cls(w1, b1, w2, b2, tuple(name for stack in stacks for name in stack.activations))

    def part(self, rows: slice) -> Stack:
        """Return a stack of the given networks; its arrays are views."""
        return Stack(self.w1[rows], self.b1[rows], self.w2[rows], self.b2[rows], self.activations[rows])


def as_network(network: TwoLayer | nn.Module) -> TwoLayer:
    """Return a `TwoLayer` unchanged, or read it from a PyTorch module Linear, activation, Linear.

    Raises:
        InputError: `network` is neither of these.
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
    """Return the two-layer network of a module of the form Linear, activation, Linear.

    Flatten and dropout layers are skipped. If its weights are finite, the module is run once on a few inputs, to
    check that its forward pass computes this network.

    Raises:
        InputError: the module has another form, lacks a bias, can't be run, or computes something else.
    """
    from torch import nn

    from nearzero.networks.modules import activation_name

    passive = (nn.Flatten, nn.Dropout)
    leaves = [child for child in module.modules() if not any(True for _ in child.children())]
    layers = [leaf for leaf in leaves if not isinstance(leaf, passive)]
    match layers:
        case [nn.Linear() as hidden, act, nn.Linear() as output]:
            pass
        case _:
            shape = ", ".join(type(layer).__name__ for layer in layers) or "no layers"
            raise InputError(f"a two-layer network is Linear, activation, Linear; this module has {shape}")
    if hidden.bias is None or output.bias is None:
        raise InputError("both Linear layers need a bias; give zeros where there is none")
    name = activation_name(act)
    network = TwoLayer(hidden.weight, hidden.bias, output.weight, output.bias, activation=name)
    if network.finite:
        _check_forward(module, network, (hidden, act, output))
    return network


def _check_forward(
    module: nn.Module, network: TwoLayer, parts: tuple[nn.Linear, nn.Module, nn.Linear]
) -> None:
    """Raise an error unless the module computes the network's logits on a few inputs, by its layers alone.

    The check is needed because the order of a module's layers doesn't determine its `forward`. Logits may
    differ by a constant per example, as log-probabilities do. The modes of the module and its children are
    restored.

    Args:
        module: the module.
        network: the network that was read from it.
        parts: the layers that it was read from.
    """
    import torch

    from nearzero.networks.modules import run_between

    like = parts[0].weight
    generator = torch.Generator().manual_seed(0)
    x = 10 * torch.randn(32, network.inputs, generator=generator)
    modes = [(child, child.training) for child in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            logits, operations = run_between(module, parts, x.to(like))
            logits = logits.double().cpu()
            hidden, act, output = network.to_module().double()
            expected = output(act(hidden(x.to(like).double().cpu())))
    except Exception as error:  # a user's forward may raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the module can't be run on inputs (examples, {network.inputs}): {reason}"
        ) from error
    finally:
        for child, mode in modes:
            child.training = mode
    if logits.shape != expected.shape:
        raise InputError(
            f"the module gives {tuple(logits.shape)} where its layers give {tuple(expected.shape)}"
        )
    logits, expected = (values - values.mean(dim=1, keepdim=True) for values in (logits, expected))
    difference = float((logits - expected).abs().max())
    tolerance = 64 * torch.finfo(like.dtype).eps * max(1.0, float(expected.abs().max()))
    more = ", ".join(sorted(operations - BESIDE))
    if more or not difference <= tolerance:  # not >, so that NaN is refused too
        reason = f"it calls {more}" if more else f"logits differ by up to {difference:.3g}"
        raise InputError(
            "the module's forward computes something else than Linear, activation, Linear of its layers "
            f"({reason}); make a TwoLayer from its arrays"
        )
