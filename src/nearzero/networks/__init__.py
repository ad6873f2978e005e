"""The paper's two-layer networks: one, or a stack of runs."""

from nearzero.networks.two_layer import Stack, TwoLayer, as_network, initial_linear, initial_stack

__all__ = ["Stack", "TwoLayer", "as_network", "initial_linear", "initial_stack"]
