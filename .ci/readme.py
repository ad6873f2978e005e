"""Run the README's code blocks, and compare its numbers with two studies: that of `make reproduce`, and the kept one.

Blocks fenced as ``bash`` are run by the shell, blocks fenced as ``python`` each by a new interpreter, in
order, from the root of the checkout. The numbers of the table must lie within one standard error of the means
of the study of `make reproduce`, since another processor may sum in another order, and must be equal to those
of the kept study.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import nearzero as nz
from nearzero.paper.published import published

README = Path("README.md").read_text(encoding="utf-8")
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
    """Return the rows of the README's table."""
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
    """Compare the README's numbers with the studies'; print the differing pairs and return their number."""
    differing = 0
    for line in table(quick, whole).splitlines():
        name, *expected = (cell.strip() for cell in line.strip("|").split("|"))
        row = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", README, re.MULTILINE)
        printed = [cell.strip() for cell in row.group(1).split("|")] if row else [""] * 6
        for first, network in zip((0, 3), NETWORKS, strict=True):
            values = measured(quick, network, ROWS[name])
            slack = values.std(ddof=1) / np.sqrt(len(values)) + 0.006
            near = printed[first] and abs(float(printed[first]) - values.mean()) <= slack
            if not near or printed[first + 1 : first + 3] != expected[first + 1 : first + 3]:
                print(f"README: {name}, {network}: has {printed}, measured {expected}")
                differing += 1
    return differing


def main() -> int:
    """Run the blocks and check the numbers; return the exit status."""
    quick, whole = nz.Study.open("studies/quick"), nz.Study.open("results/paper")
    if "--print" in sys.argv:
        print(table(quick, whole))
        return 0
    for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        print(f"--- README, {language} ---\n{block}", flush=True)
        command = (
            ["bash", "-euo", "pipefail", "-c", block] if language == "bash" else [sys.executable, "-c", block]
        )
        output = subprocess.run(command, check=False, capture_output=True, text=True)
        print("\n".join(output.stdout.splitlines()[-12:]), flush=True)
        if output.returncode:
            print(output.stderr, file=sys.stderr)
            return 1
    differing = check_numbers(quick, whole)
    print(f"README: {4 * len(ROWS)} numbers compared with two studies, {differing} pairs differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
