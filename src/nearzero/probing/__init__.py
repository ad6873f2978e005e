"""Probe any layers of any PyTorch model.

`layers` lists the layers of a model, `probe` perturbs them, and a `ProbeResult` holds the responses. `judge_runs`
gives the verdict on several trainings of a model. `generate` shows the text of a perturbed language model.
"""

from nearzero.probing.generation import Generation, generate
from nearzero.probing.probe import layers, probe
from nearzero.probing.result import ProbeResult
from nearzero.probing.runs import judge_runs

__all__ = ["Generation", "ProbeResult", "generate", "judge_runs", "layers", "probe"]
