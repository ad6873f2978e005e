"""Run the README's commands, and compare what is said of their result with two studies: theirs, and the kept one.

Blocks fenced as ``bash`` are run by the shell, in order, from the root of the checkout. What the README says comes
out must be what the kept study says. The numbers of the table in `docs/install.md` must lie within one standard
error of the means of the study of `make reproduce`, since another processor may sum in another order, and must be
equal to those of the kept study.

python .ci/readme.py            # run the commands, then compare
python .ci/readme.py --print    # print the rows of the table
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import nearzero as nz
from nearzero.mechanisms.reference import placed_at_largest
from nearzero.paper.published import published
from nearzero.report.comparison import reproduction

README = Path("README.md").read_text(encoding="utf-8")
TABLE = Path("docs/install.md")
NETWORKS = ("abs", "relu")
ROWS = {
    "unperturbed": None,
    "scale 10 % (intensity)": ("scale", 0.1),
    "clip 10 % (intensity)": ("clip", 0.1),
    "offset +10 % (distance)": ("offset", 0.1),
    "offset -50 % (distance)": ("offset", -0.5),
}


def measured(study: nz.Study, network: str, row: tuple[str, float] | None) -> np.ndarray:
    """Return the accuracy of each run in percent, at a family and level; unperturbed for None."""
    if row is None:
        return 100 * study.response.unperturbed_accuracy.sel(network=network, split="train").values
    family, level = row
    return 100 * study.curve(network, family).sel(level=level, method="nearest").values


def table(quick: nz.Study, whole: nz.Study) -> str:
    """Return the rows of the table."""
    tables = published()
    accuracies = {"unperturbed": tuple(tables.baseline[name].train.mean for name in NETWORKS)}
    for name, row in ROWS.items():
        if row is not None:
            facts = next(facts for facts in tables.families[row[0]] if facts.level == row[1])
            accuracies[name] = tuple(facts.networks[network].accuracy for network in NETWORKS)
    lines = []
    for name, row in ROWS.items():
        cells = [
            f"{value:.2f}"
            for network, accuracy in zip(NETWORKS, accuracies[name], strict=True)
            for value in (*(measured(study, network, row).mean() for study in (quick, whole)), accuracy)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def check_numbers(quick: nz.Study, whole: nz.Study) -> int:
    """Compare the table's numbers with the studies'; print the differing pairs and return their number."""
    differing, page = 0, TABLE.read_text(encoding="utf-8")
    for line in table(quick, whole).splitlines():
        name, *expected = (cell.strip() for cell in line.strip("|").split("|"))
        row = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", page, re.MULTILINE)
        printed = [cell.strip() for cell in row.group(1).split("|")] if row else [""] * 6
        for first, network in zip((0, 3), NETWORKS, strict=True):
            values = measured(quick, network, ROWS[name])
            slack = values.std(ddof=1) / np.sqrt(len(values)) + 0.006
            near = printed[first] and abs(float(printed[first]) - values.mean()) <= slack
            if not near or printed[first + 1 : first + 3] != expected[first + 1 : first + 3]:
                print(f"{TABLE}: {name}, {network}: has {printed}, measured {expected}")
                differing += 1
    return differing


def check_claims(whole: nz.Study) -> int:
    """Compare the README's sentences with the kept study; print and return how many it doesn't bear out."""
    verdict = whole.verdict()
    claims = {
        f"The curves reproduce: {reproduction(whole).headline}.": True,
        "robustly in ReLU networks": verdict.robustness("relu") == "robust",
        "in Abs networks that depends on how size is measured": "size" in verdict.robustness("abs"),
        "moving boundaries costs more": {verdict.finding(name) for name in NETWORKS}
        == {"distance costs more"},
        "than in networks that measure distances by construction, and less than in networks that match templates": {
            placed.place for name in NETWORKS for placed in placed_at_largest(verdict, name)
        }
        == {"between planted distance and templates"},
        "So the conclusion holds in part at most.": whole.audited().of("conclusion")
        == "not decided (Abs: not decided, ReLU: survives in part)",
    }
    wrong = [claim for claim, holds in claims.items() if not holds or claim not in README]
    for claim in wrong:
        print(f"README: not so, or not said: {claim}")
    return len(wrong)


def run_commands() -> bool:
    """Run the README's commands with the output that their reader sees; return whether all succeed."""
    for block in re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        print(f"--- README ---\n{block}", flush=True)
        if subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=False).returncode:
            return False
    return True


def main() -> int:
    """Run the commands and check numbers and claims; return the exit status."""
    if "--print" not in sys.argv and not run_commands():
        return 1
    quick, whole = nz.Study.open("studies/quick"), nz.Study.open("results/paper")
    if "--print" in sys.argv:
        print(table(quick, whole))
        return 0
    differing, wrong = check_numbers(quick, whole), check_claims(whole)
    print(f"{TABLE}: {4 * len(ROWS)} numbers compared with two studies, {differing} pairs differ")
    print(f"README: {wrong} claims are wrong")
    return 1 if differing or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
