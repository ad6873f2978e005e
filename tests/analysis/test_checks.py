"""Checks of a verdict: levels of equal size in other measures, and other data, against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import optimize
from sklearn.covariance import ledoit_wolf

import nearzero as nz
from nearzero.evaluators.base import halves

DESIGN = nz.Design(families=("signed_shift", "gains", "cap", "noise"), targets=(0.1, 0.4), draws=2)
FAMILIES = ("signed_shift", "gains", "cap")


@pytest.fixture(scope="module")
def network(trained: dict[str, nz.TwoLayer]) -> nz.TwoLayer:
    return trained["relu"]


@pytest.fixture(scope="module")
def data(mnist_5k: nz.datasets.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return mnist_5k.test.pixels, mnist_5k.test.labels


@pytest.fixture(scope="module")
def found(network: nz.TwoLayer, mnist_5k: nz.datasets.Dataset) -> xr.Dataset:
    train, test = mnist_5k.train, mnist_5k.test
    held_out = (train.pixels[:300], train.labels[:300])
    return nz.matched(network, test.pixels, test.labels, design=DESIGN, held_out=held_out)


class Plain:
    """A network on some examples, with plain NumPy in float64."""

    def __init__(self, network: nz.TwoLayer, x: np.ndarray) -> None:
        self.network = network
        self.z = x.astype(np.float64) @ network.w1.T.astype(np.float64) + network.b1

    def under(self, perturbation: nz.Perturbation) -> tuple[np.ndarray, np.ndarray]:
        pre = perturbation.side == "pre"
        a = np.maximum(perturbation(self.z), 0) if pre else perturbation(np.maximum(self.z, 0))
        return a, a @ self.network.w2.T.astype(np.float64) + self.network.b2


def families(name: str) -> list[nz.Family]:
    draws = 1 if name == "cap" else 2
    return [nz.make_family(name, nz.Conduct(), seed) for seed in range(draws)]


def test_sizes_are_those_of_signed_shifts_and_all_families_have_them(
    found: xr.Dataset, network: nz.TwoLayer, data: tuple[np.ndarray, np.ndarray]
) -> None:
    reference, _ = halves(len(data[0]), 0)
    plain = Plain(network, data[0][reference])
    ranges = nz.Ranges.of(plain.z, network.act)
    a, logits = plain.under(nz.Perturbation())
    live = ranges.live
    inverse = np.linalg.inv(ledoit_wolf(a[:, live])[0])
    centred = (a - a.mean(axis=0))[:, live]
    energy = np.einsum("nu,uv,nv->n", centred, inverse, centred).mean()

    def sizes(perturbation: nz.Perturbation) -> dict[str, float]:
        changed, moved = plain.under(perturbation)
        change, step = (changed - a)[:, live], moved - logits
        step -= step.mean(axis=0)
        whitened = np.einsum("nu,uv,nv->n", change, inverse, change).mean() / energy
        return {"whitened": np.sqrt(whitened), "centred_logits": np.sqrt(np.square(step).sum(axis=1).mean())}

    for check in ("whitened", "centred_logits"):
        for column, target in enumerate(found.target.values):
            own = []
            for family in families("signed_shift"):
                level = optimize.brentq(
                    lambda p, f=family, d=target: displaced(plain, f, p, ranges) - d, 0.0, 1.0
                )
                own.append(sizes(family.at(level, ranges))[check])
            expected = np.mean(own)
            assert float(found.target_size.sel(check=check)[column]) == pytest.approx(expected, rel=2e-3)
            for name in ("gains", "cap"):
                level = float(found.checked_level.sel(check=check, family=name, target=target).mean("side"))
                assert np.isfinite(level)
                if name == "cap":  # one draw, so its level is that of the result
                    reached = sizes(families(name)[0].at(level, ranges))[check]
                    assert reached == pytest.approx(expected, rel=3e-3)


def displaced(plain: Plain, family: nz.Family, level: float, ranges: nz.Ranges) -> float:
    a, _ = plain.under(nz.Perturbation())
    return nz.displacement(a, plain.under(family.at(level, ranges))[0], ranges.live)


def test_responses_of_checks_are_those_of_a_plain_network(
    found: xr.Dataset,
    network: nz.TwoLayer,
    data: tuple[np.ndarray, np.ndarray],
    mnist_5k: nz.datasets.Dataset,
) -> None:
    x, y = data
    reference, responding = halves(len(x), 0)
    ranges = nz.Ranges.of(Plain(network, x[reference]).z, network.act)
    train = mnist_5k.train
    other = {"held_out": (train.pixels[:300], train.labels[:300])}
    for check in found.check.values:
        inputs, labels = other.get(check, (x[responding], y[responding]))
        plain = Plain(network, inputs)
        for target in found.target.values:
            row = found.sel(check=check, family="cap", side="below", target=target)
            _, logits = plain.under(nz.Cap().at(float(row.checked_level), ranges))
            assert float(row.checked_accuracy) == pytest.approx(np.mean(logits.argmax(1) == labels), abs=2e-3)
        unperturbed = plain.under(nz.Perturbation())[1].argmax(1)
        whole = float(found.unperturbed_checked_accuracy.sel(check=check))
        assert whole == pytest.approx(np.mean(unperturbed == labels), abs=1e-9)
    at_displacement = found.checked_level.sel(check="held_out", family=list(FAMILIES))
    xr.testing.assert_equal(
        at_displacement.drop_vars("check"), found.level.sel(family=list(FAMILIES)).rename(None)
    )
    assert found.checked.values.tolist() == [True, True, True, False]


def test_both_backends_agree(
    network: nz.TwoLayer, data: tuple[np.ndarray, np.ndarray], found: xr.Dataset
) -> None:
    x, y = (torch.from_numpy(np.asarray(part)) for part in data)
    other = nz.matched(network.to_module(), (x.float(), y), layer="1", backend="model", design=DESIGN)
    for name in ("checked_level", "target_size", "checked_accuracy"):
        mine, theirs = (each[name].sel(check=list(other.check.values)) for each in (found, other))
        np.testing.assert_allclose(theirs, mine, rtol=5e-3, atol=2e-3)


def test_what_cant_be_checked(network: nz.TwoLayer, data: tuple[np.ndarray, np.ndarray]) -> None:
    plain = nz.matched(network, *data, design=nz.Design(families=("cap",), targets=(0.1,), checks=()))
    assert "check" not in plain.dims
    with pytest.raises(nz.InputError, match="check"):
        nz.Design(checks=("held_out",))
    with pytest.raises(nz.InputError, match=r"held_out must be \(inputs, labels\).*got ndarray"):
        nz.matched(network, *data, held_out=data[0])


def test_sizes_that_are_rounding_arent_matched(rng: np.random.Generator) -> None:
    """A shift of units that a linear layer reads adds a constant to the logits: its centred change is 0."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 3))
    x, y = rng.standard_normal((80, 6)).astype(np.float32), rng.integers(0, 3, 80)
    found = nz.matched(model, x, y, layer="0", design=DESIGN)
    assert found.target_size.sel(check="centred_logits").values.tolist() == [0.0, 0.0]
    assert bool((found.target_size.sel(check="whitened") > 0).all())
    assert not bool(found.checked_accuracy.sel(check="centred_logits").notnull().any())
