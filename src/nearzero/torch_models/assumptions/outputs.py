"""Read a model's output: whether it holds logits or probabilities, and which dimension holds the classes.

Both are decided once, before any number, and hold for all batches. A batch that contradicts them is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from nearzero.errors import InputError, check_choice
from nearzero.torch_models.assumptions.origins import TracedOutput

__all__ = [
    "ClassAxis",
    "OutputKind",
    "OutputReading",
    "are_labels",
    "are_one_hot",
    "check_settings",
    "choose_axis",
    "choose_kind",
    "classes_of",
    "fits_targets",
    "has_labels",
]

OutputKind = Literal["logits", "probabilities", "log-probabilities"]
ClassAxis = int | Literal["none"]
OF_ZERO = {4: -103.98, 8: -745.2}  # below the logarithm of the least positive number, by bytes
ROUNDING = {2: 2e-2, 4: 1e-4, 8: 1e-4}  # of sums of probabilities, by bytes of a number


def check_settings(kind: object, axis: object) -> None:
    """Raise an error for an unknown kind of output, or for what can't be a dimension of classes."""
    if kind is not None:
        check_choice("output_kind", kind, get_args(OutputKind))
    if axis is not None and axis != "none" and (type(axis) is not int or axis == 0):
        raise InputError(
            "class_axis must be the dimension of the classes, a whole number other than 0 (which holds the "
            f"examples), or 'none' if each number is an item of its own; got {axis!r}"
        )


@dataclass(frozen=True)
class OutputReading:
    """Turn a model's output into logits with the classes on the last dimension.

    Attributes:
        kind: what the output holds.
        class_axis: the dimension of the classes; None if each number is an item of its own.
        ndim: the number of dimensions of the output; None if it may have any.
        adds_up: whether all probabilities of an item must add up to 1.
        label_axis: the dimension of the labels, each of which is an item of its own for an example or token; None if
            there is none, or if it isn't known.
    """

    kind: OutputKind = "logits"
    class_axis: int | None = -1
    ndim: int | None = None
    adds_up: bool = False
    label_axis: int | None = None

    @property
    def items(self) -> str:
        """Return the name of the items: examples, or the tokens or pixels of them."""
        dimensions = (self.ndim or 2) - (self.class_axis is not None)
        return ("examples", "examples", "tokens", "pixels")[min(dimensions, 3)]

    def classes_last(self, output: Tensor) -> Tensor:
        """Return the output (..., K), as the model returned it, with its classes on the last dimension."""
        if self.class_axis is None or output.ndim < 2:
            return output[..., None]
        return output.movedim(self.class_axis, -1)

    def logits(self, output: Tensor) -> Tensor:
        """Return the output (..., K) as logits; if K is 1, as (..., 2), in which the first logit is 0.

        log p of a probability of 0 is finite, and less than that of any other number.
        """
        single = output.shape[-1] == 1
        if self.kind != "logits" and (single or self.kind == "probabilities"):
            output = output.float() if output.dtype.itemsize < 4 else output
            if self.kind == "probabilities":
                p = output.clamp(0, 1)
                output = _log(p)
                rest = torch.log1p(-p) if single else output
            else:
                rest = torch.log(-torch.expm1(output))
            if single:
                output = output - rest.clamp(min=OF_ZERO[output.dtype.itemsize])
        return torch.nn.functional.pad(output, (1, 0)) if single else output

    def returned(self, logits: Tensor) -> Tensor:
        """Return logits as the model would have returned them, but with K dimensions as in `logits`.

        It is the inverse of `logits`, except for rounding.
        """
        if self.kind == "logits":
            return logits
        logarithms = logits.log_softmax(-1)
        return logarithms if self.kind == "log-probabilities" else logarithms.exp()

    def check(self, output: Tensor) -> None:
        """Raise an error if the unperturbed output of a batch contradicts the reading.

        Raises:
            InputError: the output has values that can't be probabilities.
        """
        wrong = ""
        if self.kind == "probabilities" and not _are_probabilities(output):
            wrong = "other values than those between 0 and 1"
        elif self.kind == "log-probabilities" and bool((output > ROUNDING[output.dtype.itemsize]).any()):
            wrong = "values above 0"
        elif self.adds_up and not _add_up(self.classes_last(output)):
            wrong = "values that don't add up to 1"
        if wrong:
            raise InputError(
                f"the model's output is read as {self.kind}, but holds {wrong} on a batch with output "
                f"{tuple(output.shape)}; choose with output_kind=..."
            )


def _log(p: Tensor) -> Tensor:
    return p.log().clamp(min=OF_ZERO[p.dtype.itemsize])


def _are_probabilities(values: Tensor) -> bool:
    """Return whether all values lie between 0 and 1, except for rounding; NaN counts as between."""
    slack = ROUNDING[values.dtype.itemsize]
    low, high = values.aminmax()
    return not bool((low < -slack) | (high > 1 + slack))


def _add_up(values: Tensor) -> bool:
    """Return whether there are several classes, and the values (..., K) of each item add up to 1."""
    sums = values.sum(-1, dtype=torch.promote_types(values.dtype, torch.float32))
    return values.shape[-1] > 1 and bool(((sums - 1).abs() < ROUNDING[values.dtype.itemsize]).all())


# --- the dimension of the classes ---


def fits_targets(shape: tuple[int, ...], axis: int | None, target: Tensor, classes: int = 0) -> bool:
    """Return whether there is one target for each item, and a class for each, if the classes are on a dimension.

    Targets may be flattened, or have additional dimensions of size 1.

    Args:
        shape: of the output.
        axis: the dimension of the classes; None if each number is an item.
        target: the targets.
        classes: the least number of classes that all targets need.
    """
    items = shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
    if target.numel() != math.prod(items):
        return False
    alike = [size for size in target.shape if size > 1] == [size for size in items if size > 1]
    if not alike and target.ndim > 1:
        return False
    return max(classes, classes_of(target)) <= (2 if axis is None else max(2, shape[axis]))


def classes_of(target: Tensor | None) -> int:
    """Return the least number of classes that targets need; 0 if they aren't classes."""
    if target is None or target.is_floating_point() or not target.numel():
        return 0
    return int(target.max()) + 1


def are_labels(target: Tensor) -> bool:
    """Return whether all targets are 0 or 1."""
    return bool(((target == 0) | (target == 1)).all())


def are_one_hot(target: Tensor, axis: int) -> bool:
    """Return whether targets are 1 in one place of a dimension each, and else 0."""
    return are_labels(target) and bool((target.sum(axis) == 1).all())


def has_labels(shape: tuple[int, ...], target: Tensor) -> bool:
    """Return whether targets are floating-point labels, 0 or 1, of each number of an output that has several.

    Numbers that are 1 in one place each may also say which class it is.

    Args:
        shape: of the output for some of the examples.
        target: the targets of all.
    """
    alike = target.shape[1:] == shape[1:] and len(shape) > 1 and 1 not in shape[1:]
    if not alike or not target.is_floating_point() or not are_labels(target):
        return False
    return not any(are_one_hot(target, axis) for axis in range(1, len(shape)))


def choose_axis(
    given: ClassAxis | None,
    traced: TracedOutput,
    outputs: Iterable[tuple[tuple[int, ...], Tensor | None]],
) -> tuple[int | None, str]:
    """Return the dimension of the classes, and how it is known; None if each number is an item of its own.

    Args:
        given: the dimension that the user gave.
        traced: what the operations say.
        outputs: the shape of the output and the targets of a batch; read on as long as they fit several
            dimensions.

    Raises:
        InputError: the dimension that the user gave isn't one, or several fit.
    """
    batches = iter(outputs)
    shape, target = next(batches)
    ndim = len(shape)
    if given == "none" or ndim < 2:
        return None, "given" if given == "none" else "it has one dimension"
    if given is not None:
        if not -ndim < given < ndim:
            raise InputError(
                f"class_axis={given} isn't a dimension of classes of the output, which is {shape}"
            )
        return given % ndim, "given"
    by_trace = traced.class_axes
    if target is None:
        return _without_targets(shape, by_trace)
    fitting = _fitting(shape, target, by_trace)
    if not fitting:  # several targets for each item, or none that fit
        made = by_trace is not None and len(by_trace) == 1 and by_trace[0] > 0
        return (by_trace[0], MADE) if made and by_trace is not None else (ndim - 1, "the default")
    if len(fitting) > 1 and by_trace is not None and len(by_trace) == 1 and by_trace[0] in fitting:
        return by_trace[0], MADE
    if target.ndim == 1 and ndim > 2 and fits_targets(shape, 0, target):
        raise InputError(
            f"the classes of the output {shape}, with flattened targets {tuple(target.shape)}, can be on dimension 0 "
            f"or {fitting[0]}; give output=..., a function to logits with examples first, or class_axis={fitting[0]}"
        )
    for other, own in batches if len(fitting) > 1 else ():
        if own is not None and len(other) == ndim:
            fitting = [axis for axis in fitting if axis in _fitting(other, own, by_trace)] or fitting
        if len(fitting) == 1:
            break
    if len(fitting) > 1:
        raise _several(shape, fitting, f"targets {tuple(target.shape)}")
    return fitting[0], f"the targets, {tuple(target.shape)} beside {shape}"


MADE = "the last product or convolution put them there"


def _fitting(shape: tuple[int, ...], target: Tensor, traced: tuple[int, ...] | None) -> list[int | None]:
    """Return the dimensions of classes that targets allow; [None] if each number has its own target."""
    axes: list[int | None] = [axis for axis in range(1, len(shape)) if fits_targets(shape, axis, target)]
    several = len(shape) > 2 or traced == ()  # else the targets may be several for each example
    if axes or not several or target.is_floating_point() or not fits_targets(shape, None, target):
        return axes
    one_hot = [axis for axis in range(1, len(shape)) if are_one_hot(target.reshape(shape), axis)]
    return [None, *one_hot]


def _without_targets(shape: tuple[int, ...], traced: tuple[int, ...] | None) -> tuple[int | None, str]:
    """Return the dimension of the classes of an output for which there are no targets, and how it is known."""
    axes: list[int | None] = [*range(1, len(shape))]
    if traced is not None and len(traced) == 1 and traced[0] > 0:
        return traced[0], MADE
    if traced == () and shape[-1] > 1:
        raise _several(shape, [None, *axes], "no targets")
    if len(shape) > 2:
        raise _several(shape, axes, "no targets")
    return 1, "the only dimension besides the examples"


def _several(shape: tuple[int, ...], axes: list[int | None], beside: str) -> InputError:
    """Return the error that classes may be on several dimensions."""
    places = [f"on dimension {axis}" for axis in axes if axis is not None]
    own = ["there are none, since each number is an item of its own"] if None in axes else []
    choices = [str(axis) for axis in axes if axis is not None] + (["'none'"] if own else [])
    return InputError(
        f"the classes of the output {shape}, with {beside}, can be {' or '.join(places)}"
        + "".join(f", or {reading}" for reading in own)
        + f"; choose with class_axis={' or '.join(choices)}"
    )


# --- logits or probabilities ---


def choose_kind(
    given: OutputKind | None,
    traced: TracedOutput,
    axis: int | None,
    sample: Tensor,
    first: Callable[[], Tensor],
    matters: Callable[[bool], bool],
) -> tuple[OutputReading, str, str]:
    """Return the reading of the output, the words for its kind, and how it is known.

    Args:
        given: the kind that the user gave.
        traced: what the operations say.
        axis: the dimension of the classes.
        sample: the output for a few examples.
        first: returns the output of the first batch.
        matters: returns whether numbers depend on the kind, for a single output (True) or for several.

    Raises:
        InputError: two kinds fit, and would give different numbers.
    """
    ndim = sample.ndim
    if given is not None:
        return OutputReading(given, axis, ndim), given, "given"
    plain = OutputReading("logits", axis, ndim)
    certain = traced.kind in ("probabilities", "log-probabilities")
    values = plain.classes_last(sample if traced.kind else first())
    inside = _are_probabilities(values) and bool(values.isfinite().all())
    classes = values.shape[-1]
    if inside and _add_up(values):
        source = f"{traced.made_by} made them" if certain else "values between 0 and 1 that add up to 1"
        return OutputReading("probabilities", axis, ndim, adds_up=True), "probabilities", source
    if traced.kind == "probabilities" and classes > 1 and matters(False):
        raise InputError(
            f"the model's output {tuple(sample.shape)} holds {classes} probabilities for each item that don't add up "
            f"to 1 ({traced.made_by}), so losses, margins and logit changes can be read in two ways; choose with "
            "output_kind='probabilities' (divided by their sum) or 'logits' (as they are), or with class_axis='none' "
            "if each is the probability of a label of its own"
        )
    if traced.kind:
        kind: OutputKind = next(kind for kind in get_args(OutputKind) if kind == traced.kind)
        return OutputReading(kind, axis, ndim), kind, f"{traced.made_by} made them"
    below = classes == 1 and not bool((values > 0).any())
    if not (inside or below):
        return plain, "logits", "values that aren't between 0 and 1"
    if not matters(classes == 1):
        return plain, "logits or probabilities", "both give the same numbers"
    other, bounds = (
        ("probabilities", "lie between 0 and 1") if inside else ("log-probabilities", "are below 0")
    )
    raise InputError(
        f"the model's output {tuple(sample.shape)} can be read as logits or as {other}: all values of the first "
        f"batch {bounds}, and the operations don't tell; choose with output_kind='logits' or '{other}'"
    )
