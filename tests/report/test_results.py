import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from nearzero.errors import InputError
from nearzero.report.results import (
    StudyResults,
    curve,
    display_name,
    families,
    final_values,
    networks,
    splits,
    unperturbed,
)

LOG_LEVELS = np.logspace(-2, 1, 100)


def test_a_family_has_its_own_levels(study: StudyResults) -> None:
    assert study.response.sizes["level"] > 125
    for family, size in (("scale", 100), ("clip", 100), ("offset", 125)):
        grid = curve(study, "relu", family)
        assert grid.levels.shape == (size,)
        assert grid.accuracy.shape == (size, 20)
        assert np.isfinite(grid.accuracy).all()
    np.testing.assert_array_equal(curve(study, "abs", "clip").levels, LOG_LEVELS)


def test_values_are_the_studys_in_percent(study: StudyResults) -> None:
    grid = curve(study, "abs", "offset")
    one = study.response["accuracy"].sel(network="abs", run=4, family="offset", split="train")
    assert grid.accuracy[17, 4] == 100 * float(one.sel(level=grid.levels[17]))
    assert unperturbed(study, "relu")[3] == 100 * float(study.response["unperturbed_accuracy"][1, 3, 0])
    assert final_values(study, "relu", "loss")[2] == float(study.history["loss"][1, 2, -1])
    assert final_values(study, "relu", "test_accuracy")[2] == 100 * float(
        study.history["test_accuracy"][1, 2, -1]
    )


def test_a_run_that_diverged_does_not_take_levels_away(study_of: Callable) -> None:
    study = study_of(diverged={"relu": tuple(range(20))})
    grid = curve(study, "relu", "scale")
    assert grid.levels.shape == (100,)
    assert np.isnan(grid.accuracy).all()


def test_levels_come_sorted_whatever_their_order(study_of: Callable) -> None:
    study = study_of(runs=2)
    turned = study_of(runs=2)
    object.__setattr__(turned, "response", study.response.isel(level=slice(None, None, -1)))
    straight, sorted_ = curve(study, "abs", "offset"), curve(turned, "abs", "offset")
    np.testing.assert_array_equal(straight.levels, sorted_.levels)
    np.testing.assert_array_equal(straight.accuracy, sorted_.accuracy)


def test_the_nearest_level(study: StudyResults) -> None:
    scale, offset = curve(study, "abs", "scale"), curve(study, "abs", "offset")
    index = scale.nearest(0.3)
    assert index is not None
    assert abs(LOG_LEVELS[index] - 0.3) == np.abs(LOG_LEVELS - 0.3).min()
    zero = offset.nearest(0.0)
    assert zero is not None
    assert abs(offset.levels[zero]) < 1e-12
    assert offset.nearest(1.2) is None
    assert scale.nearest(0.0) is None


def test_entry_50_is_the_published_baselines_level(study: StudyResults) -> None:
    assert curve(study, "abs", "scale").levels[50] == pytest.approx(0.327, abs=5e-4)
    assert curve(study, "abs", "offset").levels[50] == pytest.approx(-0.22, abs=1e-12)
    assert curve(study, "abs", "offset").entry(125) is None


def test_names(study_of: Callable) -> None:
    study = study_of(runs=2, networks=("relu", "gelu"), splits=("train", "test"), families=("clip",))
    assert (networks(study), families(study), splits(study)) == (
        ("relu", "gelu"),
        ("clip",),
        ("train", "test"),
    )
    assert [display_name(name) for name in ("abs", "relu", "gelu", "tanh")] == ["Abs", "ReLU", "GELU", "tanh"]
    with pytest.raises(InputError, match="this study has no split 'validation'; it has train, test"):
        curve(study, "relu", "clip", "validation")
    with pytest.raises(InputError, match="this study has no network 'abs'; it has relu, gelu"):
        unperturbed(study, "abs")
    with pytest.raises(InputError, match="this study has no family 'clib'; did you mean 'clip'"):
        curve(study, "relu", "clib")


def test_importing_reports_draws_in_no_plotting() -> None:
    code = (
        "import sys, nearzero.report.write; "
        "print([m for m in ('matplotlib', 'rich', 'torch', 'scipy.stats') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
