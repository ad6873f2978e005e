"""Any layers of any PyTorch model: what can be probed in it, and how it responds.

`layers` lists a model's layers, `probe` perturbs them, `ProbeResult` is what comes out.
"""

from nearzero.probing.probe import layers, probe
from nearzero.probing.result import ProbeResult

__all__ = ["ProbeResult", "layers", "probe"]
