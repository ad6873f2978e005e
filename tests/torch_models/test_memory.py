"""A probe keeps to its memory limit however large the data are, and takes smaller blocks if a device has less.

The peak of memory is measured in a process of its own, above the memory held after a small probe: PyTorch has loaded
its kernels by then, and the model exists. Without a limit, the same probe goes beyond it.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import nearzero as nz
from nearzero.torch_models.replay import OpRecorder, Suffix

STATUS = Path("/proc/self/status")
# what the allocator keeps varies by some 20 MB from process to process
LIMIT, BATCH, SIDE = 64 * 10**6, 512, 64
LAYERS = ["parts.1", "parts.6"]  # the largest, and a small one behind it
BATCHES = 10 * LIMIT // (4 * BATCH * SIDE**2) + 1
UNLIMITED = 2 * 10**9


class Network(nn.Module):
    """Two convolutions and two linear layers; 70 kB of activations for an example of 16 kB."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 4, 3, stride=4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4 * 8 * 8, 16),
            nn.ReLU(),
            nn.Linear(16, 5),
        )

    def forward(self, x):
        return self.parts(x)


class Stream:
    """Batches that are made one at a time."""

    def __init__(self, batches, size=BATCH):
        self.batches, self.size = batches, size

    def __iter__(self):
        for number in range(self.batches):
            generator = torch.Generator().manual_seed(number)
            rows = torch.randn(self.size, 1, 1, SIDE, generator=generator)
            columns = torch.randn(self.size, 1, SIDE, 1, generator=generator)
            yield rows * columns, torch.randint(0, 5, (self.size,), generator=generator)


def probed(data, **settings):
    options = {"layers": "parts.1", "families": "scale", "levels": [0.5], "batch_size": BATCH, **settings}
    return nz.probe(Network(), data, **options)


def held(name):
    """Return the memory of this process in bytes: now (VmRSS; RssAnon without files), or its peak (VmHWM)."""
    line = next(each for each in STATUS.read_text().splitlines() if each.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def work(kind, memory, batches):
    """Probe a stream or an array on disk, and print the bytes it took; runs in a process of its own."""
    torch.set_num_threads(1)
    probed(Stream(1), memory=16 * 10**6)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    if kind == "stream":
        before = held("VmRSS")
        probed(Stream(batches), layers=LAYERS, memory=memory)
        print(held("VmHWM") - before)
    else:  # pages of a file don't count: the system can drop them at any time
        most = [held("RssAnon")]
        data = np.load(kind, mmap_mode="r")
        probed(data, layers=LAYERS, memory=memory, advanced=lambda _: most.append(held("RssAnon")))
        print(max(most) - most[0])


def taken(kind, memory, batches=0):
    command = [sys.executable, __file__, str(kind), str(memory), str(batches)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


linux = pytest.mark.skipif(not STATUS.exists(), reason="reads /proc")


@linux
@pytest.mark.slow
def test_a_stream_ten_times_as_large_as_the_limit_stays_under_it():
    assert BATCHES * BATCH * SIDE**2 * 4 > 10 * LIMIT
    assert taken("stream", LIMIT, BATCHES) < LIMIT
    assert taken("stream", UNLIMITED, 3) > LIMIT


@linux
def test_an_array_on_disk_is_read_a_batch_at_a_time(tmp_path):
    path = tmp_path / "images.npy"
    shape = (BATCHES // 4 * BATCH, 1, SIDE, SIDE)
    array = np.lib.format.open_memmap(path, "w+", np.float32, shape)  # zeros take no space on disk
    array[:4] = np.random.default_rng(0).normal(size=(4, *shape[1:]))
    assert array.nbytes > 2 * LIMIT
    del array
    assert taken(path, LIMIT) < LIMIT


def test_a_limit_changes_no_response():
    low, high = (
        probed(Stream(2), memory=memory, layers=["parts.1", "parts.6"], levels=4, families=["offset", "clip"])
        for memory in (16 * 10**6, UNLIMITED)
    )
    assert low.response.equals(high.response)


def test_nothing_grows_with_the_data_but_what_is_kept():
    """Compare the numbers in lists of arrays, and the count of tensors, after four and after nine batches."""

    def growth(keep_items):
        seen, numbers, tensors = [], [], []

        def look(examples):
            seen.append(examples)
            if len(seen) in (4, 9):
                there = gc.get_objects()
                lists = [
                    each for each in there if type(each) is list and each and type(each[0]) is np.ndarray
                ]
                numbers.append(sum(sum(map(np.size, each)) for each in lists))
                tensors.append(sum(type(each) is torch.Tensor for each in there))

        probed(Stream(9, size=4), keep_items=keep_items, advanced=look)
        return [numbers[1] - numbers[0], tensors[1] - tensors[0]]

    assert growth(keep_items=False) == [0, 0]
    places, values, classes = 2 * 4, 2 * 2 * 4, 4  # two metrics, at a level and without
    assert growth(keep_items=True) == [5 * (places + values + classes), 0]


def test_recordings_go_when_their_batch_is_done():
    gc.collect()
    gc.disable()
    try:
        probed(Stream(1, size=8), layers=["parts.1", "parts.3"])
        assert not [each for each in gc.get_objects() if type(each) in (OpRecorder, Suffix)]
    finally:
        gc.enable()


# --- where a device has less ---------------------------------------------------------------------------------------


def out_of_memory():
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def not_enough():
    return RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8000000000 bytes")


class Small(nn.Module):
    """A model on a device that holds a limited number of examples; a closure keeps the sizes that were tried."""

    def __init__(self, most, error):
        super().__init__()
        sizes = []

        def check(size):
            sizes.append(size)
            if size > most(sizes):
                raise error()

        self.parts, self.sizes, self.check = Network().parts, lambda: sizes, check

    def forward(self, x):
        self.check(len(x))
        return self.parts(x)


@pytest.mark.parametrize("error", [out_of_memory, not_enough, MemoryError])
@pytest.mark.parametrize("method", ["suffix", "full"])
def test_fewer_examples_are_taken_once_memory_ran_out(method, error):
    data = list(Stream(2, size=24))
    model, large = Small(lambda _: 5, error), Small(lambda _: 24, error)
    options = {"layers": ["parts.1", "parts.6"], "levels": 4, "method": method, "keep_items": True}
    by_block, at_once = (nz.probe(each, data, **options).response for each in (model, large))
    ends = ["unit_minimum", "unit_maximum"]  # products of fewer rows can be rounded otherwise
    assert by_block.drop_vars(ends).equals(at_once.drop_vars(ends))
    xr.testing.assert_allclose(by_block[ends], at_once[ends], rtol=1e-6)
    sizes = model.sizes()
    assert sizes.count(24) == sizes.count(12) == sizes.count(6) == 1
    assert set(sizes) == {24, 12, 6, 3, *(1, 2, 3, 4)}  # the last in experiments


def test_a_metric_that_memory_doesnt_hold_is_measured_on_fewer():
    sizes = []

    def logit(logits, target):
        sizes.append(len(logits))
        if len(logits) > 5:
            raise out_of_memory()
        return logits[:, 0]

    data = list(Stream(2, size=8))
    result = nz.probe(Network(), data, "parts.1", metrics=logit, levels=4, keep_items=True)
    plain = nz.probe(
        Network(), data, "parts.1", metrics=lambda logits, target: logits[:, 0], levels=4, keep_items=True
    )
    np.testing.assert_allclose(result.response["logit"], plain.response["<lambda>"], rtol=1e-6)
    assert result.response.attrs["items"] == 16
    assert sizes.count(8) == 1


def test_what_memory_never_holds_is_refused():
    data = [*Stream(1, size=4), *Stream(1, size=8)]
    nothing = Small(lambda sizes: 0 if 8 in sizes else 4, out_of_memory)  # after the layers were found
    with pytest.raises(
        nz.InputError, match=r"memory doesn't hold a batch of float32 \(1, 1, 64, 64\); use smaller"
    ):
        nz.probe(nothing, data, "parts.1", levels=1)
    with pytest.raises(
        nz.InputError, match=r"memory doesn't hold a batch of float32 \(2, 1, 64, 64\); use smaller"
    ):
        nz.probe(Small(lambda _: 0, out_of_memory), data, "parts.1", levels=1)
    other = Small(lambda _: 4, lambda: RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        nz.probe(other, data, "parts.1", levels=1)
    with pytest.raises(
        nz.InputError, match=r"one example takes about .* raise NEARZERO_MEMORY or give memory="
    ):
        nz.probe(nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU()), torch.randn(2, 1, 1024, 1024), memory="16 MB")


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
