"""Any layer of any PyTorch model: what can be probed in it, and how it responds.

`layers` lists a model's layers, `probe` perturbs them, `ProbeResult` is what comes out; `loading` finds models,
weights and data by name.
"""

from nearzero.probing.layer import Layer
from nearzero.probing.probe import layers, probe
from nearzero.probing.result import ProbeResult

__all__ = ["Layer", "ProbeResult", "layers", "probe"]
