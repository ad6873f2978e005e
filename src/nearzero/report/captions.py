"""Captions of figures, and the conduct as a sentence, which captions of tables have too."""

from collections.abc import Mapping

import xarray as xr

from nearzero.report.comparison import POINTS, STANDARD_ERRORS, reproduction
from nearzero.report.results import StudyResults

__all__ = ["MARKS", "conduct_words", "figure_captions", "layers_by_conduct"]

MARKS = ("", "†", "‡", "§")  # of layers, by conduct
OF_NO_CONDUCT = ("scale", "gains")  # families whose levels mean the same under any conduct


def conduct_words(conduct: Mapping[str, str]) -> str:
    """Return the switches of a study as one sentence."""
    switches = (f"{key.replace('_', ' ')} {value}" for key, value in conduct.items())
    return f"Conduct: {', '.join(switches)}."


def layers_by_conduct(response: xr.Dataset) -> dict[str, list[str]]:
    """Return the layers of a probe by conduct, where layers of one family can't be compared, else {}.

    Levels of an offset as run, and of a shift by the pre-activation range, aren't the same change.

    Args:
        response: of a probe, on (layer, family, level).
    """
    if all(family in OF_NO_CONDUCT for family in response.family.values) or "range" not in response:
        return {}
    groups: dict[str, list[str]] = {}
    facts = zip(response.layer.values, response.offset.values, response.range.values, strict=True)
    for layer, offset, side in facts:
        groups.setdefault(f"offset {offset}, range {side}", []).append(str(layer))
    return groups if len(groups) > 1 else {}


def figure_captions(study: StudyResults) -> str:
    """Return Markdown with the study's title and notices, and one paragraph for each figure."""
    conduct = conduct_words(study.conduct)
    paragraphs = [
        f"# Figures: {study.title}",
        *(f"> **Notice:** {notice}" for notice in study.notices),
        "**Figure 1.** Accuracy over the training set against level: mean over runs, and its 95 % t interval "
        "as a band, cut at 0 and 100 %. (a) Intensity scale (solid) and clip (dashed); (b) distance offset. "
        f"{'' if study.departures else 'Filled markers tell the networks apart; open ones: published. '}{conduct}",
        "**Figure 2.** Five feature peaks of equal weight (sigma 0.2) before and after ReLU (boundary 0.5) "
        "and Abs (boundary 0). Computed from the mixture by change of variables; the bar is the probability "
        "of an activation of exactly zero.",
        "**Figure 3.** The same under an offset. The unit adds the offset before its activation, so a "
        "positive offset, and a positive level, moves the boundary to the left: what the paper calls a "
        "negative offset is where the boundary goes. The level is the offset over the unit's range after "
        "the activation, taken over the centres of the peaks, for a plain shift y = z + p r.",
        "**Figure 4.** Measured over published mean accuracy, tables 1 to 4, a column for each network; below, "
        "measured less published. "
        f"Shaded: {POINTS:g} points. Bars: {STANDARD_ERRORS:g} standard errors of the difference of two "
        f"means, our deviation taken for both sides in tables 2 to 4. {reproduction(study)} {conduct}",
    ]
    return "\n\n".join(paragraphs) + "\n"
