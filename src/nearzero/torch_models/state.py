"""A user's module: run it, get its logits, and restore all of its state.

Random generators are restored too: Python's, NumPy's, and PyTorch's on every device in use.
"""

from __future__ import annotations

import contextlib
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.networks import TwoLayer
from nearzero.support.users import running
from nearzero.torch_models.assumptions import Assumptions
from nearzero.torch_models.assumptions.outputs import OutputReading, fits_targets
from nearzero.torch_models.batches import Batch, leaves, summary, type_name
from nearzero.torch_models.placement import input_device, on_meta
from nearzero.torch_models.snapshot import Snapshot

__all__ = [
    "Model",
    "Output",
    "RandomStates",
    "Surroundings",
    "as_module",
    "positional_names",
    "seed_all",
    "untouched",
]

Output = Callable[[Any], Tensor] | str | int
SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
)
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def as_module(model: object) -> nn.Module:
    """Return the module to probe: the one that `torch.compile` or `DataParallel` wraps, or the model itself.

    Raises:
        InputError: the model isn't a PyTorch module, is TorchScript, or has weights without values.
    """
    if isinstance(model, TwoLayer):
        return model.to_module()
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module; got {type_name(model)}{_hint(model)}")
    original = getattr(model, "_orig_mod", None)
    if isinstance(original, nn.Module):  # torch.compile
        return as_module(original)
    if isinstance(model, WRAPPERS):
        return as_module(model.module)
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model is a TorchScript module, inside of which nothing can be perturbed; give the Python module "
            "that it was made from"
        )
    tensors = [*model.parameters(), *model.buffers()]
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):
        raise InputError("the model has lazy layers without weights; run it once on a batch first")
    if on_meta(model):
        raise InputError("the model has weights on the meta device, without values; load them first")
    return model


def _hint(model: object) -> str:
    """Return the end of an error message that says how to get a module; "" if there is no hint."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        return "; give an instance of it"
    if isinstance(model, torch.export.ExportedProgram):
        return "; give its module()"
    if isinstance(model, Mapping):
        return "; if it is a state dict, load it into a module first"
    return ""


def _generators() -> list[torch.Generator]:
    """Return PyTorch's default generators on every device in use."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    if torch.backends.mps.is_available():
        generators.append(torch.mps._get_default_mps_generator())
    return generators


class RandomStates:
    """The states of all random generators at the time of construction.

    Args:
        more: further generators than the global ones.
    """

    def __init__(self, more: tuple[torch.Generator, ...] = ()) -> None:
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._torch = [(generator, generator.get_state()) for generator in (*_generators(), *more)]

    def __getstate__(self) -> dict[str, Any]:
        state = next(state for generator, state in self._torch if generator is torch.default_generator)
        return {"_python": self._python, "_numpy": self._numpy, "_torch": state}

    def __setstate__(self, states: dict[str, Any]) -> None:
        self.__dict__ |= states | {"_torch": [(torch.default_generator, states["_torch"])]}

    def restore(self) -> None:
        """Set the generators to these states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for generator, state in self._torch:
            generator.set_state(state)

    def moved(self, *, torch_too: bool) -> str:
        """Return whose generator, Python's, NumPy's or (with `torch_too`) PyTorch's, has another state; "" for none."""
        numpy_states = zip(leaves(np.random.get_state()), leaves(self._numpy), strict=True)  # noqa: NPY002
        moved = {
            "Python": random.getstate() != self._python,
            "NumPy": not all(np.array_equal(now, before) for now, before in numpy_states),
            "PyTorch": torch_too
            and any(not torch.equal(generator.get_state(), state) for generator, state in self._torch),
        }
        return next((name for name, has_moved in moved.items() if has_moved), "")


class Surroundings:
    """The states of the global random generators and of PyTorch's switches at the time of construction.

    Where it is pickled, it holds the states of the processor's generators.
    """

    def __init__(self) -> None:
        self._switches, self._states = [get() for get, _ in SWITCHES], RandomStates()

    def restore(self) -> None:
        """Set generators and switches to these states."""
        self._states.restore()
        for (get, switch), value in zip(SWITCHES, self._switches, strict=True):
            if get() != value:
                switch(value)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set generators and switches to these states within the block."""
        before = Surroundings()
        self.restore()
        try:
            yield
        finally:
            before.restore()


def seed_all(seed: int = 0) -> None:
    """Seed all global random generators."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    for generator in _generators():
        generator.manual_seed(seed)


@dataclass(eq=False)
class Model:
    """A module that returns logits.

    Attributes:
        module: in evaluation mode, within `untouched`.
        before: the state of the module, as `untouched` gives it.
        output: takes what the module returns and returns the logits; or the key or index of the logits in it;
            None to look for them.
        example_axis: the dimension of the logits that holds the examples, which `logits` moves to the front.
        class_axis: the dimension of the classes in what `logits` returns, before `reading` is known; None if several
            fit, or if there is none.
        dimensions: how many dimensions the logits have; None before the first pass.
        outside: why operations outside of the recorded ones change what a pass computes; "" if none do.
        assumptions: receives which output was taken for the logits.
        reading: turns these into logits with the classes last.
        classes: the least number of classes that targets need, where outputs are told apart by them.
        passed_on: the names that a part gives to the arguments, where the module takes any and passes them on.
    """

    module: nn.Module
    before: Snapshot
    output: Output | None = None
    example_axis: int = 0
    class_axis: int | None = None
    dimensions: int | None = None
    outside: str = ""
    assumptions: Assumptions = field(default_factory=Assumptions)
    reading: OutputReading = field(default_factory=OutputReading)
    classes: int = 0
    passed_on: tuple[str, ...] = ()
    _chosen: tuple[str | int, str] | None = field(default=None, init=False)

    @property
    def device(self) -> torch.device:
        """Return the device of the inputs, and of the logits that `logits` returns."""
        return input_device(self.module)

    @property
    def dtype(self) -> torch.dtype | None:
        """Return the floating-point type of the weights; None if there are several types, or no weights."""
        dtypes = {weight.dtype for weight in self.module.parameters() if weight.is_floating_point()}
        return dtypes.pop() if len(dtypes) == 1 else None

    @property
    def takes_labels(self) -> bool:
        """Return whether decoder inputs are made from the labels, as in Hugging Face's encoder-decoders."""
        configs = (getattr(module, "config", None) for module in self.module.modules())  # the outermost first
        return bool(getattr(next((each for each in configs if each), None), "is_encoder_decoder", False))

    @property
    def argument_names(self) -> tuple[str, ...]:
        """Return the names of the arguments that the module takes by position, as far as they are known."""
        return self.passed_on or positional_names(self.module)

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of a batch, or what `reading` turns into logits, from a full forward pass.

        A pass is a function of the batch alone: it starts from the same attributes and random states, and gets copies
        of the inputs, which it may write into.

        Raises:
            InputError: the module returns no logits.
        """
        return self.logits_of_copy(batch.copy())

    def logits_of_copy(self, batch: Batch) -> Tensor:
        """Return the same, from a pass that gets the inputs themselves and may change them."""
        self.before.restore()
        seed_all()
        with running(f"the model fails on a batch of {batch.describe()}"):
            with self.before.same_hooks():
                output = self.module(*batch.arguments, **batch.keywords)
            logits, place = self._choose(output, batch)
        if isinstance(logits, Tensor) and not logits.ndim:
            raise InputError(
                f"logits must have a dimension of the examples; got a single number for a batch of {batch.describe()}; "
                "keep the dimension for one example too (squeeze(-1) in the place of squeeze()), or give output=..., a "
                "function from what the model returns to its logits"
            )
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise InputError(
                f"logits must be a tensor of floating-point numbers; got {summary(logits)}; give output=..., a "
                "function from what the model returns to its logits"
            )
        self.assumptions.record("logits", *place, "output=")
        self.dimensions = self.dimensions or logits.ndim
        if logits.ndim != self.dimensions:
            raise InputError(
                f"the logits of a batch of {batch.describe()} are {tuple(logits.shape)}, and those of the first batch "
                f"have {self.dimensions} dimensions; if the model drops one for a single example, give batches of "
                "several by batch_size=..."
            )
        logits = (logits.detach() if logits.requires_grad else logits).to(self.device)
        return logits.movedim(self.example_axis, 0) if self.example_axis else logits

    def tokens_second(self, logits: Tensor) -> Tensor:
        """Return logits (B, ..., K) with the classes last, so that those over tokens are (B, S, K)."""
        return logits if self.class_axis is None else logits.movedim(self.class_axis, -1)

    def _choose(self, output: Any, batch: Batch) -> tuple[Any, tuple[str, str]]:
        """Return the logits in what the module returned; and which part they are, and how that is known."""
        if callable(self.output):
            return self.output(output), ("what output= returns", "given")
        parts = _parts(output)
        if self.output is not None:
            if isinstance(output, Tensor):
                raise InputError(
                    f"output={self.output!r} chooses one of several outputs, but the model returns one tensor; leave "
                    "it out"
                )
            if self.output not in parts:
                raise InputError(
                    f"output={self.output!r} isn't among the outputs of the model, which are {_listed(parts)}"
                )
            return parts[self.output], (f"output[{self.output!r}]", "given")
        if isinstance(output, Tensor):
            return output, ("the tensor that the model returns", "it returns nothing else")
        if self._chosen is None:
            self._chosen = _find_logits(output, parts, batch.target, self.classes)
        key, source = self._chosen
        if key not in parts:
            raise InputError(
                f"the logits were output[{key!r}] on the first batch; on another the model returns "
                f"{_listed(parts)}; give output=..., a function from what the model returns to its logits"
            )
        return parts[key], (f"output[{key!r}]", source)


def positional_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments that a module takes by position, without those that have none."""
    try:
        taken = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in taken if parameter.kind in positional)


NAMES = ("logits", "out")


def _parts(output: Any) -> dict[str | int, Any]:
    """Return the parts of what a module returned, by key, name or index."""
    if isinstance(output, Mapping):
        return dict(output)
    if hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True)) | dict(enumerate(output))
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    fields = {
        name: value for name, value in getattr(output, "__dict__", {}).items() if not name.startswith("_")
    }
    return fields | ({"logits": output.logits} if hasattr(output, "logits") else {})


def _find_logits(
    output: Any, parts: Mapping[str | int, Any], target: Tensor | None, classes: int
) -> tuple[str | int, str]:
    """Return the key of the logits among the parts of an output, and how it is known.

    Args:
        output: what the module returned.
        parts: its parts.
        target: the targets of the batch.
        classes: the least number of classes that all targets need.

    Raises:
        InputError: no part can be the logits, or several can.
    """
    similar = [name for name in parts if str(name).endswith("logits")]
    alone = len(similar) == 1 and not _has_rival(parts, similar[0])
    named = [name for name in NAMES if name in parts] or (similar if alone else [])
    if named and isinstance(parts[named[0]], Tensor):
        return named[0], "its name"
    tensors = {id(value): key for key, value in parts.items() if _may_be_logits(value)}
    candidates = list(tensors.values())
    unnamed = isinstance(output, (tuple, list))
    if unnamed and len(candidates) == 1:
        return candidates[0], "no other output can be logits"
    fitting = [key for key in candidates if _fits(parts[key], target, classes)]
    if len(fitting) == 1:
        return fitting[0], "no other output fits the targets"
    if len(candidates) > 1:
        listed = _listed({key: parts[key] for key in candidates})
        raise InputError(
            f"the model returns several outputs that may be the logits: {listed}; choose with output=..., the key or "
            "index of one, or a function from what the model returns to its logits"
        )
    raise InputError(
        f"the model returns {summary(output)}, in which no logits are found; give output=..., a function from what "
        "the model returns to its logits"
    )


def _has_rival(parts: Mapping[str | int, Any], name: str | int) -> bool:
    """Return whether another part has the shape of one that is called some kind of logits, such as auxiliary ones."""
    named = parts[name]
    others = (value for value in parts.values() if value is not named and _may_be_logits(value))
    return isinstance(named, Tensor) and any(value.shape == named.shape for value in others)


def _may_be_logits(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0


def _fits(value: Tensor, target: Tensor | None, classes: int) -> bool:
    """Return whether an output has one of some classes for each target, which is a whole number.

    It isn't known yet which dimension holds the classes, and whether examples or tokens come first.
    """
    if target is None or target.is_floating_point():
        return False
    shape, axes = tuple(value.shape), (None, *range(value.ndim if value.ndim > 1 else 0))
    orders = (target, target.transpose(0, 1)) if target.ndim > 1 else (target,)
    return any(fits_targets(shape, axis, order, classes) for axis in axes for order in orders)


def _listed(parts: Mapping[str | int, Any]) -> str:
    """Return the parts of an output for an error message."""
    return ", ".join(f"{key!r}: {summary(value)}" for key, value in parts.items()) or "nothing"


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[Snapshot]:
    """Run the block in evaluation mode without gradients, and restore all state, also after an exception.

    Restored are training flags, attributes, buffers, the states of random generators (PyTorch's on every
    device in use, NumPy's, Python's), and PyTorch's switches. Within the block attention takes its ordinary
    path, since the fused one skips the modules in it, and compiled parts run uncompiled.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(RandomStates().restore)
        # Inference mode would hide the operations of which functions consist.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        # If this module isn't imported, nothing is compiled; to import it would take seconds.
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        for submodule in module.modules():
            stack.callback(setattr, submodule, "training", submodule.training)
            submodule.training = False
        before = Snapshot({"": module})
        stack.callback(before.restore_all)
        yield before
