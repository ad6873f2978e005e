"""The paper's two-layer networks: one, or a stack of runs."""

from nearzero.networks.two_layer import Stack, TwoLayer, initial_stack

__all__ = ["Stack", "TwoLayer", "initial_stack"]
