"""A stranger's model, handled so that nothing of it is changed: what is refused, how it's called, what is put back.

Random generators are put back too: Python's, NumPy's, and PyTorch's on every device in use.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.networks import TwoLayer
from nearzero.torch_models.batches import Batch, shown, type_name

__all__ = ["Model", "Output", "RandomStates", "as_module", "untouched"]

Output = Callable[[Any], Tensor]
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
PLAIN = (dict, OrderedDict, defaultdict, list, deque, set)  # what a module may hold things in


def as_module(model: object) -> nn.Module:
    """The module that is probed: what `torch.compile` or `DataParallel` wraps, or the model itself.

    Raises:
        InputError: not a PyTorch module, TorchScript, without weights in memory, or on several devices.
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
    if any(nn.parameter.is_lazy(each) for each in tensors):
        raise InputError("the model has lazy layers without weights; run it once on a batch first")
    devices = sorted({str(each.device) for each in tensors})
    if "meta" in devices:
        raise InputError("the model has weights on the meta device, without values; load them first")
    if len(devices) > 1:
        raise InputError(
            f"the model is spread over devices ({', '.join(devices)}); move it to one of them with model.to(...)"
        )
    return model


def _hint(model: object) -> str:
    """What to do with something that isn't a module."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        return "; give an instance of it"
    if isinstance(model, torch.export.ExportedProgram):
        return "; give its module()"
    if isinstance(model, Mapping):
        return ", as a state dict is; load it into a module first"
    return ""


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


class _Snapshot:
    """What a forward pass may change in a module: its attributes, what lists and the like in them hold, its hooks,
    and the values of its buffers.

    Parameters aren't copied, since nobody writes to them: `find_layers` refuses a pass that does.
    """

    def __init__(self, module: nn.Module) -> None:
        self._parts = [
            (each.__dict__, dict(each.__dict__))
            for each in module.modules()
            if not isinstance(each, torch.jit.ScriptModule)
        ]
        own = [(name, value) for part, _ in self._parts for name, value in part.items()]
        self._hooks = [value for name, value in own if "_hooks" in name and isinstance(value, dict)]
        holders = _holders([value for name, value in own if "_hooks" not in name], set())
        self._holders = [(each, each.copy()) for each in holders]
        self._data = [(each, each.data, _place(each)) for each in module.parameters()]
        self._buffers = [(each, each.detach().clone(), _version(each)) for each in module.buffers()]

    @contextlib.contextmanager
    def same_hooks(self) -> Iterator[None]:
        """Around a forward pass; hooks that it sets, as some models do in their first, are gone after it."""
        before = [each.copy() if each else None for each in self._hooks]
        try:
            yield
        finally:
            for now, each in zip(self._hooks, before, strict=True):
                if len(now) != len(each or ()):
                    _refill(now, each or {})

    def restore(self) -> None:
        """Put it back, where it's known to have changed."""
        for now, before in [*self._parts, *self._holders]:
            if not _holds_the_same(now, before):
                _refill(now, before)
        for parameter, data, place in self._data:
            if _place(parameter) != place:
                parameter.data = data
        self._buffers = [_put_back(*each) for each in self._buffers]

    def restore_all(self) -> None:
        """Put it back; buffers are looked at value by value, since some kernels write without counting a version."""
        self.restore()
        for buffer, before, _ in self._buffers:
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _holders(value: Any, seen: set[int]) -> Iterator[Any]:
    """The lists, dicts and the like in a value, however deep."""
    if type(value) not in (*PLAIN, tuple) or id(value) in seen:
        return
    seen.add(id(value))
    if type(value) in PLAIN:
        yield value
    for each in list(value.values() if isinstance(value, dict) else value):
        yield from _holders(each, seen)


def _holds_the_same(now: Any, before: Any) -> bool:
    """Whether a list or the like holds the very things that its copy does."""
    if len(now) != len(before):
        return False
    if isinstance(now, dict):
        return all(map(is_, now, before)) and all(map(is_, now.values(), before.values()))
    return now == before if isinstance(now, set) else all(map(is_, now, before))


def _refill(now: Any, before: Any) -> None:
    """Give a list or the like what its copy holds."""
    now.clear()
    (now.update if isinstance(now, (dict, set)) else now.extend)(before)


def _put_back(buffer: Tensor, before: Tensor, version: int) -> tuple[Tensor, Tensor, int]:
    if _version(buffer) != version:
        buffer.copy_(before)
    return buffer, before, _version(buffer)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; tensors of inference mode don't count that."""
    return 0 if tensor.is_inference() else tensor._version


def _place(tensor: Tensor) -> int:
    """Where a tensor's values lie; 0 where it has no plain storage."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return 0


@dataclass(eq=False)
class Model:
    """A module, and how logits are had from it.

    Attributes:
        module: in evaluation mode, within `untouched`.
        before: the module as it was.
        output: from what it returns to the logits; found if None.
        writes_inputs: whether it writes into what it's given, and so must be given copies.
    """

    module: nn.Module
    before: _Snapshot
    output: Output | None = None
    writes_inputs: bool = False

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        tensors = (*self.module.parameters(), *self.module.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype | None:
        """The one precision of its weights; None if they have several, or there are none."""
        found = {each.dtype for each in self.module.parameters() if each.is_floating_point()}
        return found.pop() if len(found) == 1 else None

    @property
    def is_causal(self) -> bool:
        """Whether its logits are of the next token, by the name of its class, as in Hugging Face's library."""
        return type(self.module).__name__.endswith(("ForCausalLM", "LMHeadModel", "DoubleHeadsModel"))

    @property
    def takes_labels(self) -> bool:
        """Whether it makes its decoder's inputs from the labels, as Hugging Face's encoder-decoders do."""
        return bool(getattr(getattr(self.module, "config", None), "is_encoder_decoder", False))

    def logits(self, batch: Batch) -> Tensor:
        """The logits of a batch, from a full forward pass.

        A pass is a function of the batch alone: attributes and random states are as in the first.

        Raises:
            InputError: what comes out holds no logits.
        """
        self.before.restore()
        seed_all()
        if self.writes_inputs:
            batch = batch.copy()
        with self.before.same_hooks():
            output = self.module(*batch.arguments, **batch.keywords)
        logits = self.output(output) if self.output is not None else _logits(output)
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or not logits.ndim:
            raise InputError(
                f"logits must be a tensor of floating-point numbers; got {shown(logits)}; give output=..., a function "
                "from what the model returns to its logits"
            )
        return logits


def _logits(output: Any) -> Any:
    """The logits in what a model returns: the tensor itself, what is called so, or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    found: Any = None
    if isinstance(output, Mapping):
        alike = [each for name, each in output.items() if str(name).endswith("logits")]
        found = output.get("logits", output.get("out", alike[0] if len(alike) == 1 else None))
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, tuple) or (isinstance(output, list) and len(output) == 1):
        found = output[0] if output else None
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model returns {shown(output)}, in which no logits are found; give output=..., a function from what "
            "the model returns to its logits"
        )
    return found


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[_Snapshot]:
    """Evaluation mode without gradients; afterwards, also after an exception, all is as before.

    That is: training flags, attributes, buffers, the states of random generators (PyTorch's on every device in
    use, NumPy's, Python's), and PyTorch's switches. Attention takes its ordinary path, since the fused one skips
    the modules in it; compiled parts run uncompiled.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(RandomStates().restore)
        # Inference mode would hide the operations that functions consist of.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        # Without it nothing is compiled, and importing it takes seconds.
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        for each in module.modules():
            stack.callback(setattr, each, "training", each.training)
            each.training = False
        before = _Snapshot(module)
        stack.callback(before.restore_all)
        yield before
