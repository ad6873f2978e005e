"""The paper's two-layer networks, single or as a stack of runs."""

from nearzero.networks.initial import generator, initial_linear, initial_stack
from nearzero.networks.two_layer import Stack, TwoLayer, as_network

__all__ = ["Stack", "TwoLayer", "as_network", "generator", "initial_linear", "initial_stack"]
