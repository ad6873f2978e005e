"""Run what the README tells a reader to run, and hold its numbers against two studies: the one that `make
reproduce` made, and the whole one that is kept.

Blocks fenced as ``bash`` are run by the shell, blocks fenced as ``python`` by an interpreter each, in order, from
the root of the checkout. The numbers of the table must lie within one standard error of the means of the study
that was just made, since another processor may sum in another order, and be those of the kept one.
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


def measured(study: nz.Study, network: str, where: tuple[str, float] | None) -> np.ndarray:
    """Accuracy of each run, %."""
    if where is None:
        return 100 * study.response.unperturbed_accuracy.sel(network=network, split="train").values
    family, level = where
    return 100 * study.curve(network, family).sel(level=level, method="nearest").values


def table(quick: nz.Study, whole: nz.Study) -> str:
    """The table's rows as they stand in the README."""
    facts = published()
    beside = {"unperturbed": tuple(facts.baseline[name].train.mean for name in NETWORKS)}
    for name, where in ROWS.items():
        if where is not None:
            row = next(row for row in facts.families[where[0]] if row.level == where[1])
            beside[name] = tuple(row.networks[network].accuracy for network in NETWORKS)
    lines = []
    for name, where in ROWS.items():
        cells = [
            f"{value:.2f}"
            for network, value in zip(NETWORKS, beside[name], strict=True)
            for value in (*(measured(study, network, where).mean() for study in (quick, whole)), value)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def check_numbers(quick: nz.Study, whole: nz.Study) -> int:
    """Compare; print; say how many are off."""
    off = 0
    for line in table(quick, whole).splitlines():
        name, *fresh = (cell.strip() for cell in line.strip("|").split("|"))
        found = re.search(rf"^\| {re.escape(name)} \|(.*)\|$", README, re.MULTILINE)
        stands = [cell.strip() for cell in found.group(1).split("|")] if found else [""] * 6
        for first, network in zip((0, 3), NETWORKS, strict=True):
            values = measured(quick, network, ROWS[name])
            slack = values.std(ddof=1) / np.sqrt(len(values)) + 0.006
            near = stands[first] and abs(float(stands[first]) - values.mean()) <= slack
            if not near or stands[first + 1 : first + 3] != fresh[first + 1 : first + 3]:
                print(f"README: {name}, {network}: stands {stands}, measured {fresh}")
                off += 1
    return off


def main() -> int:
    """Run the blocks, check the numbers."""
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
    off = check_numbers(quick, whole)
    print(f"README: {4 * len(ROWS)} numbers held against two studies, {off} pairs off")
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
