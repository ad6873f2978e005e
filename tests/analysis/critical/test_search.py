"""The search for critical levels where logits tie, and where a block has no items."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

import nearzero as nz
from nearzero.analysis.critical.intervals import by_search
from nearzero.evaluators.base import PinnedBlock

RANGES = nz.Ranges(*(nz.UnitRange(np.zeros(1), np.ones(1), side) for side in ("pre", "post")))
GRID = np.array([0.0, 0.2, 0.9])
LOWER, UPPER = 0.3, 0.6  # class 2 up to the first, 1 between, 0 from the second on


class Evaluator:
    """One item with three classes; where two logits tie, each way of asking may round to another side.

    Args:
        rounded: from how many times logits were pinned to what is added to that of class 2.
        sizes: of the blocks, how many of the item each has.
    """

    def __init__(self, rounded: Callable[[int], float], sizes: list[int]) -> None:
        self._rounded, self._sizes, self._pinned = rounded, sizes, 0

    @staticmethod
    def logits(levels: np.ndarray) -> np.ndarray:
        return np.stack([levels - UPPER, np.zeros_like(levels), LOWER - levels], axis=1)

    def scores(self, perturbations: list[nz.Perturbation], _: list[str]) -> SimpleNamespace:
        levels = np.array([float(each.offset[0]) for each in perturbations])
        return SimpleNamespace(
            predictions=np.repeat(self.logits(levels).argmax(axis=1)[:, None], sum(self._sizes), 1)
        )

    def gather_pinned(self, _: object, function: Callable[[PinnedBlock], object]) -> list[object]:
        def pin(places: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
            self._pinned += 1
            extra = np.array([0.0, 0.0, self._rounded(self._pinned)])
            return lambda _, levels: self.logits(levels) + extra

        ends = np.cumsum(self._sizes)
        blocks = zip(self._sizes, ends, strict=True)
        return [function(PinnedBlock(pin, 8, np.full(n, 2), slice(end - n, end))) for n, end in blocks]


@pytest.mark.parametrize("tie", [0.0, 1e-9])
def test_a_class_between_two_others_is_found_whichever_way_ties_are_rounded(tie: float) -> None:
    evaluator = Evaluator(lambda pinned: tie * (-1) ** pinned, sizes=[1, 1])
    found = by_search(evaluator, nz.Shift(), RANGES, GRID)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.counts, [3, 3])
    np.testing.assert_array_equal(found.classes, [2, 1, 0] * 2)
    np.testing.assert_allclose(found.starts, [0.0, LOWER, UPPER] * 2, atol=2e-9)


def test_a_block_without_items_has_no_intervals() -> None:
    found = by_search(Evaluator(lambda _: 0.0, sizes=[2, 0, 1]), nz.Shift(), RANGES, GRID)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.counts, [3, 3, 3])
    np.testing.assert_array_equal(found.classes, [2, 1, 0] * 3)
