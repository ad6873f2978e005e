"""What several tests share: real digits, and networks trained on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the processors: PyTorch's threads would spin and wait for those of another worker.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

import nearzero as nz
from nearzero.networks import initial_stack
from nearzero.training.engine import Examples

if TYPE_CHECKING:
    from distributed import Client

# A shared machine can be slow for a moment; that says nothing about the code.
# In the gate the examples are always the same; elsewhere they are new each time.
hypothesis.settings.register_profile("patient", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: else one worker is at the last of them while the others have nothing to do."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(scope="session")
def digits() -> nz.datasets.Dataset:
    """1,797 images of 8 x 8 pixels: small, real, always at hand."""
    return nz.datasets.load("digits")


@pytest.fixture(scope="session")
def mnist_5k() -> nz.datasets.Dataset:
    """5,000 of MNIST's images, 28 x 28 pixels: real, and always at hand."""
    return nz.datasets.load("mnist-5k")


def trained_on(
    data: nz.datasets.Dataset, activation: str, *, steps: int = 400, runs: int = 1
) -> list[nz.TwoLayer]:
    """Networks trained as the quick preset does it, for fewer steps."""
    from nearzero.training.fused import FusedEngine

    train, test = (Examples(nz.Pixels(each.pixels), each.labels) for each in (data.train, data.test))
    seeds = range(runs)
    stack = initial_stack(seeds, activation, inputs=data.train.pixels.shape[1], classes=data.classes)
    engine = FusedEngine(stack, train, test, seeds=seeds, learning_rate=0.001, batch_size=256)
    engine.advance(0, steps)
    return list(engine.stack())


@pytest.fixture(scope="session")
def trained(mnist_5k: nz.datasets.Dataset) -> dict[str, nz.TwoLayer]:
    """One trained network for each activation that the paper, and the closed forms, are about."""
    return {name: trained_on(mnist_5k, name)[0] for name in ("abs", "relu", "leaky_relu", "gelu")}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20241126)


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """Return a client of a Dask cluster on this machine: three worker processes, which say that they have a GPU."""
    from distributed import Client, LocalCluster

    # another cluster may have the usual port
    options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": ":0", "resources": {"GPU": 1}}
    with (
        LocalCluster(n_workers=3, processes=True, **options) as cluster,
        Client(cluster, set_as_default=False) as client,  # else it would be that of all later tests
    ):
        yield client


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """These products are small, and PyTorch's threads wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _models_on_one_thread(request: pytest.FixtureRequest) -> None:
    """Run all tests of users' models on one thread."""
    if request.path.parent.name in ("evaluators", "probing", "torch_models"):
        request.getfixturevalue("one_torch_thread")


@pytest.fixture(scope="session")
def packages() -> None:
    """Makes torchvision importable, which timm and transformers import where it's installed.

    Beside a build of PyTorch that isn't its own, its compiled operators can't be loaded, and it isn't importable else.
    """
    from nearzero.torch_models.named.packages import imported

    imported("torchvision")
