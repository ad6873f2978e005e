"""A user's model and data: layers found, hooked and cut, states restored, batches read.

`nearzero.torch_models.loading` finds models, weights and data by name.
"""

from nearzero.torch_models.layer import Layer

__all__ = ["Layer"]
