"""Compile the kernels of studies beforehand, by calling each of them on sixty random images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nearzero.analysis.critical import critical_levels
from nearzero.analysis.sweep import respond
from nearzero.errors import InputError
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.kernels.compile import any_compiled, compiling
from nearzero.kernels.layout import strip_width
from nearzero.networks import initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.perturbation import Perturbation
from nearzero.support.files import cache_root
from nearzero.training.engine import Examples

__all__ = ["compile_kernels"]


def compile_kernels(
    activations: Sequence[str] = ("abs", "relu"), *, begun: Callable[[str], None] = lambda name: None
) -> None:
    """Compile the kernels of training, sweeping and a study's page for this processor, and keep them in the cache.

    Otherwise the first study on a machine compiles them. Kernels that are in the cache aren't compiled again.

    Args:
        activations: of the networks that will be swept; the kernels for training serve all activations.
        begun: is called with the name of each kernel when its compilation begins.

    Raises:
        InputError: the cache can't be written, so that nothing would be kept.
    """
    with compiling(begun):
        _call_kernels(activations)


def _call_kernels(activations: Sequence[str]) -> None:
    from nearzero.training.fused import FusedEngine

    strip_width(16)  # the smallest kernel: if it can't be kept, none can, and the user learns it at once
    if not any_compiled():
        raise InputError(
            f"compiled kernels can't be kept in {cache_root()}; make that folder writable, or set NEARZERO_CACHE "
            "to another folder"
        )
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 32), dtype=np.uint8)
    examples = Examples(Pixels(pixels, 1.0, 0.0), rng.integers(0, 2, 60))
    for name in activations:
        stack = initial_stack([0], name, inputs=32, units=16, classes=2)
        for batch_size in (None, 32):
            engine = FusedEngine(
                stack, examples, examples, seeds=[0], learning_rate=1e-3, batch_size=batch_size
            )
            engine.advance(0, 1)
            engine.measure("train")
        evaluator = TwoLayerEvaluator.of(stack[0], examples.pixels, examples.labels)
        families = ("offset", "scale", "clip")
        respond(evaluator, families=families)
        # families change z along a line, for which there are kernels of their own; this takes the general one
        evaluator.hidden.predict([Perturbation(offset=0.1)])
        for family in families:  # for the study's page
            critical_levels(stack[0], pixels, family=family)
