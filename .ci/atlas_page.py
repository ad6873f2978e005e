"""Make or check `docs/atlas.md`: text from `.ci/templates/atlas.md`, findings and tables from `results/atlas`.

python .ci/atlas_page.py --write    # make the page
python .ci/atlas_page.py --print    # print its findings
python .ci/atlas_page.py            # check that the page is up to date
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from grids_page import section
from pages import read, write_or_check

import nearzero as nz
from nearzero.analysis.verdict.rules import DIRECTIONS

SPECS, KEPT = Path("examples/atlas"), Path("results/atlas")
PAGE, WORDS = Path("docs/atlas.md"), Path(".ci/templates/atlas.md")
FAMILIES = ("convnet", "resnet8", "transformer", "language")
CONTROLS = "controls"
# What the readout of a control makes of the smallest and of the largest activations, see docs/validation.md.
BUILT_IN = {"smallest": DIRECTIONS[0], "largest": DIRECTIONS[1]}
PHRASES = {
    DIRECTIONS[0]: "distance costs more",
    DIRECTIONS[1]: "intensity costs more",
    "mixed": "distance costs more than one kind of intensity and less than the other",
    "no effect": "neither costs anything that matters",
    "equivalent": "they cost the same",
    "inconclusive": "the data don't decide",
}
LARGEST = 0.5  # displacement


def is_kept(name: str) -> bool:
    """Return whether the results of a family are complete."""
    return (KEPT / name / "responses.nc").is_file()


def phrase(finding: str) -> str:
    """Return a finding as part of a sentence."""
    return PHRASES.get(finding, finding)


def counted(findings: Sequence[str]) -> str:
    """Return how many networks have each finding, in the order of `PHRASES`: "distance costs more in 2 of 4"."""
    counts = Counter(findings)
    known = [name for name in (*PHRASES, *counts) if counts[name]]
    if len(known) == 1:
        return f"{phrase(known[0])} (all {len(findings)})" if len(findings) > 1 else phrase(known[0])
    return ", ".join(f"{phrase(name)} in {counts[name]} of {len(findings)}" for name in dict.fromkeys(known))


def family(name: str) -> tuple[list[str], str]:
    """Return the findings of a family on each layer of each network, and a line of the page on it, by depth."""
    grid = nz.Grid.open(KEPT / name)
    verdict = grid.verdict()
    places = grid.responses.layer.to_series()
    by_layer: dict[str, list[str]] = {}
    for network in verdict.networks:
        layer = network.rpartition(", ")[2]
        label = f"{int(places[network])} (`{layer}`)"
        by_layer.setdefault(label, []).append(verdict.finding(network))
    found = [finding for findings in by_layer.values() for finding in findings]
    lines = "; ".join(f"at layer {layer} {counted(findings)}" for layer, findings in by_layer.items())
    directed = [network for network in verdict.networks if verdict.finding(network) in DIRECTIONS]
    robust = sum(verdict.robustness(network) == "robust" for network in directed)
    checks = f" Of {len(directed)} directions, {robust} pass all checks." if directed else ""
    cases = ", ".join(str(value) for value in grid.spec.values)
    return found, f"- **{grid.spec.title}** ({cases}): {lines}.{checks}"


def controls() -> str:
    """Return a line on the controls: in which of them the mechanism that was built in is found."""
    verdict = nz.Grid.open(KEPT / CONTROLS).verdict()
    found: list[str] = []
    other: list[str] = []
    for network in verdict.networks:
        expected, finding = BUILT_IN[network.split()[0]], verdict.finding(network)
        label = network.partition(" on ")[0]
        (found if finding == expected else other).append(f"{label}: {phrase(finding)}")
    parts = []
    if found:
        parts.append(f"found as built in ({'; '.join(found)})")
    if other:
        parts.append(f"not as built in ({'; '.join(other)})")
    return f"- **Controls**, whose readout fixes which activations win: {', and '.join(parts)}."


def headline() -> str:
    """Return the first lines of the page."""
    kept = [name for name in FAMILIES if is_kept(name)]
    families = [family(name) for name in kept]
    found = Counter(finding for findings, _ in families for finding in findings)
    shares = ", ".join(f"{phrase(name)} at {found[name]}" for name in PHRASES if found[name])
    lines = [
        "Where does distance cost more than intensity, at equal displacement and over ten trainings of each network?"
    ]
    if found:
        lines[0] += f" Of {found.total()} layers: {shares}."
    lines.append("\n".join([*(line for _, line in families), *([controls()] if is_kept(CONTROLS) else [])]))
    if missing := [name for name in (*FAMILIES, CONTROLS) if not is_kept(name)]:
        lines.append(f"Not measured yet: {', '.join(missing)}.")
    return "\n\n".join(lines)


def pretrained() -> str:
    """Return a table of D at the largest displacement for each layer of the pretrained models, and what it comes to."""
    counts: Counter[str] = Counter()
    lines = [
        "| model | examples | unperturbed, % | layer | distance costs | D, gains | D, cap |",
        "| --- | --: | --: | --- | --: | --: | --: |",
    ]
    for path in sorted((KEPT / "pretrained").glob("*/model.json")):
        about = json.loads(path.read_text())
        measure = next(key.removeprefix("unperturbed ") for key in about if key.startswith("unperturbed "))
        table = pd.read_csv(path.with_name("differences.csv"))
        rows = table[table.target == LARGEST]
        counts.update(above=int((rows.low > 0).sum()), below=int((rows.high < 0).sum()), all=len(rows))
        for layer, own in rows.groupby("layer", sort=False):
            by_family = own.set_index("intensity")
            cells = [interval(by_family.loc[name]) for name in ("gains", "cap")]
            shown = f"{100 * about[f'unperturbed {measure}']:.1f} ({measure})"
            cost = f"{own.distance_cost.iloc[0]:.1f}"
            lines.append(
                f"| {about['package']} | {about['examples']} | {shown} | `{layer}` | {cost} | {' | '.join(cells)} |"
            )
    summary = (
        f"Of {counts['all']} intervals, {counts['above']} lie above 0 (distance costs more) and {counts['below']} "
        "below (intensity does)."
    )
    return "\n\n".join((summary, "\n".join(lines)))


def interval(row: pd.Series[float]) -> str:
    """Return D with its interval, or a dash where a displacement isn't reached."""
    if pd.isna(row.difference):
        return "–"
    return f"{row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f})"


def times() -> str:
    """Return a table of how long training and measuring took, by the logs."""
    lines = ["| family | networks | training, min | measuring, min |", "| --- | --: | --: | --: |"]
    for name in (*FAMILIES, CONTROLS):
        if is_kept(name):
            text = read(KEPT / name / "log").splitlines()
            took = {
                what: sum(
                    float(line.rpartition(": ")[2][:-2].replace(",", ""))
                    for line in text
                    if f"  {what} " in line
                )
                for what in ("trained", "measured")
            }
            grid = nz.Grid.open(KEPT / name)
            networks = len(grid.spec.values) * grid.responses.sizes["run"]
            lines.append(
                f"| {name} | {networks} | {took['trained'] / 60:.0f} | {took['measured'] / 60:.0f} |"
            )
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    content = read(WORDS)
    texts = {"headline": headline(), "pretrained": pretrained(), "times": times()}
    for name in (*FAMILIES, CONTROLS):
        texts[name] = (
            section(KEPT / name, SPECS / f"{name}.toml", f"../{SPECS}/{name}.toml")
            if is_kept(name)
            else "*Not measured yet.*"
        )
    for name, text in texts.items():
        content = content.replace(f"{{{name}}}", text)
    return f"{content}\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, print its findings, or check it; return the exit status."""
    if "--print" in arguments:
        print(headline(), pretrained(), times(), sep="\n\n")
        return 0
    return write_or_check(PAGE, page(), KEPT, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
