"""A user's module: run it, get its logits, and restore all of its state.

Random generators are restored too: Python's, NumPy's, and PyTorch's on every device in use.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.networks import TwoLayer
from nearzero.support.users import running
from nearzero.torch_models.assumptions import Assumptions
from nearzero.torch_models.batches import Batch, summary, type_name

__all__ = ["Model", "Output", "RandomStates", "as_module", "untouched"]

Output = Callable[[Any], Tensor]
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, set)  # types whose contents a pass may change


def as_module(model: object) -> nn.Module:
    """Return the module to probe: the one that `torch.compile` or `DataParallel` wraps, or the model itself.

    Raises:
        InputError: the model isn't a PyTorch module, is TorchScript, has no weights in memory, or is on
            several devices.
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
    devices = sorted({str(tensor.device) for tensor in tensors})
    if "meta" in devices:
        raise InputError("the model has weights on the meta device, without values; load them first")
    if len(devices) > 1:
        raise InputError(
            f"the model is spread over devices ({', '.join(devices)}); move it to one of them with model.to(...)"
        )
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

    def restore(self) -> None:
        """Set the generators to these states."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        for generator, state in self._torch:
            generator.set_state(state)


def seed_all() -> None:
    """Seed all global random generators with 0."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    for generator in _generators():
        generator.manual_seed(0)


class _Snapshot:
    """A copy of all that a forward pass may change in a module.

    That is: its attributes, the contents of containers in them, its hooks, and the values of its buffers.
    Of parameters only the references to their data are kept, since `find_layers` refuses a pass that writes
    to their values.
    """

    def __init__(self, module: nn.Module) -> None:
        self._attributes = [
            (submodule.__dict__, dict(submodule.__dict__))
            for submodule in module.modules()
            if not isinstance(submodule, torch.jit.ScriptModule)
        ]
        values = [(name, value) for now, _ in self._attributes for name, value in now.items()]
        self._hooks = [value for name, value in values if "_hooks" in name and isinstance(value, dict)]
        containers = _containers([value for name, value in values if "_hooks" not in name], set())
        self._containers = [(container, container.copy()) for container in containers]
        self._data = [(weight, weight.data, _address(weight)) for weight in module.parameters()]
        self._buffers = [(buffer, buffer.detach().clone(), _version(buffer)) for buffer in module.buffers()]

    @contextlib.contextmanager
    def same_hooks(self) -> Iterator[None]:
        """Remove hooks that a forward pass within the block sets, as the first pass of some models does."""
        copies = [hooks.copy() if hooks else None for hooks in self._hooks]
        try:
            yield
        finally:
            for now, before in zip(self._hooks, copies, strict=True):
                if len(now) != len(before or ()):
                    _refill(now, before or {})

    def restore(self) -> None:
        """Restore all that is known to have changed."""
        for now, before in [*self._attributes, *self._containers]:
            if not _same_contents(now, before):
                _refill(now, before)
        for weight, data, address in self._data:
            if _address(weight) != address:
                weight.data = data
        self._buffers = [_restored(*buffer) for buffer in self._buffers]

    def restore_all(self) -> None:
        """Restore all, and compare buffers by value, since some kernels write without counting a version."""
        self.restore()
        for buffer, before, _ in self._buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _containers(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield the nested containers in a value, itself included."""
    if type(value) not in (*CONTAINERS, tuple) or id(value) in seen:
        return
    seen.add(id(value))
    if type(value) in CONTAINERS:
        yield value
    for item in list(value.values() if isinstance(value, dict) else value):
        yield from _containers(item, seen)


def _same_contents(now: Any, before: Any) -> bool:
    """Return whether a container holds the same objects as its copy; of sets, equal ones."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(map(is_, now, before)) and all(map(is_, now.values(), before.values()))
    return now == before if isinstance(now, set) else all(map(is_, now, before))


def _refill(now: Any, before: Any) -> None:
    """Give a container the contents of its copy."""
    now.clear()
    (now.update if isinstance(now, (dict, set)) else now.extend)(before)


def _restored(buffer: Tensor, before: Tensor, version: int) -> tuple[Tensor, Tensor, int]:
    """Restore a buffer if its version has changed, and return it with its copy and its version now."""
    if _version(buffer) != version:
        buffer.copy_(before)
    return buffer, before, _version(buffer)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; 0 for tensors of inference mode, which don't count that."""
    return 0 if tensor.is_inference() else tensor._version


def _address(tensor: Tensor) -> int:
    """Return the address of a tensor's values; 0 if it has no plain storage."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


@dataclass(eq=False)
class Model:
    """A module that returns logits.

    Attributes:
        module: in evaluation mode, within `untouched`.
        before: the state of the module, as `untouched` gives it.
        output: takes what the module returns and returns the logits; None to look for them by name.
        writes_inputs: whether the module writes into its inputs; then it gets copies of them.
        assumptions: receives which output was taken for the logits.
    """

    module: nn.Module
    before: _Snapshot
    output: Output | None = None
    writes_inputs: bool = False
    assumptions: Assumptions = field(default_factory=Assumptions)

    @property
    def device(self) -> torch.device:
        """Return the device of the module's weights."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype | None:
        """Return the floating-point type of the weights; None if there are several types, or no weights."""
        dtypes = {weight.dtype for weight in self.module.parameters() if weight.is_floating_point()}
        return dtypes.pop() if len(dtypes) == 1 else None

    @property
    def is_causal(self) -> bool:
        """Return whether the logits predict the next token, by Hugging Face's names of classes."""
        return type(self.module).__name__.endswith(("ForCausalLM", "LMHeadModel", "DoubleHeadsModel"))

    @property
    def takes_labels(self) -> bool:
        """Return whether decoder inputs are made from the labels, as in Hugging Face's encoder-decoders."""
        return bool(getattr(getattr(self.module, "config", None), "is_encoder_decoder", False))

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of a batch, from a full forward pass.

        A pass is a function of the batch alone: it starts from the same attributes and random states.

        Raises:
            InputError: the module returns no logits.
        """
        self.before.restore()
        seed_all()
        if self.writes_inputs:
            batch = batch.copy()
        with running(f"the model fails on a batch of {batch.describe()}"):
            with self.before.same_hooks():
                output = self.module(*batch.arguments, **batch.keywords)
            if self.output is not None:
                logits, place = self.output(output), "what output= returns"
            else:
                logits, place = _logits(output)
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or not logits.ndim:
            raise InputError(
                f"logits must be a tensor of floating-point numbers; got {summary(logits)}; give output=..., a "
                "function from what the model returns to its logits"
            )
        source = "the form of what the model returns" if self.output is None else "given"
        self.assumptions.record("logits", place, source, "output=")
        return logits


def _logits(output: Any) -> tuple[Tensor, str]:
    """Return the logits in a module's output, and which part of it they are: all, an entry, or the first."""
    if isinstance(output, Tensor):
        return output, "the tensor that the model returns"
    logits: Any = None
    place = ""
    if isinstance(output, Mapping):
        similar = [name for name in output if str(name).endswith("logits")]
        own = [name for name in ("logits", "out") if name in output]
        for name in own or (similar if len(similar) == 1 else []):
            logits, place = output[name], f"entry {name!r}"
            break
    elif hasattr(output, "logits"):
        logits, place = output.logits, "attribute logits"
    elif isinstance(output, tuple) or (isinstance(output, list) and len(output) == 1):
        logits, place = (output[0] if output else None), f"the first of {len(output)} outputs"
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the model returns {summary(output)}, in which no logits are found; give output=..., a function from what "
            "the model returns to its logits"
        )
    return logits, place


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[_Snapshot]:
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
        before = _Snapshot(module)
        stack.callback(before.restore_all)
        yield before
