"""Probe any layers of any PyTorch model.

`layers` lists the layers of a model, `probe` perturbs them, and a `ProbeResult` holds the responses.
"""

from nearzero.probing.probe import layers, probe
from nearzero.probing.result import ProbeResult

__all__ = ["ProbeResult", "layers", "probe"]
