"""The norms of the weights that give a layer's values, and the families that need them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nearzero as nz


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


FAMILIES = ["distance_shift", "signed_distance_shift"]


class Conv1D(nn.Module):
    """Hugging Face's linear layer: weights (inputs, units). It adds its bias in place."""

    def __init__(self, units: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, units)), nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        z = x @ self.weight
        z += self.bias
        return z


class Doubled(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Between(nn.Module):
    """First layer, something, ReLU as a function, second layer."""

    def __init__(self, first: nn.Module, between: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.between, self.second = first, between, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(functional.relu(self.between(self.first(x), x)))


def as_it_is(z: Tensor, _: Tensor) -> Tensor:
    return z


def added_in_place(z: Tensor, x: Tensor) -> Tensor:
    z += x
    return z


def added_in_place_and_copied(z: Tensor, x: Tensor) -> Tensor:
    z += x
    return z.clone()


def with_hook() -> nn.Module:
    linear = nn.Linear(6, 6)
    linear.register_forward_hook(lambda module, args, output: output + args[0])
    return linear


def with_weight_norm() -> nn.Module:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
    linear.parametrizations.weight.original0.data *= 3
    return linear


KNOWN = {
    "linear": lambda: Between(nn.Linear(6, 6), as_it_is),
    "without a bias": lambda: Between(nn.Linear(6, 6, bias=False), as_it_is),
    "copied": lambda: Between(nn.Linear(6, 6), lambda z, x: z.unsqueeze(1).clone().squeeze(1)),
    "weight norm": lambda: Between(with_weight_norm(), as_it_is),
    "transposed weights": lambda: Between(Conv1D(6, 6), as_it_is),
}
UNKNOWN = {
    "residual": lambda: Between(nn.Linear(6, 6), torch.add),
    "written to": lambda: Between(nn.Linear(6, 6), added_in_place),
    "written to, then copied": lambda: Between(nn.Linear(6, 6), added_in_place_and_copied),
    "a hook": lambda: Between(with_hook(), as_it_is),
    "a forward of its own": lambda: Between(Doubled(6, 6), as_it_is),
    "normalised": lambda: Between(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), as_it_is),
    "one unit as six": lambda: Between(nn.Linear(6, 1), lambda z, x: z.expand(-1, 6)),
    "no weights": lambda: Between(nn.Identity(), as_it_is),
}
X = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


def norms_of(model: nn.Module, x: np.ndarray = X, **options: object) -> np.ndarray | None:
    return nz.unit_ranges(model, x, backend="model", **options).norms  # type: ignore[arg-type]


def slopes(first: nn.Module) -> np.ndarray:
    """Return the norms of the rows of W, from z(x + e_i) - z(x), in float64."""
    first = first.double()
    with torch.no_grad():
        rows = first(torch.eye(6, dtype=torch.float64)) - first(torch.zeros(1, 6, dtype=torch.float64))
    first.float()
    return np.linalg.norm(rows.numpy(), axis=0)


@pytest.mark.parametrize("kind", KNOWN)
def test_the_norms_are_those_of_the_slopes(kind: str) -> None:
    model = KNOWN[kind]()
    np.testing.assert_allclose(norms_of(model), slopes(model.first), rtol=1e-6)
    np.testing.assert_allclose(norms_of(model, layer="first"), slopes(model.first), rtol=1e-6)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_where_weights_arent_known_distances_are_refused(kind: str) -> None:
    model = UNKNOWN[kind]()
    assert norms_of(model) is None
    for family in FAMILIES:
        with pytest.raises(
            nz.InputError, match=f"^layer ':relu': {family} need the weights .* leave the family"
        ):
            nz.probe(model, X, families=family)
        with pytest.raises(nz.InputError, match="these aren't the plain output of a linear layer"):
            nz.sweep(model, X, family=family)


@pytest.mark.parametrize("inplace", [False, True])
def test_an_activation_that_writes_to_its_argument(inplace: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for layer, linear in (("1", model[0]), ("3", model[2]), ("4", model[4])):
        expected = np.sqrt((linear.weight.detach().double().numpy() ** 2).sum(axis=1))
        np.testing.assert_allclose(norms_of(model, layer=layer), expected, rtol=1e-12)
    twice = nn.Sequential(nn.Linear(6, 4), nn.ReLU(inplace), nn.Tanh(), nn.Linear(4, 3))
    assert norms_of(twice, layer="2") is None


def test_convolutions_have_the_norms_of_their_filters() -> None:
    images = np.random.default_rng(1).normal(size=(4, 2, 5, 5)).astype(np.float32)
    plain, padded = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 4, 2, padding=1, padding_mode="reflect", groups=1)
    model = nn.Sequential(
        *(plain, nn.ReLU(), padded, nn.GELU(), nn.ConvTranspose2d(4, 4, 2), nn.ReLU()),
        *(nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
    )
    model(torch.from_numpy(images))
    for layer, filters in (("1", plain), ("0", plain), ("3", padded)):
        expected = [np.linalg.norm(each.detach().numpy().ravel()) for each in filters.weight]
        np.testing.assert_allclose(norms_of(model, images, layer=layer), expected, rtol=1e-6)
    for layer in ("4", "5", "6", "7"):
        assert norms_of(model, images, layer=layer) is None


def test_units_on_another_dimension_have_no_norms() -> None:
    tokens = np.random.default_rng(2).normal(size=(3, 6, 6)).astype(np.float32)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    assert norms_of(model, tokens, layer="1") is not None
    assert norms_of(model, tokens, layer="1", unit_axis=1) is None
    # six tokens on the dimension that units have in images
    heads = nn.Sequential(nn.Linear(6, 6), nn.Unflatten(2, (2, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    assert norms_of(heads, tokens, layer="2", unit_axis=1) is None


def test_boundaries_of_a_users_model_move_by_one_distance() -> None:
    """The points where z = 0 have z' = p R ||w|| in a plain forward pass."""
    model = nn.Sequential(nn.Conv1d(1, 4, 6), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    model[0].bias.data.fill_(0.5)  # all units are live
    x = X[:, None]
    y = torch.arange(8) % 3
    result = nz.probe(model, (x, y), "1", families="distance_shift", levels=[0.5], metrics="cross_entropy")
    ranges = nz.unit_ranges(model, x, layer="1")
    weight, bias = (each.detach().double().numpy() for each in (model[0].weight[:, 0], model[0].bias))
    z = X.astype(float) @ weight.T + bias
    reference = np.sqrt(np.mean((np.ptp(np.maximum(z, 0), axis=0) / np.linalg.norm(weight, axis=1)) ** 2))
    moved = z + 0.5 * reference * np.linalg.norm(weight, axis=1)
    np.testing.assert_allclose(nz.DistanceShift().at(0.5, ranges)(z), moved, rtol=1e-5)
    with torch.no_grad():
        expected = functional.cross_entropy(model[3](torch.from_numpy(np.maximum(moved, 0)).float()), y)
    assert float(result.response.cross_entropy.squeeze()) == pytest.approx(float(expected), rel=1e-5)


def test_all_families_leave_out_distances_where_they_arent_defined() -> None:
    """By default; if it is asked for by name, the family is refused."""
    model = UNKNOWN["normalised"]()
    x = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    found = nz.matched(model, x, design=nz.Design(targets=(0.1,), draws=1))
    assert found.level.sel(family=FAMILIES).isnull().all()
    assert found.level.sel(family="shift").notnull().all()
    assert found.level.sel(family="floor", side="below").notnull().all()
    with pytest.raises(nz.InputError, match="distance_shift need the weights"):
        nz.matched(model, x, design=nz.Design(families=("shift", "distance_shift"), targets=(0.1,)))
    known = nz.matched(KNOWN["linear"](), x, design=nz.Design(targets=(0.1,), draws=1))
    assert known.level.sel(family="distance_shift").notnull().all()
