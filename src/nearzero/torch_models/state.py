"""A user's module: run it, get its logits, and restore all of its state.

Random generators are restored too: Python's, NumPy's, and PyTorch's on every device in use.
"""

from __future__ import annotations

import contextlib
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
from nearzero.torch_models.batches import Batch, summary, type_name
from nearzero.torch_models.snapshot import Snapshot

__all__ = ["Model", "Output", "RandomStates", "as_module", "seed_all", "untouched"]

Output = Callable[[Any], Tensor]
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


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

    def moved(self, *, torch_too: bool) -> str:
        """Return whose generator, Python's, NumPy's or (with `torch_too`) PyTorch's, has another state; "" for none."""
        numpy_now = np.random.get_state()  # noqa: NPY002
        moved = {
            "Python": random.getstate() != self._python,
            "NumPy": repr(numpy_now) != repr(self._numpy),
            "PyTorch": torch_too
            and any(not torch.equal(generator.get_state(), state) for generator, state in self._torch),
        }
        return next((name for name, has_moved in moved.items() if has_moved), "")


def seed_all() -> None:
    """Seed all global random generators with 0."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    for generator in _generators():
        generator.manual_seed(0)


@dataclass(eq=False)
class Model:
    """A module that returns logits.

    Attributes:
        module: in evaluation mode, within `untouched`.
        before: the state of the module, as `untouched` gives it.
        output: takes what the module returns and returns the logits; None to look for them by name.
        writes_inputs: whether the module writes into its inputs, so that it gets copies of them; None if unknown.
        example_axis: the dimension of the logits that holds the examples, which `logits` moves to the front.
        outside: why operations outside of the recorded ones change what a pass computes; "" if none do.
        assumptions: receives which output was taken for the logits.
    """

    module: nn.Module
    before: Snapshot
    output: Output | None = None
    writes_inputs: bool | None = None
    example_axis: int = 0
    outside: str = ""
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
        batch = batch.copy(tensors=bool(self.writes_inputs))
        versions = batch.versions
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
        if batch.versions != versions and self.writes_inputs is False:
            raise InputError(
                f"the model writes into its inputs, on a batch of {batch.describe()} and not on the first one; give it "
                "copies by prepare=..."
            )
        return logits.detach().movedim(self.example_axis, 0)


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
