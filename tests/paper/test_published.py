import dataclasses

import numpy as np
import pytest
from scipy import stats

from nearzero.paper.published import MeanAndSd, PublishedResponse, published


def test_the_tables_have_the_published_rows() -> None:
    facts = published()
    assert {family: len(rows) for family, rows in facts.families.items()} == {
        "scale": 7,
        "clip": 9,
        "offset": 20,
    }
    assert sum(len(row.networks) for rows in facts.families.values() for row in rows) == 72
    assert (facts.runs, facts.ttest_entry, facts.source) == (20, 50, "arXiv 2411.17932")
    for rows in facts.families.values():
        levels = [row.level for row in rows]
        assert levels == sorted(levels)
        assert all(set(row.networks) == {"abs", "relu"} for row in rows)


def test_some_numbers_by_name() -> None:
    facts = published()
    assert facts.baseline["relu"].loss == MeanAndSd(0.0610, 0.0044)
    assert facts.baseline["abs"].test == MeanAndSd(95.29, 0.20)
    rows = {row.level: row.networks for row in facts.families["offset"]}
    assert rows[-0.25]["abs"] == PublishedResponse(49.03, 32.0, 5.3e-18)
    assert rows[1.0]["relu"] == PublishedResponse(9.41, 493.8, 1.7e-40)
    assert {row.level: row.networks for row in facts.families["clip"]}[0.2]["relu"].accuracy == 93.84


def test_every_p_follows_from_its_t() -> None:
    """With 19 degrees of freedom, and t rounded to 0.05: a number copied wrongly would show."""
    for rows in published().families.values():
        for row in rows:
            for response in row.networks.values():
                t = np.abs(response.t) + np.array([0.055, -0.055])
                low, high = 2 * stats.t.sf(t, 19)
                assert low * 0.95 <= response.p <= high * 1.05, (row.level, response)


def test_the_sign_of_t_is_that_of_entry_50_less_the_row() -> None:
    """Entry 50 is clip 0.327 and offset -0.22: an accuracy above the one there has t < 0."""
    facts = published()
    near = {"clip": (0.3, 0.4), "offset": (-0.25, -0.1)}
    for family, (below, above) in near.items():
        rows = {row.level: row.networks for row in facts.families[family]}
        for network in facts.baseline:
            reference = (rows[below][network].accuracy, rows[above][network].accuracy)
            for networks in rows.values():
                response = networks[network]
                if response.accuracy > max(reference):
                    assert response.t < 0
                if response.accuracy < min(reference):
                    assert response.t > 0


def test_it_is_read_once_and_cannot_be_changed() -> None:
    assert published() is published()
    with pytest.raises(dataclasses.FrozenInstanceError):
        published().runs = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        published().families["scale"] = ()  # type: ignore[index]
