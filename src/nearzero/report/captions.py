"""Captions of figures, and the conduct as a sentence, which captions of tables have too."""

from collections.abc import Mapping

from nearzero.report.comparison import POINTS, STANDARD_ERRORS, reproduction
from nearzero.report.results import StudyResults

__all__ = ["conduct_words", "figure_captions"]


def conduct_words(conduct: Mapping[str, str]) -> str:
    """Return the switches of a study as one sentence."""
    switches = (f"{key.replace('_', ' ')} {value}" for key, value in conduct.items())
    return f"Conduct: {', '.join(switches)}."


def figure_captions(study: StudyResults) -> str:
    """Return Markdown with the study's title and notices, and one paragraph for each figure."""
    conduct = conduct_words(study.conduct)
    paragraphs = [
        f"# Figures: {study.title}",
        *(f"> **Notice:** {notice}" for notice in study.notices),
        "**Figure 1.** Accuracy over the training set against level: mean over runs, and its 95 % t interval "
        "as a band. (a) Intensity scale (solid) and clip (dashed); (b) distance offset. Open markers: "
        f"published. {conduct}",
        "**Figure 2.** Five feature peaks of equal weight (sigma 0.2) before and after ReLU (boundary 0.5) "
        "and Abs (boundary 0). Computed from the mixture by change of variables; the bar is the probability "
        "of an activation of exactly zero.",
        "**Figure 3.** The same under an offset. The unit adds the offset before its activation, so a "
        "positive offset, and a positive level, moves the boundary to the left: what the paper calls a "
        "negative offset is where the boundary goes. The level is the offset over the unit's range after "
        "the activation, taken over the centres of the peaks, for a plain shift y = z + p r.",
        "**Figure 4.** Measured over published mean accuracy, tables 1 to 4; below, measured less published. "
        f"Shaded: {POINTS:g} points. Bars: {STANDARD_ERRORS:g} standard errors of the difference of two "
        f"means, our deviation taken for both sides in tables 2 to 4. {reproduction(study)} {conduct}",
    ]
    return "\n\n".join(paragraphs) + "\n"
