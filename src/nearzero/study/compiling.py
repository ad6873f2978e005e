"""The kernels of a study, compiled before there is one: all that is asked of them is asked of sixty random images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nearzero.analysis.sweep import respond
from nearzero.errors import InputError
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.kernels.compile import any_compiled
from nearzero.kernels.layout import strip_width
from nearzero.networks import initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.perturbation import Perturbation
from nearzero.support.files import cache_root
from nearzero.training.engine import Examples

__all__ = ["compile_kernels"]


def compile_kernels(activations: Sequence[str] = ("abs", "relu")) -> None:
    """Compile what training and sweeping on this processor need, and keep it in the user's cache.

    Else the first study of a machine does so on its way. What is there already isn't compiled again.

    Args:
        activations: of the networks that will be swept; training is compiled for all at once.

    Raises:
        InputError: the cache can't be written, so that nothing could be kept.
    """
    from nearzero.training.fused import FusedEngine

    strip_width(16)  # the smallest kernel: where it can't be kept, none can, which is said at once
    if not any_compiled():
        raise InputError(
            f"nothing can be kept in {cache_root()}, so each process will compile for itself; make that folder "
            "writable, or name another in NEARZERO_CACHE"
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
        # these families' levels lie on lines, and this doesn't
        evaluator.hidden.predict([Perturbation(offset=0.1)])
