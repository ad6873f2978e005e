"""Discovery of a model's layers, by watching forward passes, and their choice by name.

A layer is a place in a forward pass where a pre-activation occurs: the input of an activation (a module, or a
function like `F.relu` called in some module's forward), or the output of a linear, convolution or
normalization module. The outputs of all other modules are found too, and can be asked for by name.

`watch` follows one pass, `find` brings several together, and `selection` takes layers by name.
"""

from nearzero.torch_models.discovery.find import (
    CannotRunError,
    Discovery,
    calls_any,
    find_layers,
    names_passed_on,
)
from nearzero.torch_models.discovery.selection import Selection, are_found, select_layers

__all__ = [
    "CannotRunError",
    "Discovery",
    "Selection",
    "are_found",
    "calls_any",
    "find_layers",
    "names_passed_on",
    "select_layers",
]
