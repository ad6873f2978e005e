"""Engines hold their work to the memory it may take, whatever the networks' size, or refuse it in one line."""

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
from nearzero.training.stacked import CPU_CHUNK, MOST_AHEAD, StackedEngine, room_for

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
        f"to train 5 runs of {units:,} hidden units at least {number} is needed, and {number} may be taken; "
        "raise NEARZERO_MEMORY, or take fewer runs or units",
        str(error),
    ), error


def bytes_held(engine: FusedEngine) -> int:
    """Of the arrays that grow with the networks: weights, gradients, and those of the shards."""
    weights = [array for team in engine._teams for array in (*team.weights.own, team.weights.w2t)]
    gradients = [array for each in (*engine._gradients.values(), *engine._parts) for array in each]
    return sum(array.nbytes for array in weights + gradients)


def trained_within(limit: int | str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NEARZERO_MEMORY", str(limit))
    engine = make(FusedEngine, 1000, threads=2)
    measured = engine.measure("train")
    engine.advance(0, 2)
    return engine, measured


@pytest.mark.parametrize("group", [3, 2, 1])
def test_fewer_runs_at_once_where_memory_is_short(group, monkeypatch):
    """How much a group takes depends on the processor's tiles, so the engine says it; a byte less, and it shrinks."""
    whole, one = trained_within("3 GB", monkeypatch)
    assert whole._group == 4
    assert len(whole._parts) == 4 * 2  # runs, and shards of each
    limit = whole._bytes_taken(5, group + 1) - 1
    engine, other = trained_within(limit, monkeypatch)
    assert engine._group == group
    assert len(engine._parts) == group * 2
    assert bytes_held(engine) < min(limit, bytes_held(whole))
    monkeypatch.setenv("NEARZERO_MEMORY", str(limit + 1))
    assert make(FusedEngine, 1000, threads=2)._group == group + 1
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.correct, other.correct)
    stack, other_stack = whole.stack(), engine.stack()
    for name in ("w1", "b1", "w2", "b2"):
        np.testing.assert_array_equal(getattr(stack, name), getattr(other_stack, name))


@pytest.mark.parametrize("batch_size", [None, 64])
def test_networks_that_do_not_fit_are_refused_before_anything_is_taken(batch_size, monkeypatch):
    monkeypatch.setenv("NEARZERO_MEMORY", "60 MB")
    monkeypatch.setattr(descent, "make_weights", lambda shape: pytest.fail("too late"))
    with pytest.raises(InputError) as caught:
        make(FusedEngine, 1000, batch_size=batch_size, threads=2)
    assert_one_line(caught.value, 1000)


def test_the_stacked_engine_refuses_too(monkeypatch):
    monkeypatch.setenv("NEARZERO_MEMORY", "60 MB")
    with pytest.raises(InputError) as caught:
        make(StackedEngine, 1000, device="cpu")
    assert_one_line(caught.value, 1000)


def test_the_stacked_engine_takes_examples_in_parts(monkeypatch):
    """To rounding the same, as sums over the parts are added up."""
    results = []
    for limit in ("3 GB", "40 MB"):
        monkeypatch.setenv("NEARZERO_MEMORY", limit)
        engine = make(StackedEngine, 2000, device="cpu", runs=1)
        engine.advance(0, 2)
        results.append(engine.measure("train"))
    assert engine._chunk < 400
    np.testing.assert_allclose(results[0].loss, results[1].loss, rtol=1e-5)


def room(device: torch.device, **more: int):
    return room_for(device, PAPER, weights=WEIGHTS, sets=SETS, factor=4, **more)


def test_on_the_processor_the_setting_counts(monkeypatch):
    monkeypatch.delenv("NEARZERO_MEMORY", raising=False)
    assert room(CPU) == (CPU_CHUNK, MOST_AHEAD)
    monkeypatch.setenv("NEARZERO_MEMORY", "265 MB")
    chunk, ahead = room(CPU)
    assert chunk < CPU_CHUNK
    assert ahead < MOST_AHEAD


def test_on_a_gpu_its_free_memory_counts_unless_the_setting_is_given(monkeypatch):
    """As the device would say it; the engine's own cache, here 2 GB, is free to it."""
    free = 70 * 10**9
    monkeypatch.delenv("NEARZERO_MEMORY", raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * 10**9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10**9)
    whole, ahead = room(CUDA)
    assert ahead == MOST_AHEAD
    assert whole > 60_000  # the paper's study in one part
    free = 5 * 10**8
    assert room(CUDA)[0] < 60_000
    free = 70 * 10**9
    monkeypatch.setenv("NEARZERO_MEMORY", "1 GB")
    assert room(CUDA)[0] < 60_000
    monkeypatch.delenv("NEARZERO_MEMORY")
    free = 10**7
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10**9)
    with pytest.raises(InputError, match="may be taken; raise NEARZERO_MEMORY"):
        room(CUDA)
