"""Engines respect the memory limit whatever the size of networks, or raise an error of one line."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from nearzero.errors import InputError
from nearzero.kernels import descent
from nearzero.networks import initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.training.engine import Examples
from nearzero.training.fused import FusedEngine
from nearzero.training.stacked import CPU_CHUNK, MOST_DEFERRED, StackedEngine, fit_to_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
PAPER = 20, 128, 10  # runs, units, classes
WEIGHTS, SETS = 4 * 20 * 101_770, 4 * 70_000 * 792


def examples(count: int) -> Examples:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (count, 784)) * (rng.random((count, 784)) < 0.2)
    return Examples(Pixels(values.astype(np.uint8)), rng.integers(0, 10, count))


def make(kind: type, units: int, *, runs: int = 5, batch_size: int | None = None, **more: object):
    stack = initial_stack(range(runs), "relu", units=units)
    sets = examples(400), examples(50)
    return kind(stack, *sets, seeds=range(runs), learning_rate=1e-4, batch_size=batch_size, **more)


def assert_one_line(error: InputError, units: int) -> None:
    number = r"\d+(\.\d)? [MG]B"
    assert re.fullmatch(
        f"training 5 runs of {units:,} hidden units needs at least {number} of memory, and {number} is allowed; "
        "raise NEARZERO_MEMORY, or take fewer runs or units",
        str(error),
    ), error


def bytes_held(engine: FusedEngine) -> int:
    """Return the bytes of arrays that grow with the networks: weights, gradients, and those of shards."""
    weights = [array for group in engine._seed_groups for array in (*group.weights.own, group.weights.w2t)]
    own, shards = engine._gradients.values(), engine._shard_gradients
    gradients = [array for arrays in (*own, *shards) for array in arrays]
    return sum(array.nbytes for array in weights + gradients)


def trained_within(limit: int | str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NEARZERO_MEMORY", str(limit))
    engine = make(FusedEngine, 1000, threads=2)
    measured = engine.measure("train")
    engine.advance(0, 2)
    return engine, measured


@pytest.mark.parametrize("at_once", [3, 2, 1])
def test_fewer_runs_at_once_if_memory_is_short(at_once, monkeypatch):
    """The bytes depend on the processor's tiles, so the engine is asked; one byte less is too little."""
    whole, expected = trained_within("3 GB", monkeypatch)
    assert whole._runs_at_once == 4
    assert len(whole._shard_gradients) == 4 * 2  # runs, and shards of each
    limit = whole._bytes_needed(5, at_once + 1) - 1
    engine, measured = trained_within(limit, monkeypatch)
    assert engine._runs_at_once == at_once
    assert len(engine._shard_gradients) == at_once * 2
    assert bytes_held(engine) < min(limit, bytes_held(whole))
    monkeypatch.setenv("NEARZERO_MEMORY", str(limit + 1))
    assert make(FusedEngine, 1000, threads=2)._runs_at_once == at_once + 1
    np.testing.assert_array_equal(measured.loss, expected.loss)
    np.testing.assert_array_equal(measured.correct, expected.correct)
    stack, other_stack = whole.stack(), engine.stack()
    for name in ("w1", "b1", "w2", "b2"):
        np.testing.assert_array_equal(getattr(stack, name), getattr(other_stack, name))


@pytest.mark.parametrize("batch_size", [None, 64])
def test_networks_that_do_not_fit_are_refused_before_memory_is_allocated(batch_size, monkeypatch):
    monkeypatch.setenv("NEARZERO_MEMORY", "60 MB")
    monkeypatch.setattr(descent, "make_weights", lambda shape: pytest.fail("too late"))
    with pytest.raises(InputError) as caught:
        make(FusedEngine, 1000, batch_size=batch_size, threads=2)
    assert_one_line(caught.value, 1000)


def test_the_stacked_engine_refuses_them_too(monkeypatch):
    monkeypatch.setenv("NEARZERO_MEMORY", "60 MB")
    with pytest.raises(InputError) as caught:
        make(StackedEngine, 1000, device="cpu")
    assert_one_line(caught.value, 1000)


def test_the_stacked_engine_processes_examples_in_chunks(monkeypatch):
    """The results are the same up to rounding, as the sums of chunks are added up."""
    results = []
    for limit in ("3 GB", "40 MB"):
        monkeypatch.setenv("NEARZERO_MEMORY", limit)
        engine = make(StackedEngine, 2000, device="cpu", runs=1)
        engine.advance(0, 2)
        results.append(engine.measure("train"))
    assert engine._chunk < 400
    np.testing.assert_allclose(results[0].loss, results[1].loss, rtol=1e-5)


def sizes(device: torch.device, **more: int):
    return fit_to_memory(device, PAPER, weights=WEIGHTS, sets=SETS, factor=4, **more)


def test_on_the_processor_the_setting_applies(monkeypatch):
    monkeypatch.delenv("NEARZERO_MEMORY", raising=False)
    assert sizes(CPU) == (CPU_CHUNK, MOST_DEFERRED)
    monkeypatch.setenv("NEARZERO_MEMORY", "265 MB")
    chunk, deferred = sizes(CPU)
    assert chunk < CPU_CHUNK
    assert deferred < MOST_DEFERRED


def test_on_a_gpu_its_free_memory_counts_unless_the_setting_is_given(monkeypatch):
    """The device's answers are replaced; PyTorch's cache, here 2 GB, counts as free."""
    free = 70 * 10**9
    monkeypatch.delenv("NEARZERO_MEMORY", raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10**9)
    whole, deferred = sizes(CUDA)
    assert deferred == MOST_DEFERRED
    assert whole > 60_000  # the paper's study in one chunk
    free = 5 * 10**8
    assert sizes(CUDA)[0] < 60_000
    free = 70 * 10**9
    monkeypatch.setenv("NEARZERO_MEMORY", "1 GB")
    assert sizes(CUDA)[0] < 60_000
    monkeypatch.delenv("NEARZERO_MEMORY")
    free = 10**7
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10**9)
    with pytest.raises(InputError, match="is allowed; raise NEARZERO_MEMORY"):
        sizes(CUDA)
