"""What tests of work on executors share: worker processes, and files with names that a worker can open."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from several_runs import CODE, X, Y, build

from nearzero.support.workers import local_processes


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Return two worker processes."""
    with local_processes(2) as pool:
        yield pool


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a model's code, data, and the weights of six runs in `runs`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "worker_net.py").write_text(CODE)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    (tmp_path / "runs").mkdir()
    for run in range(6):
        torch.save(build(run).state_dict(), tmp_path / "runs" / f"run{run}.pt")
    return tmp_path
