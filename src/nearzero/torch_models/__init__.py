"""A user's PyTorch module and data: find its layers, hook and replay them, read batches, restore its state.

`nearzero.torch_models.loading` finds models, weights and data by name.
"""

from nearzero.torch_models.layer import Layer

__all__ = ["Layer"]
