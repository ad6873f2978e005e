"""Some units, groups of units, directions, and perturbations of the user's own: equal to hooks made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nearzero as nz
from nearzero.evaluators.base import halves

LEVELS = {"offset": [-0.3, 0.4], "scale": [0.3, 2.0], "clip": [0.3, 0.8]}
SHIFTED = nz.Conduct(offset="shift", range="pre")


class Tokens(nn.Module):
    """A classifier of tokens, whose values are (examples, tokens, units)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(11, 6), nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embed(ids))).cumsum(1))


@pytest.fixture(params=["rows", "channels", "tokens"])
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, str, int]:
    """Return a model, its inputs, a linear layer or convolution, and the dimension of its units."""
    torch.manual_seed(3)
    if request.param == "rows":
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
        return model, torch.randn(60, 5), "0", 1
    if request.param == "channels":
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
        return model, torch.randn(60, 1, 6, 6), "0", 1
    return Tokens(), torch.randint(11, (40, 5)), "hidden", 2


def logits(model: nn.Module, x: Tensor, layer: str, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the logits of a pass with the layer's output changed by a hook, classes last."""
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, out: change(out))
    with torch.no_grad():
        out = model(x)
    handle.remove()
    return out


def values(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    seen: list[Tensor] = []
    logits(model, x, layer, lambda out: seen.append(out) or out)  # type: ignore[func-returns-value]
    return seen[0]


def moved(c: Tensor, family: str, level: float, low: Tensor, high: Tensor) -> Tensor:
    """Return the coordinates (..., V) under a family with the range of c, by the definition."""
    if family == "scale":
        return level * c
    if family == "offset":
        return c + level * (high - low)
    return torch.minimum(c, low + level * (high - low))


def check(case: tuple[nn.Module, Tensor, str, int], result: nz.ProbeResult, name: str, read, write) -> None:  # type: ignore[no-untyped-def]
    """Compare agreement and KL of one row with those of hooks; read and write are the coordinates of rows."""
    model, x, layer, axis = case
    rows = values(model, x, layer).movedim(axis, -1)
    c = read(rows)
    low, high = (f(tuple(range(c.ndim - 1))) for f in (c.amin, c.amax))
    plain = logits(model, x, layer, lambda out: out)
    for family, levels in LEVELS.items():
        for level in levels:
            after = write(rows, moved(c, family, level, low, high)).movedim(-1, axis)
            there = logits(model, x, layer, lambda out, after=after: after)
            row = result.response.sel(layer=name, family=family, level=level)
            same = (there.argmax(-1) == plain.argmax(-1)).double().mean()
            assert float(row.agreement) == float(same), (name, family, level)
            p, q = plain.double().log_softmax(-1), there.double().log_softmax(-1)
            assert float(row.kl_divergence) == pytest.approx(
                float((p.exp() * (p - q)).sum(-1).mean()), rel=2e-4
            )


def probed(case: tuple[nn.Module, Tensor, str, int], **options: Any) -> nz.ProbeResult:
    model, x, layer, _ = case
    settings: dict[str, Any] = {
        "levels": LEVELS,
        "conduct": SHIFTED,
        "metrics": ["agreement", "kl_divergence"],
    }
    return nz.probe(model, [x], layer, **(settings | options))


def write_units(indices: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    def write(rows: Tensor, c: Tensor) -> Tensor:
        out = rows.clone()
        out[..., indices] = c
        return out

    return write


@pytest.mark.parametrize("method", ["suffix", "full"])
def test_some_units_move_and_the_others_stay(case: Any, method: str) -> None:
    indices = [6, 1, 3]
    result = probed(case, units=indices, method=method)
    assert int(result.response.units[0]) == 3
    check(case, result, case[2], lambda rows: rows[..., indices], write_units(indices))
    mask = np.isin(np.arange(8), indices)
    same = probed(case, units=mask, method=method)
    assert same.response.agreement.equals(result.response.agreement)
    rows = {row.what: row for row in result.assumptions}
    assert rows[f"perturbed part of layer {case[2]}"].value == "3 units, of 8 units"


def test_groups_of_units_are_perturbed_one_after_the_other(case: Any) -> None:
    groups = {"head 0": range(4), "head 1": [4, 5, 6, 7]}
    result = probed(case, units=groups)
    assert result.layers == [f"{case[2]}{{head 0}}", f"{case[2]}{{head 1}}"]
    for name, indices in groups.items():
        own = list(indices)
        check(case, result, f"{case[2]}{{{name}}}", lambda rows, own=own: rows[..., own], write_units(own))


def test_every_unit_alone(case: Any) -> None:
    result = probed(case, units="each")
    assert result.layers == [f"{case[2]}{{unit {unit}}}" for unit in range(8)]
    assert (result.response.units == 1).all()
    check(case, result, f"{case[2]}{{unit 5}}", lambda rows: rows[..., [5]], write_units([5]))


@pytest.mark.parametrize("method", ["suffix", "full"])
def test_directions_are_turned_perturbed_and_turned_back(case: Any, method: str) -> None:
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0][:, :3]
    b = torch.from_numpy(basis).float()
    result = probed(case, basis=basis, method=method)
    assert result.response.activation.values.tolist() == ["none"]
    check(case, result, case[2], lambda rows: rows @ b, lambda rows, c: rows + (c - rows @ b) @ b.T)
    one = probed(case, basis={"first": basis[:, 0], "all": basis}, method=method)
    assert one.layers == [f"{case[2]}{{first}}", f"{case[2]}{{all}}"]
    np.testing.assert_array_equal(one.response.agreement.values[1], result.response.agreement.values[0])


def test_all_units_as_directions_are_all_units() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)), torch.randn(50, 5)
    plain = nz.probe(model, [x], "0", levels=4)
    turned = nz.probe(model, [x], "0", levels=4, basis=np.eye(8))
    np.testing.assert_allclose(turned.response.kl_divergence, plain.response.kl_divergence, atol=1e-6)


def test_displacement_within_directions_is_that_of_the_coordinates() -> None:
    """By hand: the level that gives d = 0.2 moves the coordinates of the reference half by 0.2 of their size."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(80, 5)
    b = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0][:, :2]
    design = nz.Design(families=("shift", "gains"), targets=(0.2,), draws=1, checks=())
    found = nz.matched(model, (x, model(x).argmax(1)), layer="0", basis=b, design=design)
    reference, responding = halves(80, 0)
    with torch.no_grad():
        z = model[0](x)
    c = z.numpy()[reference] @ b
    level = float(found.level.sel(family="shift", side="above", target=0.2))
    step = level * (c.max(axis=0) - c.min(axis=0))
    assert np.sqrt(np.square(step).sum() * len(c) / np.square(c).sum()) == pytest.approx(0.2, rel=1e-4)
    after = z.numpy()[responding] + (step @ b.T)
    with torch.no_grad():
        same = model[1:](torch.from_numpy(after).float()).argmax(1) == model(x[responding]).argmax(1)
    agreement = found.agreement.sel(family="shift", side="above", target=0.2)
    assert float(agreement) == float(same.double().mean())


def test_noise_moves_the_selected_units_alone() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(80, 5)
    design = nz.Design(families=("noise",), targets=(0.3,), draws=1, checks=())
    silent = nn.Sequential(model[0], model[1], nn.Linear(8, 4))
    with torch.no_grad():
        silent[2].weight[:, [2, 5]] = 0.0  # these units change no logit
    found = nz.matched(silent, (x, silent(x).argmax(1)), layer="1", units=[2, 5], design=design)
    assert float(found.agreement.sel(side="above").squeeze()) == 1.0
    assert float(found.displacement.sel(side="above").squeeze()) == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": [8]}, r"units: layer '0' has 8 units, 0 to 7; got unit 8"),
        ({"units": [-1]}, r"units are counted from 0, up to the last unit of the layer; got -1"),
        ({"units": np.array([2**64 - 1], dtype=np.uint64)}, r"counted from 0, .* got 18446744073709551615"),
        ({"units": [1, 1]}, r"units must name each unit once; got \[1, 1\]"),
        ({"units": slice(0, 3)}, r"units must be numbers or a mask, such as range\(8\); got slice"),
        ({"units": {"a\0": [1]}}, r"the name of a group must be text without control characters; got 'a"),
        ({"basis": {"": np.eye(8)}}, r"the name of a group must be text"),
        (
            {"basis": np.eye(8), "families": "distance_shift"},
            r"distance_shift can't be measured along directions",
        ),
        ({"units": []}, r"units must name at least one unit; got none"),
        ({"units": [0.5]}, r"units must be a flat list of whole numbers or a mask; got float64"),
        ({"units": [True] * 7}, r"layer '0' has 8 units, but the mask has 7 values"),
        ({"units": [False] * 8}, r"the mask has none"),
        ({"units": "all"}, r"or 'each'; got 'all'"),
        ({"units": {}}, r"units must have at least one group; got none"),
        ({"units": [0], "basis": np.eye(8)}, r"give units= or basis=, not both"),
        ({"basis": 2 * np.eye(8)}, r"orthonormal; B'B differs from the identity by 3: divide"),
        (
            {"basis": np.eye(8)[:3]},
            r"of 3 units there can't be 8: give the directions as columns, basis\.T",
        ),
        ({"basis": np.eye(7)}, r"layer '0' has 8 units, but the directions have 7 components"),
        ({"basis": np.full(8, np.nan)}, r"basis must be finite numbers"),
        (
            {"basis": np.eye(8), "families": "cap"},
            r"cap can't be measured along directions, which have neither",
        ),
    ],
)
def test_what_isnt_units_or_directions_is_refused(options: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(nz.InputError, match=message):
        nz.probe(model, [torch.randn(10, 5)], "0", **options)


# --- perturbations of the user's own ---


def test_own_families_and_perturbations_have_the_names_that_they_are_given(case: Any) -> None:
    model, x, layer, axis = case
    clip = np.linspace(0.1, 0.8, 8)
    own = {"mine": nz.Perturbation(scale=0.5, clip=clip), "moved": nz.Shift(range="pre"), "plain": "gains"}
    result = probed(case, families=own, levels={"moved": [0.4], "plain": 3})
    assert result.response.family.values.tolist() == ["mine", "moved", "plain"]
    plain = logits(model, x, layer, lambda out: out).argmax(-1)
    shape = [8 if dimension == axis else 1 for dimension in range(values(model, x, layer).ndim)]
    bound = torch.from_numpy(clip).float().view(shape)
    there = logits(model, x, layer, lambda out: torch.minimum(0.5 * out, bound)).argmax(-1)
    mine = result.response.agreement.sel(family="mine").dropna("level")
    assert mine.level.values.tolist() == [1.0]
    assert float(mine.squeeze()) == float((there == plain).double().mean())
    moved_by = result.response.agreement.sel(family="moved").dropna("level")
    assert moved_by.level.values.tolist() == [0.4]
    shift = probed(case, families="shift", levels=[0.4])
    assert float(moved_by.squeeze()) == float(shift.response.agreement.squeeze())
    assert result.response.agreement.sel(family="plain").dropna("level").sizes["level"] == 3


def test_a_family_keeps_its_own_options() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(50, 5)
    found = nz.probe(model, [x], "1", families=nz.Clip("pr", "post"), levels=[0.2]).response
    conduct = nz.Conduct(clip="post", clip_threshold="pr")
    same = nz.probe(model, [x], "1", families="clip", levels=[0.2], conduct=conduct).response
    assert found.kl_divergence.values.tolist() == same.kl_divergence.values.tolist()
    with pytest.raises(nz.InputError, match="offset=as-run isn't defined for gelu"):
        nz.probe(nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 4)), [x], "1", families=nz.Offset())


@pytest.mark.parametrize(
    ("families", "message"),
    [
        (nz.Perturbation(clip=np.ones(3)), "layer '1': clip has 3 values, but the layer has 8 units"),
        ([nz.Shift(), "shift"], "name one of them twice: shift, shift; a mapping gives each a name"),
        ([nz.Perturbation(), nz.Perturbation()], "name one of them twice"),
        ({"": "shift"}, "the name of a family must be text without control characters; got ''"),
        ({"a\0": "shift"}, "the name of a family must be text without control characters"),
        ({"\ud800": "shift"}, "the name of a family must be text without control characters"),
        (3, r"families must be names, .*; got 3"),
        ({}, "families must name at least one"),
        ("shfit", "did you mean 'shift'"),
    ],
)
def test_what_isnt_a_family_is_refused(families: Any, message: str) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(nz.InputError, match=message):
        nz.probe(model, [torch.randn(10, 5)], "1", families=families)


def test_a_result_with_own_names_is_saved_drawn_and_summarised(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(50, 5)
    own = {"half": nz.Perturbation(scale=0.5), "s": nz.Shift()}
    result = nz.probe(model, [x], "1", families=own, units={"a": [0, 1], "b": [2]})
    result.save(tmp_path / "own")
    again = nz.ProbeResult.open(tmp_path / "own")
    assert again.response.identical(result.response)
    assert "half" in str(again.summary())
    assert (tmp_path / "own").exists()
    assert again.plot().axes


def test_default_layers_that_the_units_dont_fit_are_left_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3))
    x = torch.randn(30, 5)
    found = nz.probe(model, [x], units=[6], levels=2)
    assert found.layers == ["1"]
    assert any(note.startswith("3: left out, since units: layer '3' has 4 units") for note in found.notes)
    assert nz.probe(model, [x], basis=np.eye(4)[:, :2], levels=2).layers == ["3"]
    with pytest.raises(nz.InputError, match="layer '3' has 4 units, 0 to 3; got unit 6"):
        nz.probe(model, [x], ["1", "3"], units=[6], levels=2)
    with pytest.raises(nz.InputError, match="got unit 9"):
        nz.probe(model, [x], units=[9], levels=2)


def test_a_name_with_the_sign_of_a_formula_is_drawn_as_it_is(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    found = nz.probe(model, [torch.randn(30, 5)], "1", units={r"$\frac$": [0]}, levels=2)
    found.save(tmp_path / "kept")
    assert found.plot_lines().legends[0].get_texts()[0].get_text().startswith(r"1{\$\frac\$}")
