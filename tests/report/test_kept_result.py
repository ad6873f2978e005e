"""The paper's study, run whole and kept in `results/paper`: its numbers hold, and its networks give them."""

from pathlib import Path

import numpy as np
import pytest

import nearzero as nz
from nearzero.paper.published import published
from nearzero.report.comparison import compare_baseline, reproduction

KEPT = Path(__file__).parents[2] / "results" / "paper"
MOST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def kept() -> nz.Study:
    return nz.Study.open(KEPT)


def test_it_is_the_whole_study(kept):
    spec = kept.spec
    assert (spec.preset, spec.data, spec.batch_size, spec.steps, spec.runs) == (
        "paper",
        "mnist",
        "all",
        5000,
        20,
    )
    assert spec.activations == ("abs", "relu")
    assert kept.history.loss.notnull().all(), "each of the 5,001 steps of each of the 40 networks"
    assert kept.response.accuracy.notnull().sum() == 40 * 325
    assert not kept.notices


def test_table_1_is_reproduced(kept):
    rows = [row for network in ("abs", "relu") for row in compare_baseline(kept, network)]
    assert len(rows) == 6
    assert [str(row) for row in rows if not row.agrees] == []


def test_tables_2_to_4_are_reproduced(kept):
    reproduced = reproduction(kept)
    assert len(reproduced.comparisons) == 2 * sum(map(len, published().families.values())) == 72
    assert not reproduced.unmeasured
    assert len(reproduced.agreeing) >= 0.9 * 72


def test_every_row_that_differs_is_listed(kept):
    text = (KEPT / "tables" / "differing_rows.md").read_text(encoding="utf-8")
    page = (KEPT.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    for row in reproduction(kept).differing:
        assert f"{row.published:.2f}" in text
        assert f"{row.published:.2f}" in page


def test_the_weights_stay_small():
    assert sum(path.stat().st_size for path in (KEPT / "networks").glob("*")) < MOST_BYTES


@pytest.mark.parametrize(("activation", "run"), [("abs", 0), ("relu", 19)])
def test_a_kept_network_gives_its_kept_responses(kept, activation, run):
    try:
        train = nz.datasets.load("mnist").train
    except nz.InputError as error:
        pytest.skip(f"MNIST can't be had here: {error}")
    response = nz.sweep(kept.network(activation, run), train.pixels, train.labels)
    expected = kept.response.sel(network=activation, run=run, split="train")
    # another processor may decide a near tie otherwise
    difference = np.abs(response.accuracy - expected.accuracy).values * len(train)
    assert np.nanmax(difference) <= 1
    assert np.nansum(difference) <= 10
