"""The prose of a report: how to read each table and figure, and under which conduct it was made.

It stands apart so that `tables` and `figures` hold numbers alone. Plain text; the renderers escape it.
"""

from collections.abc import Mapping

from nearzero.paper.published import published
from nearzero.report.comparison import POINTS, STANDARD_ERRORS, reproduction
from nearzero.report.results import StudyResults

__all__ = [
    "baseline_caption",
    "conduct_words",
    "differing_caption",
    "figure_captions",
    "heldout_caption",
    "response_caption",
]

_SAMPLE = (
    "mean, sample standard deviation (sd, ddof 1) and 95 % t interval of the mean over n runs, at the grid "
    "level nearest each published level."
)


def conduct_words(conduct: Mapping[str, str]) -> str:
    """The switches of a study as one sentence."""
    switches = (f"{key.replace('_', ' ')} {value}" for key, value in conduct.items())
    return f"Conduct: {', '.join(switches)}."


def baseline_caption(study: StudyResults) -> str:
    """Of table 1."""
    return (
        "The networks at the end of training: mean, population standard deviation (sd, ddof 0, as published) "
        "and 95 % t interval of the mean over n runs. Difference: measured less published, also in standard "
        f"errors (s.e.) of the difference of the two means. {conduct_words(study.conduct)}"
    )


def response_caption(study: StudyResults, entry: str) -> str:
    """Of tables 2 to 4; `entry` names the grid entry that the published tests took for the baseline."""
    return (
        f"Accuracy over the training set: {_SAMPLE} Difference: measured less published, in points and in "
        "standard errors (s.e., our deviation taken for both sides). t, p: two-sided paired t-test over "
        "runs, baseline less perturbed; against the identity (the unperturbed network), and against "
        f"{entry}, which the published tests took for the baseline. {conduct_words(study.conduct)}"
    )


def heldout_caption(study: StudyResults) -> str:
    """Of the tables on the test set."""
    return (
        f"Accuracy over the test set, which neither training nor the unit ranges saw: {_SAMPLE} t, p: "
        "two-sided paired t-test over runs, identity less perturbed. Nothing published compares. "
        f"{conduct_words(study.conduct)}"
    )


def differing_caption(study: StudyResults) -> str:
    """Of the table of rows that differ."""
    return (
        "The paper gives no deviations here, so ours is taken for both sides: a standard error (s.e.) is "
        f"sd * sqrt(1 / n + 1 / {published().runs}). {conduct_words(study.conduct)}"
    )


def figure_captions(study: StudyResults) -> str:
    """Markdown with one paragraph per figure, and the study's title and notices at the head."""
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
