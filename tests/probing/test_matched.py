"""Responses of a model's layers at matched displacement: levels by the definition, halves, and verdicts on runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torch import nn

import nearzero as nz
from nearzero.evaluators.base import halves
from nearzero.support.netcdf import load_netcdf, netcdf_content

DESIGN = nz.Design(families=("shift", "signed_shift", "gains", "cap"), targets=(0.1, 0.3), draws=2)


def small(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 12),
        nn.GELU(),
        nn.Linear(12, 10),
    )


@pytest.fixture(scope="module")
def images(digits: nz.datasets.Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(digits.test.pixels).float().reshape(-1, 1, 8, 8) / 16
    return x[:200], torch.from_numpy(digits.test.labels[:200])


def probed(seed: int, images: tuple[torch.Tensor, torch.Tensor], **options: object) -> nz.ProbeResult:
    return nz.probe(small(seed), images, ["1", "5"], levels=1, batch_size=64, design=DESIGN, **options)  # type: ignore[arg-type]


def test_levels_and_responses_are_those_of_the_definition(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    """By plain forward passes: d on the reference half, accuracy on the responding half."""
    x, y = images
    model = small(0)
    result = probed(0, images).matched
    reference, responding = halves(len(x), DESIGN.seed)
    first, second, labels = x[reference], x[responding], y[responding]
    cuts = {"1": (model[:1], model[1], model[2:]), "5": (model[:5], model[5], model[6:])}
    with torch.no_grad():
        for name, (before, act, after) in cuts.items():
            z, here = before(first), before(second)
            axes = (0, 2, 3) if z.ndim == 4 else (0,)
            kind = act(z) if name == "1" else z  # post-activation ranges for ReLU, pre for GELU
            width = kind.amax(axes) - kind.amin(axes)
            shape = (1, -1, 1, 1) if z.ndim == 4 else (1, -1)
            for side in ("below", "above"):
                for target in DESIGN.targets:
                    row = result.sel(layer=name, family="shift", side=side, target=target)
                    move = float(row.level) * width.view(shape)
                    d = ((act(z + move) - act(z)).square().sum() / act(z).square().sum()).sqrt()
                    assert float(d) == pytest.approx(target, rel=1e-3)
                    right = (after(act(here + move)).argmax(1) == labels).float().mean()
                    assert float(row.accuracy) == pytest.approx(float(right), abs=1e-6)
        right = (model(second).argmax(1) == labels).float().mean()
    np.testing.assert_allclose(result.unperturbed_accuracy, float(right), atol=1e-6)
    assert result.level.sel(family="cap", side="above").isnull().all()
    assert result.attrs["items"] == len(second)


def test_later_draws_differ_on_the_same_halves(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    result = probed(0, images).matched
    later = nz.probe(
        small(0), images, ["1", "5"], levels=1, batch_size=64, design=replace(DESIGN, first_draw=2)
    ).matched
    same = (result.level == later.level).sel(side="above", target=0.1)
    assert same.sel(family="shift").all()
    assert not same.sel(family="gains").any()


def test_centred_metrics_are_without_the_mean_logit_shift(
    images: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """By plain forward passes: the mean shift on the reference half is subtracted on the other half."""
    x, y = 20 * images[0], images[1]  # so that an untrained model predicts several classes
    model = small(0)
    result = probed(0, (x, y)).matched
    reference, responding = halves(len(x), DESIGN.seed)
    first, second, labels = x[reference], x[responding], y[responding]
    before, act, after = model[:5], model[5], model[6:]
    changed = 0
    with torch.no_grad():
        width = before(first).amax(0) - before(first).amin(0)
        whole = model(second).argmax(1)
        for side in ("below", "above"):
            row = result.sel(layer="5", family="shift", side=side, target=0.3)
            there, here = (after(act(before(each) + float(row.level) * width)) for each in (first, second))
            centred = (here - (there - model(first)).mean(0)).argmax(1)
            assert float(row.centred_accuracy) == pytest.approx(
                float((centred == labels).float().mean()), abs=1e-6
            )
            assert float(row.centred_agreement) == pytest.approx(
                float((centred == whole).float().mean()), abs=1e-6
            )
            changed += int((centred != here.argmax(1)).sum())
    assert changed
    rules = nz.Rules(targets=(0.3,), measure="centred_accuracy")
    assert nz.verdict([probed(seed, images) for seed in range(6)], rules).networks == ("1", "5")


def test_a_verdict_on_several_runs(images: tuple[torch.Tensor, torch.Tensor], tmp_path: Path) -> None:
    runs = [probed(seed, images) for seed in range(6)]
    judged = nz.verdict(runs, nz.Rules(targets=DESIGN.targets))
    assert judged.networks == ("1", "5")
    assert {each.n for each in judged.comparisons} == {6}
    again = nz.ProbeResult.open(runs[0].save(tmp_path / "probe"))
    np.testing.assert_array_equal(again.matched.accuracy, runs[0].matched.accuracy)
    assert nz.verdict(again, nz.Rules(targets=DESIGN.targets)).of("1").startswith("description only")


def test_suffix_and_full_pass_agree(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    one, other = (probed(0, images, method=method).matched for method in ("suffix", "full"))
    np.testing.assert_array_equal(one.accuracy, other.accuracy)


def test_without_labels(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    result = nz.probe(small(0), images[0], "1", levels=1, design=DESIGN)
    assert "accuracy" not in result.matched
    judged = nz.verdict([result] * 6, nz.Rules(targets=DESIGN.targets, measure="agreement"))
    assert len(judged.comparisons) == 4
    with pytest.raises(nz.InputError, match="no accuracy; without labels there is agreement alone"):
        nz.verdict([result] * 6, nz.Rules(targets=DESIGN.targets))


def test_refusals(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    plain = nz.probe(small(0), images, "1", levels=1)
    with pytest.raises(nz.InputError, match=r"probe with design=nz\.Design"):
        nz.verdict(plain)
    with pytest.raises(nz.InputError, match=r"design must be an nz\.Design; got dict"):
        nz.probe(small(0), images, "1", design={"targets": 3})  # type: ignore[arg-type]
    with pytest.raises(nz.InputError, match="take more than a quarter of"):
        nz.probe(
            small(0),
            (images[0].repeat(300, 1, 1, 1), images[1].repeat(300)),
            "1",
            levels=1,
            memory="16 MB",
            design=DESIGN,
        )
    with pytest.raises(nz.InputError, match="two halves need at least two examples; got 1"):
        nz.probe(small(0), (images[0][:1], images[1][:1]), "1", levels=1, design=DESIGN)


def test_items_at_matched_displacement_average_to_the_means(
    images: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """A mean over items is the response; examples are numbered within the responding half."""
    kept = probed(0, images, keep_items=True).matched
    assert kept.drop_dims("item").identical(probed(0, images).matched.drop_dims("item", errors="ignore"))
    for name in ("accuracy", "agreement"):
        np.testing.assert_allclose(kept[f"{name}_items"].mean("item"), kept[name], atol=1e-6)
        plain = kept[f"unperturbed_{name}_items"].mean("item")
        np.testing.assert_allclose(plain, kept.get(f"unperturbed_{name}", 1.0), atol=1e-6)
    assert kept.sequence.values.tolist() == list(range(len(images[0]) // 2))


def test_differences_of_one_model_are_those_of_the_verdict_and_of_scipy(
    images: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """D is that of a verdict on this run alone; its interval is the percentile interval of SciPy's bootstrap."""
    result = probed(0, images, keep_items=True)
    rules = nz.Rules(targets=DESIGN.targets)
    found = result.matched_differences(rules, resamples=4000)
    for row in nz.verdict([result.matched], rules).comparisons:
        cell = found.sel(layer=row.network, intensity=row.intensity, target=row.target)
        expected = (row.distance_cost, row.intensity_cost, row.difference)
        got = [float(cell[name]) for name in ("distance_cost", "intensity_cost", "difference")]
        np.testing.assert_allclose(got, expected, atol=1e-4)
    items = result.matched.accuracy_items.sel(layer="5", target=0.3).mean("side")
    differences = 100 * (items.sel(family="cap") - items.sel(family="signed_shift")).values
    by_scipy = bootstrap((differences,), np.mean, method="percentile", n_resamples=4000, rng=1)
    cell = found.sel(layer="5", intensity="cap", target=0.3)
    ends = by_scipy.confidence_interval
    np.testing.assert_allclose(
        [cell.low, cell.high], [ends.low, ends.high], atol=0.3 * by_scipy.standard_error
    )


def test_differences_need_items_and_their_families(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(nz.InputError, match="probe with keep_items=True"):
        probed(0, images).matched_differences()
    kept = probed(0, images, keep_items=True)
    with pytest.raises(nz.InputError, match="the design of this probe has no floor; give it in families="):
        kept.matched_differences(nz.Rules(intensity=("floor",)))
    with pytest.raises(
        nz.InputError, match="no centred_accuracy item by item; measured were accuracy, agreement"
    ):
        kept.matched_differences(nz.Rules(measure="centred_accuracy"))


@pytest.mark.parametrize("damage", ["missing", "a text"])
def test_a_damaged_file_of_matched_responses_is_named_by_the_page(damage: str, tmp_path: Path) -> None:
    network = nz.TwoLayer(np.eye(4), np.zeros(4), np.eye(4), np.zeros(4), "relu").to_module()
    data = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32), np.arange(40) % 4
    design = nz.Design(families=("signed_shift", "cap"), targets=(0.1,), draws=1)
    nz.probe(network, data, levels=2, design=design).save(tmp_path)
    assert nz.ProbeResult.open(tmp_path).to_html()
    matched = load_netcdf((tmp_path / "matched.nc").read_bytes(), "", "").to_dataset()
    matched.attrs["reference_examples"] = "many"
    if damage == "missing":
        del matched.attrs["reference_examples"]
    (tmp_path / "matched.nc").write_bytes(netcdf_content(matched))
    (tmp_path / "checksums").unlink(missing_ok=True)
    with pytest.raises(nz.InputError, match=r"can't be read \(\w+Error: .*\); probe again"):
        nz.ProbeResult.open(tmp_path).to_html()
