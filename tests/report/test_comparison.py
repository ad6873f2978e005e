import math
from collections.abc import Callable

import numpy as np
import pytest

from nearzero.errors import InputError
from nearzero.report.comparison import PublishedComparison, compare_baseline, compare_responses, reproduction
from nearzero.report.results import StudyResults
from nearzero.statistics.summaries import summarise


def test_every_published_accuracy_is_compared(study: StudyResults) -> None:
    reproduced = reproduction(study)
    assert len(reproduced.comparisons) == 72
    assert len({(row.network, row.quantity, row.level) for row in reproduced.comparisons}) == 72
    assert (len(reproduced.agreeing), reproduced.differing, reproduced.unmeasured) == (72, (), ())
    text = "72 of the 72 published accuracies of tables 2 to 4 lie within 1.5 points or 3 standard errors"
    assert str(reproduced) == f"{text} of ours."


def test_a_comparison_by_hand(study: StudyResults) -> None:
    row = next(row for row in compare_responses(study, "relu", "clip") if row.level == 0.2)
    grid = np.logspace(-2, 1, 100)
    level = grid[np.abs(grid - 0.2).argmin()]
    runs = (
        100 * study.response["accuracy"].sel(network="relu", family="clip", split="train", level=level).values
    )
    assert row.grid_level == level
    assert row.published == 93.84
    assert row.difference == pytest.approx(runs.mean() - 93.84, rel=1e-12)
    assert row.standard_error == pytest.approx(runs.std(ddof=1) * math.sqrt(2 / 20), rel=1e-12)
    assert row.in_standard_errors == pytest.approx(row.difference / row.standard_error, rel=1e-12)


def comparison(values: list[float], level: float | None, slack: float, error: float) -> PublishedComparison:
    return PublishedComparison("abs", "scale", level, level, 50.0, summarise(values), error, slack)


@pytest.mark.parametrize(
    ("value", "error", "agrees"),
    [
        (51.49, 0.1, True),
        (51.49, math.nan, True),
        (51.51, 0.1, False),
        (51.51, 0.51, True),
        (48.4, 0.5, False),
        (51.51, math.nan, False),
    ],
)
def test_points_or_standard_errors_in_tables_2_to_4(value: float, error: float, agrees: bool) -> None:
    assert comparison([value, value], 0.5, 1.5, error).agrees is agrees


@pytest.mark.parametrize(("value", "agrees"), [(50.304, True), (50.306, False), (49.694, False)])
def test_standard_errors_and_half_a_digit_in_table_1(value: float, agrees: bool) -> None:
    assert comparison([value, value], None, 0.005, 0.1).agrees is agrees


def test_table_1_has_both_deviations(study: StudyResults) -> None:
    rows = {row.quantity: row for row in compare_baseline(study, "relu")}
    runs = study.history["loss"].sel(network="relu").values[:, -1]
    expected = math.sqrt(runs.var(ddof=1) / 20 + 0.0044**2 * 20 / 19 / 20)
    assert rows["loss"].standard_error == pytest.approx(expected, rel=1e-12)
    assert rows["loss"].published == 0.0610
    assert all(row.agrees for row in rows.values())


def test_rows_that_differ_are_found_and_named(study_of: Callable) -> None:
    reproduced = reproduction(study_of(shift=-1.6))
    assert 0 < len(reproduced.differing) < 72
    assert len(reproduced.agreeing) + len(reproduced.differing) == 72
    for row in reproduced.differing:
        assert abs(row.difference) > 1.5
        assert abs(row.difference) > 3 * row.standard_error
    text = str(next(row for row in reproduced.differing if row.quantity == "clip" and row.level == 0.75))
    assert text.startswith("Abs, clip at 75 %: published 99.98, measured 98.38 (-1.6")
    assert str(reproduced).endswith(f"; {len(reproduced.differing)} do not.")


def test_what_was_not_measured_does_not_agree(study_of: Callable) -> None:
    reproduced = reproduction(study_of(networks=("relu", "gelu"), families=("scale", "offset")))
    assert len(reproduced.comparisons) == 72
    assert len(reproduced.unmeasured) == 72 - 7 - 20
    assert str(reproduced).endswith("of ours; 45 were not measured.")
    assert str(reproduced.unmeasured[0]) == "Abs, scale at 1 %: published 94.76, not measured"
    assert compare_baseline(study_of(networks=("relu",)), "abs")[0].measured is None


def test_runs_that_diverged_leave_the_others(study_of: Callable) -> None:
    row = compare_responses(study_of(diverged={"abs": (0, 5)}), "abs", "offset")[3]
    assert row.measured is not None
    assert row.measured.n == 18
    assert row.standard_error == pytest.approx(row.measured.sd * math.sqrt(1 / 18 + 1 / 20), rel=1e-12)
    nothing = compare_responses(study_of(diverged={"abs": tuple(range(20))}), "abs", "offset")[3]
    assert (nothing.is_measured, nothing.agrees) == (False, False)
    assert math.isnan(nothing.standard_error)


def test_one_run_is_judged_by_points_alone(study_of: Callable) -> None:
    rows = compare_responses(study_of(runs=1), "relu", "scale")
    assert all(math.isnan(row.standard_error) for row in rows)
    assert any(row.agrees for row in rows)


def test_names_that_the_paper_has_not_are_refused(study: StudyResults) -> None:
    with pytest.raises(InputError, match="the paper has no network 'rel'; did you mean 'relu'"):
        compare_baseline(study, "rel")
    with pytest.raises(InputError, match="the paper has no family 'offsets'; did you mean 'offset'"):
        compare_responses(study, "relu", "offsets")


def test_a_coarse_grid_has_nothing_beside_a_row_it_misses(study_of: Callable) -> None:
    study = study_of(families=("scale",), levels={"scale": np.array([0.1, 1.0, 10.0])})
    measured = [row.level for row in compare_responses(study, "abs", "scale") if row.is_measured]
    assert measured == [0.1, 1.0, 10.0]


def test_a_study_that_departs_is_never_compared(study_of: Callable[..., StudyResults]) -> None:
    departing = study_of(departures=("data = digits, not mnist", "units = 16, not 128"))
    message = "not compared with the published numbers: data = digits, not mnist; units = 16, not 128"
    with pytest.raises(InputError, match=message):
        compare_responses(departing, "relu", "clip")
    with pytest.raises(InputError, match=message):
        compare_baseline(departing, "relu")
    assert reproduction(departing).headline == message
