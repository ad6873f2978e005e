"""The number of registers of a processor affects how the work is divided, but no result."""

import os
import subprocess
import sys

import pytest

PACKAGE = """
import importlib.util
import sys
import types

# the package without its __init__, so that has_feature can be replaced before kernels are imported
package = types.ModuleType("nearzero")
package.__path__ = importlib.util.find_spec("nearzero").submodule_search_locations
sys.modules["nearzero"] = package
from nearzero.kernels import compile

if sys.argv[1] == "other":  # strips and tiles as with AVX-512 if the processor has none, and the reverse
    has_feature = compile.has_feature
    compile.has_feature = lambda name: has_feature(name) != (name == "avx512f")
"""

COMPILED = """
from nearzero.study.compiling import compile_kernels

compile_kernels(["abs"])
"""

TRAINED = """
import hashlib
import numpy as np
from nearzero.kernels.layout import MANY_REGISTERS
from nearzero.networks import initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine

rng = np.random.default_rng(0)
values = (rng.integers(0, 256, (700, 45)) * (rng.random((700, 45)) < 0.4)).astype(np.uint8)
random = Examples(Pixels(values, 0.01, -0.1), rng.integers(0, 10, 700))
# seven separate classes, which are fitted soon but for a few examples: most are left out of gradients
values[:, :10] = 0
values[np.arange(700), np.arange(700) % 7] = 255
fitted = Examples(Pixels(values), np.where(np.arange(700) % 50, np.arange(700) % 7, 8))
digest, shares = hashlib.sha256(), []
for examples, rate, steps in ((random, 0.05, 7), (fitted, 0.0003, 60)):
    for batch_size in (None, 300):
        stack = initial_stack([1, 2], "abs", inputs=45, units=150)
        engine = FusedEngine(stack, examples, examples, seeds=[1, 2], learning_rate=rate, batch_size=batch_size)
        engine.advance(0, steps)
        measured, trained = engine.measure("train"), engine.stack()
        for array in (measured.loss, measured.correct, trained.w1, trained.b1, trained.w2, trained.b2):
            digest.update(np.ascontiguousarray(array).tobytes())
        for network in trained:
            z = examples.pixels.dense() @ network.w1.T + network.b1
            logits = np.abs(z) @ network.w2.T + network.b2
            losses = logits.max(axis=1) - logits[np.arange(700), examples.labels]
            losses += np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
            shares.append(np.mean(losses == 0))

from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.perturbations.perturbation import Perturbation
from nearzero.analysis.sweep import respond

evaluator = TwoLayerEvaluator.of(trained[0], examples.pixels, examples.labels)
swept = respond(evaluator, families=("offset", "scale", "clip"))
predicted = evaluator.hidden.predict([Perturbation(offset=0.1)])
digest.update(swept.accuracy.values.tobytes() + predicted.tobytes())
print(MANY_REGISTERS, digest.hexdigest(), *shares)
"""


def printed(which, script, **settings):
    """Return the words that a script prints."""
    command = [sys.executable, "-c", PACKAGE + script, which]
    return subprocess.run(
        command, env=os.environ | settings, capture_output=True, text=True, check=True
    ).stdout.split()


def compiled(cache):
    return {path: path.stat().st_mtime_ns for path in cache.glob("kernels/**/*.nb*")}


@pytest.mark.slow
def test_networks_are_the_same_whatever_the_registers(tmp_path):
    """The code that `nearzero compile` makes is complete, also for other constants in another cache."""
    cache = str(tmp_path)
    printed("other", COMPILED, NEARZERO_CACHE=cache)
    before = compiled(tmp_path)
    assert before
    many, digest, *shares = printed("own", TRAINED)
    other_many, other_digest, *_ = printed("other", TRAINED, NEARZERO_CACHE=cache)
    assert compiled(tmp_path) == before
    assert many != other_many
    assert digest == other_digest
    assert sum(0.25 < float(share) < 0.95 for share in shares) >= 2  # some tiles are filtered, others not
