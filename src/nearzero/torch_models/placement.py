"""Know where a model's weights are: on a device, on several, or loaded for each call by the hooks of accelerate.

Accelerate (`device_map`, `dispatch_model`, `cpu_offload`, `disk_offload`) sets a hook on a module, which moves the
arguments of a call to the module's device. A hook that offloads also loads the module's weights before the call, and
leaves weights on the meta device, without values, after it. The hook is known by its attributes, so that accelerate
isn't needed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HOOK", "input_device", "is_offloaded", "loaded", "loaders", "on_meta", "weights_of"]

HOOK = "_hf_hook"  # the attribute of a module that holds its hook
OFFLOADED = (
    "its weights are loaded anew in every pass"  # why no operation can be repeated with the weights it had
)


def loaders(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Yield each module of which a hook loads the weights for a call, with this hook."""
    for module in model.modules():
        yield from ((module, hook) for hook in _hooks(module) if getattr(hook, "offload", False))


def is_offloaded(model: nn.Module) -> str:
    """Return why the operations of a pass can't be repeated, if weights are loaded for each call; else ""."""
    return OFFLOADED if any(True for _ in loaders(model)) else ""


def on_meta(model: nn.Module) -> bool:
    """Return whether weights or buffers have no values, and no hook loads them."""
    known = {id(tensor) for module, hook in loaders(model) for tensor in weights_of(module, hook)}
    tensors = (*model.parameters(), *model.buffers())
    return any(tensor.device.type == "meta" and id(tensor) not in known for tensor in tensors)


def weights_of(module: nn.Module, hook: Any) -> list[Tensor]:
    """Return the weights and buffers that a hook loads for a call of its module, as they are now."""
    recurse = bool(getattr(hook, "place_submodules", False))
    return [*module.parameters(recurse), *module.buffers(recurse)]


def input_device(model: nn.Module) -> torch.device:
    """Return the device of a model's inputs: that of its own hook, or else that of its first weights with values."""
    given = [getattr(hook, "execution_device", None) for hook in _hooks(model)]
    if device := next((device for device in given if device is not None), None):
        return torch.device(device)
    tensors = (*model.parameters(), *model.buffers())
    of_tensors = (tensor.device for tensor in tensors if tensor.device.type != "meta")
    of_hooks = (getattr(hook, "execution_device", None) for _, hook in loaders(model))
    return torch.device(next(of_tensors, None) or next(filter(None, of_hooks), None) or "cpu")


@contextmanager
def loaded(module: nn.Module) -> Iterator[None]:
    """Load the weights of a module within the block, if its own hook loads them for a call."""
    hooks = [hook for owner, hook in loaders(module) if owner is module]
    for hook in hooks:
        hook.pre_forward(module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.post_forward(module, None)


def _hooks(module: nn.Module) -> list[Any]:
    """Return the hooks of accelerate on a module, those of a sequence one by one."""
    hook = getattr(module, HOOK, None)
    return [] if hook is None else list(getattr(hook, "hooks", [hook]))
