"""The rows of the published tables on a study's own networks: as published, as run, put right, with all tests.

Holm's adjustment is over all rows and networks of the study, since a reader meets them all together.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nearzero.audit.evidence import Evidence, mean_of
from nearzero.audit.measure import Row
from nearzero.audit.values import LevelRow
from nearzero.paper import PublishedResponse, published
from nearzero.statistics.multiplicity import holm
from nearzero.statistics.paired import equivalence_test, paired_t_test

__all__ = ["level_rows"]

PUT_RIGHT = {"offset": "centred_accuracy", "clip": "clip_post_accuracy"}


def level_rows(evidence: Evidence) -> tuple[LevelRow, ...]:
    """A row for each network and published level that the study has."""
    rows = [
        _level_row(evidence, network, number, row)
        for network in evidence.networks
        for number, row in enumerate(evidence.rows)
    ]
    adjusted = holm([row.p_identity for row in rows])
    return tuple(
        row if row.p_identity is None else replace(row, p_holm=float(p))
        for row, p in zip(rows, adjusted, strict=True)
    )


def _level_row(evidence: Evidence, network: str, number: int, row: Row) -> LevelRow:
    facts, whole = _published(network, row), evidence.unperturbed(network)
    here = evidence.swept(network, row)
    entry = evidence.curve(network, row.family)[published().ttest_entry]
    against_entry, against_identity = paired_t_test(entry, here), paired_t_test(whole, here)
    equal = equivalence_test(whole, here, margin=evidence.margin)
    within = equal.equivalent
    if within is None and equal.n >= 2:  # no variance: the differences themselves
        within = abs(equal.mean_difference) < evidence.margin
    return LevelRow(
        network=network,
        family=row.family,
        level=row.level,
        grid=row.grid,
        n=against_identity.n,
        displacement=mean_of(evidence.percent("displacement", network, number)),
        published=None if facts is None else facts.accuracy,
        as_run=mean_of(here),
        put_right=_put_right(evidence, network, number, row),
        agreement=mean_of(evidence.swept(network, row, "agreement")),
        test=mean_of(evidence.percent("test_accuracy", network, number)),
        t_published=None if facts is None else facts.t,
        p_published=None if facts is None else facts.p,
        t_entry=against_entry.t,
        p_entry=against_entry.p,
        t_identity=against_identity.t,
        p_identity=against_identity.p,
        p_holm=None,
        within=within,
        words=against_identity.words,
    )


def _put_right(evidence: Evidence, network: str, number: int, row: Row) -> float | None:
    if row.family in PUT_RIGHT:
        return mean_of(evidence.percent(PUT_RIGHT[row.family], network, number))
    if not evidence.flat(network):
        return None
    place = int(np.abs(evidence.measured.scale_level.values - row.grid).argmin())
    return mean_of(evidence.percent("predicted_accuracy", network, place))


def _published(network: str, row: Row) -> PublishedResponse | None:
    named = {each.level: each.networks for each in published().families[row.family]}
    return named[row.level].get(network)
