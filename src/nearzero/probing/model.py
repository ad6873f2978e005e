"""A stranger's model, handled so that nothing of it is changed: what is refused, how it's called, what is put back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.networks import TwoLayer
from nearzero.probing.batches import Batch

__all__ = ["Model", "as_module", "untouched"]

Output = Callable[[Any], Tensor]


def as_module(model: object) -> nn.Module:
    """The module that is probed: what `torch.compile` wraps, or the model itself.

    Raises:
        InputError: not a PyTorch module, TorchScript, without weights in memory, or on several devices.
    """
    if isinstance(model, TwoLayer):
        return model.to_module()
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    original = getattr(model, "_orig_mod", None)
    if isinstance(original, nn.Module):  # torch.compile
        model = original
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model is a TorchScript module, inside of which nothing can be perturbed; give the Python module "
            "that it was made from"
        )
    if any(nn.parameter.is_lazy(each) for each in model.parameters()):
        raise InputError("the model has lazy layers without weights; run it once on a batch first")
    devices = sorted({str(each.device) for each in (*model.parameters(), *model.buffers())})
    if "meta" in devices:
        raise InputError("the model has weights on the meta device, without values; load them first")
    if len(devices) > 1:
        raise InputError(
            f"the model is spread over devices ({', '.join(devices)}); move it to one of them with model.to(...)"
        )
    return model


@dataclass(frozen=True, eq=False)
class Model:
    """A module, and how logits are had from it.

    Attributes:
        module: in evaluation mode, within `untouched`.
        output: from what it returns to the logits; found if None.
    """

    module: nn.Module
    output: Output | None = None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        first = next((each for each in (*self.module.parameters(), *self.module.buffers())), None)
        return torch.device("cpu") if first is None else first.device

    def logits(self, batch: Batch) -> Tensor:
        """The logits of a batch, from a full forward pass.

        Raises:
            InputError: what comes out holds no logits.
        """
        torch.manual_seed(0)  # a pass that draws random numbers draws the same ones at every level
        output = self.module(*batch.arguments, **batch.keywords)
        logits = self.output(output) if self.output is not None else _logits(output)
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or not logits.ndim:
            raise InputError(
                f"logits must be a tensor of floating-point numbers; got {_shown(logits)}; give output=..., a function "
                "from what the model returns to its logits"
            )
        return logits


def _logits(output: Any) -> Any:
    """The logits in what a model returns."""
    if isinstance(output, Tensor):
        return output
    named = output.get("logits", output.get("out")) if isinstance(output, Mapping) else None
    if named is None:
        named = getattr(output, "logits", None)
    if named is None and isinstance(output, (tuple, list)) and output:
        named = output[0]
    if not isinstance(named, Tensor):
        raise InputError(
            f"the model returns {_shown(output)}, in which no logits are found; give output=..., a function from what "
            "the model returns to its logits"
        )
    return named


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with {', '.join(map(str, value))}"
    return type(value).__name__


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards, also after an exception, all is as before.

    That is: training flags, buffers, the states of random generators (PyTorch's on every device in use,
    NumPy's, Python's), and PyTorch's switches. Attention takes its ordinary path, since the fused one skips the
    modules in it; compiled parts run uncompiled.

    Raises:
        InputError: the forward pass has changed a parameter, which can't be put back.
    """
    flags = [(each, each.training) for each in module.modules()]
    buffers = [(each, each._version, each.detach().clone()) for each in module.buffers()]
    versions = [(name, each, each._version) for name, each in module.named_parameters()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_states())
        stack.enter_context(torch.no_grad())
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        stack.callback(_put_back, flags, buffers)
        torch.backends.mha.set_fastpath_enabled(False)
        for each, _ in flags:
            each.training = False
        yield
    changed = [name for name, each, version in versions if each._version != version]
    if changed:
        raise InputError(
            f"the model's forward pass changes its parameter {changed[0]}; a model that trains itself can't be probed"
        )


def _put_back(flags: list[tuple[nn.Module, bool]], buffers: list[tuple[Tensor, int, Tensor]]) -> None:
    for each, flag in flags:
        each.training = flag
    for buffer, version, before in buffers:
        if buffer._version != version:
            buffer.copy_(before)


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    """Put the states of all random generators back."""
    ours, numpys = random.getstate(), np.random.get_state()  # noqa: NPY002 (a user's data set may draw from it)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(numpys)  # noqa: NPY002
