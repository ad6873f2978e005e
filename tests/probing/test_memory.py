"""A probe takes no more memory than it may, whatever passes through it, and backs off where there is less.

What a process holds at most is measured in one of its own, above what it held after a small probe: by then PyTorch
has loaded its kernels, and the model is there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import nearzero as nz

STATUS = Path("/proc/self/status")
CAP, BATCH, BATCHES, SIDE = 64 * 10**6, 512, 80, 64
STREAMED = BATCH * BATCHES * SIDE * SIDE * 4


class Network(nn.Module):
    """Two convolutions and two linear layers; 90 kB of activations for an example of 16 kB."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=4), nn.ReLU(),
            nn.Flatten(), nn.Linear(4 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 5),
        )  # fmt: skip

    def forward(self, x):
        return self.parts(x)


class Stream:
    """Batches that are made as they're asked for."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        for number in range(self.batches):
            generator = torch.Generator().manual_seed(number)
            rows = torch.randn(BATCH, 1, 1, SIDE, generator=generator)
            columns = torch.randn(BATCH, 1, SIDE, 1, generator=generator)
            yield rows * columns, torch.randint(0, 5, (BATCH,), generator=generator)


def held(name):
    """Bytes that this process holds (VmRSS, RssAnon), or held at most (VmHWM)."""
    line = next(each for each in STATUS.read_text().splitlines() if each.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def probed(data, memory, **settings):
    how = {"levels": 2, "batch_size": BATCH, **settings}
    return nz.probe(Network(), data, ["parts.1", "parts.6"], memory=memory, **how)


def work(kind, memory):
    """Probe a stream, or an array on disk, within a process; prints what it took, and the responses."""
    torch.set_num_threads(1)
    probed(Stream(1), 16 * 10**6)
    before = held("VmRSS")
    most = [held("RssAnon")]
    data = Stream(BATCHES) if kind == "stream" else np.load(kind, mmap_mode="r")
    result = probed(data, memory, advanced=lambda _: most.append(held("RssAnon")))
    # Pages of a file that was read are the system's, which takes them back as it likes.
    taken = held("VmHWM") - before if kind == "stream" else max(most) - most[0]
    print(json.dumps([taken, result.response.to_array().values.astype(str).tolist()]))


def taken_by(kind, memory):
    command = [sys.executable, __file__, str(kind), str(memory)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    taken, responses = json.loads(done.stdout)
    return taken, responses


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
