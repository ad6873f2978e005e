"""Make or check `docs/atlas.md`: text from `.ci/templates/atlas.md`, findings and tables from `results/atlas`.

python .ci/atlas_page.py --write    # make the page
python .ci/atlas_page.py --print    # print its findings
python .ci/atlas_page.py            # check that the page is up to date
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from grids_page import section
from pages import read, write_or_check

import nearzero as nz
from nearzero.analysis.verdict import Comparison, against_noise
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
    "equivalent": "they cost the same to within the margin",
    "no effect": "neither costs anything that matters",
    "inconclusive": "the data don't decide",
}
LARGEST = 0.5  # displacement


@dataclass(frozen=True)
class Layer:
    """The findings on one layer of one network, over its trainings.

    Attributes:
        family: title of the family.
        case: the network.
        number, layers: the place of the layer among those that are measured, from 1, and how many there are.
        runs: how many trainings.
        finding: by the rules.
        read: the findings with other families in the place of distance, by their names.
        against_noise: the finding on distance with noise in the place of intensity.
        comparisons: those of the layer.
        robust, turned: whether all checks find the same direction, and whether any finds the opposite one.
    """

    family: str
    case: str
    number: int
    layers: int
    runs: int
    finding: str
    read: Mapping[str, str]
    against_noise: str
    comparisons: tuple[Comparison, ...]
    robust: bool
    turned: bool

    @property
    def joint(self) -> bool:
        """Return whether a direction is found with the error rate held over all networks of the family."""
        return any(
            row.finding in DIRECTIONS and row.p_joint is not None and row.p_joint <= nz.Rules().alpha
            for row in self.comparisons
        )

    @property
    def is_last(self) -> bool:
        """Return whether no layer behind it is measured."""
        return self.number == self.layers

    @property
    def directed_at(self) -> set[float]:
        """Return the displacements at which a comparison has a direction."""
        return {row.target for row in self.comparisons if row.finding in DIRECTIONS}

    @property
    def open_at(self) -> set[float]:
        """Return the displacements at which a comparison is undecided."""
        return {row.target for row in self.comparisons if row.finding == "inconclusive"}


@lru_cache
def layers_of(name: str) -> list[Layer]:
    """Return the findings of a family, network by network and by depth."""
    grid = nz.Grid.open(KEPT / name)
    verdict, others, beside = grid.verdict(), grid.read(), against_noise(grid.responses, grid.spec.rules)
    assert beside is not None, f"{name}: noise isn't measured"
    found = []
    for network in verdict.networks:
        own = grid.responses.sel(network=network)
        found.append(
            Layer(
                grid.spec.title,
                str(own.value.item()),
                int(own.layer),
                int(own.layers),
                own.sizes["run"],
                verdict.finding(network),
                {family: other.finding(network) for family, other in others.items()},
                beside.finding(network),
                tuple(row for row in verdict.comparisons if row.network == network),
                verdict.robustness(network) == "robust",
                any(check.outcome == "turns" for check in verdict.checked(network)),
            )
        )
    return found


def shares(findings: Sequence[str]) -> str:
    """Return at how many layers each finding was made: "distance costs more at 7, the data don't decide at 3"."""
    counts = Counter(findings)
    return ", ".join(f"{phrase} at {counts[name]}" for name, phrase in PHRASES.items() if counts[name])


def lead(found: Sequence[Layer]) -> str:
    """Return in a few sentences how the claim fares at all layers together."""
    counts = Counter(layer.finding for layer in found)
    directed = [layer for layer in found if layer.finding in DIRECTIONS]
    others = shares([layer.finding for layer in found if layer.finding not in DIRECTIONS])
    alone = share(sum(layer.directed_at == {LARGEST} for layer in directed), len(directed))
    robust = share(sum(layer.robust for layer in directed), len(directed))
    turned = share(sum(layer.turned for layer in directed), len(directed))
    joint = Counter(layer.finding for layer in directed if layer.joint)
    return (
        f"**Of {len(found)} layers, each judged over {trainings()} trainings, distance costs more at "
        f"{counts[DIRECTIONS[0]]}, as the claim has it, and intensity at {counts[DIRECTIONS[1]]}.** "
        f"The others: {others}. A direction is found if one of a layer's six comparisons finds it and none the "
        f"opposite. Of the {len(directed)} directions, {alone} are found at the largest displacement alone, "
        f"{100 * LARGEST:g} %; {robust} pass all checks of how size is measured, and {turned} turn into the opposite "
        f"by one of them; with the error rate held over all networks of a family, {joint[DIRECTIONS[0]]} of distance "
        f"and {joint[DIRECTIONS[1]]} of intensity are left."
    )


def share(count: int, of: int) -> str:
    """Return a count as a word where there is one: "none", "all"; else the number."""
    return "none" if not count else "all" if count == of else str(count)


def overview(families: Mapping[str, Sequence[Layer]]) -> str:
    """Return a table with a row for each family: at which layers of which networks each finding was made."""
    present = {layer.finding for found in families.values() for layer in found}
    columns = [name for name in PHRASES if name in present]
    lines = [
        f"| family, layers by depth: networks | {' | '.join(PHRASES[name] for name in columns)} |",
        f"| --- | {' | '.join('---' for _ in columns)} |",
    ]
    for found in families.values():
        cases = ", ".join(dict.fromkeys(layer.case for layer in found))
        cells = [places(found, name) for name in columns]
        head = f"**{found[0].family}**, {found[0].layers} layers: {cases}"
        lines.append(f"| {head} | {' | '.join(cells)} |")
    return "\n".join(lines)


def places(found: Sequence[Layer], finding: str) -> str:
    """Return the layers of a family with a finding, by depth: "layer 4: all"; their count if undecided."""
    chosen = [layer for layer in found if layer.finding == finding]
    if finding == "inconclusive":
        return f"{len(chosen)} of {len(found)}"
    parts = []
    for number in sorted({layer.number for layer in chosen}):
        cases = [layer.case for layer in chosen if layer.number == number]
        every = len(cases) == sum(layer.number == number for layer in found)
        parts.append(f"layer {number}: {'all' if every else ', '.join(cases)}")
    return "; ".join(parts) or "–"


def by_depth(found: Sequence[Layer]) -> str:
    """Return a sentence on the last measured layer of each network, and one on the layers before it."""
    parts = []
    for where, own in (
        ("at the last measured layer of a network", [layer for layer in found if layer.is_last]),
        ("at the layers before it", [layer for layer in found if not layer.is_last]),
    ):
        counts = Counter(layer.finding for layer in own)
        parts.append(
            f"{where}, distance costs more in {counts[DIRECTIONS[0]]} of {len(own)} and intensity in "
            f"{counts[DIRECTIONS[1]]}"
        )
    return f"- **Depth**: {'; '.join(parts)}."


def controls() -> str:
    """Return a line on the controls: in which of them the mechanism that was built in is found."""
    told: dict[str, list[str]] = {"right": [], "wrong": [], "open": []}
    layers = layers_of(CONTROLS)
    for layer in layers:
        expected = BUILT_IN[layer.case.split()[0]]
        outcome = "right" if layer.finding == expected else "wrong" if layer.finding in DIRECTIONS else "open"
        told[outcome].append(
            f"{layer.case.partition(' on ')[0]}: {PHRASES.get(layer.finding, layer.finding)}"
        )
    robust = sum(layer.robust for layer in layers)
    parts = [
        f"{len(told['right'])} are found as built in ({'; '.join(told['right'])})",
        f"{len(told['wrong'])} as the opposite" + (f" ({'; '.join(told['wrong'])})" if told["wrong"] else ""),
        f"{len(told['open'])} as neither" + (f" ({'; '.join(told['open'])})" if told["open"] else ""),
    ]
    return (
        f"- **Controls**: of {len(layers)} trained networks whose readout fixes the mechanism, all of them "
        f"convolutional networks on MNIST, measured at their last layer, {', '.join(parts)}. "
        f"Of the right directions, {share(robust, len(told['right']))} pass{'es' if robust == 1 else ''} all checks: "
        "a direction that fails a check can still be right."
    )


def headline() -> str:
    """Return the first lines of the page."""
    families = {name: layers_of(name) for name in FAMILIES}
    points = f"{by_depth(kept_layers())}\n{noise()}\n{controls()}"
    return "\n\n".join((lead(kept_layers()), overview(families), points))


def undecided() -> str:
    """Return what is open at the layers where the data don't decide."""
    own = [layer for layer in kept_layers() if layer.finding == "inconclusive"]
    alone = sum(layer.open_at == {LARGEST} for layer in own)
    small = sum(min(row.target for row in layer.comparisons) in layer.open_at for layer in own)
    return (
        f"Of the {len(own)} layers at which the data don't decide, {alone} are open at {100 * LARGEST:g} % alone, and "
        f"{small} at the smallest displacement too."
    )


def shifted() -> str:
    """Return what is found with a common shift in the place of distance."""
    found = kept_layers()
    opposite = sum({layer.finding, layer.read["shift"]} == set(DIRECTIONS) for layer in found)
    return (
        f"With it, of the {len(found)} layers, {shares([layer.read['shift'] for layer in found])}; at {opposite} of "
        "them the two verdicts are opposite directions."
    )


def noise() -> str:
    """Return how plain noise of the same size compares with intensity, and distance with noise."""
    found = kept_layers()
    distance, other = (
        Counter(value)
        for value in ([layer.against_noise for layer in found], [layer.read["noise"] for layer in found])
    )
    settled = [layer for layer in found if layer.finding in DIRECTIONS]
    same = sum(layer.read["noise"] == layer.finding for layer in settled)
    return (
        f"- **Plain noise** of the same size: distance costs more than noise at {distance[DIRECTIONS[0]]} of the "
        f"{len(found)} layers, and less at {distance[DIRECTIONS[1]]}. Noise itself costs more than intensity at "
        f"{other[DIRECTIONS[0]]} and less at {other[DIRECTIONS[1]]}; it has the direction of distance at {same} of the "
        f"{len(settled)} layers with one."
    )


@lru_cache
def trainings() -> int:
    """Return how many trainings each layer is judged over."""
    (runs,) = {layer.runs for name in (*FAMILIES, CONTROLS) for layer in layers_of(name)}
    return runs


def kept_layers() -> list[Layer]:
    """Return the layers of all families but the controls."""
    return [layer for name in FAMILIES for layer in layers_of(name)]


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
        f"below (intensity does); if all D were 0, {0.025 * counts['all']:.1f} would lie above it by chance, and as "
        "many below."
    )
    return "\n\n".join((summary, "\n".join(lines)))


def interval(row: pd.Series[float]) -> str:
    """Return D with its interval, or a dash where a displacement isn't reached."""
    if pd.isna(row.difference):
        return "–"
    return f"{row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f})"


def times() -> str:
    """Return how long each family took when the atlas was made from nothing by one command, by its log."""
    log = read(KEPT / "log.txt")
    families = (*FAMILIES, CONTROLS, "pretrained")
    lines = ["| family | networks | by the clock, min | of the processor, min |", "| --- | --: | --: | --: |"]
    complete, sums = 0, [0.0, 0.0]
    for name in families:
        pairs = re.findall(rf"^\S+  {name}: .*; (\d+) s by the clock, (\d+) s of", log, re.MULTILINE)
        took = [sum(int(pair[place]) / 60 for pair in pairs) for place in (0, 1)]
        networks = 3 if name == "pretrained" else networks_of(name)
        if re.search(rf"^\S+  {name}: complete", log, re.MULTILINE):
            complete += 1
            sums = [before + own for before, own in zip(sums, took, strict=True)]
            lines.append(f"| {name} | {networks} | {took[0]:.0f} | {took[1]:.0f} |")
        else:
            lines.append(f"| {name} | {networks} | – | – |")
    lines.append(f"| together | | {sums[0]:.0f} | {sums[1]:.0f} |")
    missing = "" if complete == len(families) else "; a dash: not made again yet"
    return f"{complete} of {len(families)} families are complete in it{missing}.\n\n" + "\n".join(lines)


def networks_of(name: str) -> int:
    """Return how many networks a family has."""
    grid = nz.Grid.open(KEPT / name)
    return len(grid.spec.values) * int(grid.responses.sizes["run"])


def page() -> str:
    """Return the whole page."""
    content = read(WORDS)
    texts = {
        "headline": headline(),
        "undecided": undecided(),
        "shifted": shifted(),
        "trainings": str(trainings()),
        "pretrained": pretrained(),
        "times": times(),
    }
    for name in (*FAMILIES, CONTROLS):
        texts[name] = section(KEPT / name, SPECS / f"{name}.toml", f"../{SPECS}/{name}.toml")
    for name, text in texts.items():
        content = content.replace(f"{{{name}}}", text)
    return f"{content}\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, print its findings, or check it; return the exit status."""
    if "--print" in arguments:
        print(headline(), undecided(), shifted(), pretrained(), times(), sep="\n\n")
        return 0
    return write_or_check(PAGE, page(), KEPT, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
