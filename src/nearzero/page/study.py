"""The page of a study: its sections, from the study's results, networks and examples."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.matched import Design
from nearzero.analysis.verdict import CHECKS, Rules, Verdict, against_noise
from nearzero.networks import TwoLayer
from nearzero.networks.pixels import Pixels
from nearzero.page.answer import QUESTION, answers, numbers_table
from nearzero.page.charts import Chart, figure
from nearzero.page.curves import cost_charts, displacement_charts, level_charts
from nearzero.page.document import PageData, Section, document
from nearzero.page.examples import SEED, MatchedExamples, matched_examples
from nearzero.page.explorer import Explorer, explore
from nearzero.page.methods import methods
from nearzero.page.panels import (
    curve_controls,
    example_panel,
    matched_panel,
    matched_strips,
    unit_panel,
    unit_table,
)
from nearzero.page.terms import PAPER, conduct_list, description, glossed, roles, terms, unit_range
from nearzero.paper.audit.values import Audit, points, sentence_case
from nearzero.perturbations.families import FAMILIES, Conduct
from nearzero.report.audit import fault_tables, levels_table, sentences_table
from nearzero.report.captions import conduct_words
from nearzero.report.render.html import to_html
from nearzero.report.render.markup import Markup, tag
from nearzero.report.results import StudyResults, display_name
from nearzero.report.table import Table
from nearzero.report.tables import tables
from nearzero.report.verdict import judged_tables

__all__ = ["PageExamples", "StudyContents", "TrainedNetwork", "study_page"]

DEVIATIONS = (
    "sd is the standard deviation over runs: in table 1 that of these runs as a population (ddof 0), since the paper "
    "prints that one; in tables 2 to 4 the sample standard deviation (ddof 1). s.e. is the standard error of the "
    "difference between the measured mean and the published one: differences within about two s.e. are what other runs "
    "of the same networks would often give. The conduct is in What was run."
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network of a study.

    Attributes:
        name: of the network in the study.
        run: the number of its run.
        network: the network itself.
        design: of its responses at matched displacement.
    """

    name: str
    run: int
    network: TwoLayer
    design: Design


@dataclass(frozen=True, eq=False)
class PageExamples:
    """The examples that a page embeds.

    Attributes:
        training: the inputs over which unit ranges are taken.
        inputs, labels: the page's examples, prepared as the networks take them.
        shape: height and width of an image.
        white: the greatest value of a pixel.
        indices: the places of the examples in the test set.
        total: the number of test examples.
    """

    training: Pixels
    inputs: Pixels
    labels: npt.NDArray[np.int64]
    shape: tuple[int, int]
    white: int
    indices: npt.NDArray[np.int64]
    total: int


@dataclass(frozen=True, eq=False)
class StudyContents:
    """All that the page of a study is made from.

    Attributes:
        results: the study's results.
        folder: the study's folder, as the commands take it.
        runs: the runs that were asked for; none if the page takes the first.
        command: the command that makes the page again.
        commands: those that make the study and its page from nothing.
        recipe: how the networks were trained, in words.
        families, conduct, rules: of the study's spec.
        record: provenance: data hashes, and versions of each session.
        matched: responses at matched displacement, if they were measured.
        verdict: the verdict, if it was made.
        audit: the audit, if it was made.
        further: other tables: of the untrained networks, of effects near zero.
        power: how often the rules are right on planted studies, if that was kept.
        networks: the networks that are embedded.
        examples: the examples that are embedded.
        accuracies: by network and run, the accuracy on all test examples, from 0 to 1.
    """

    results: StudyResults
    folder: str
    runs: Sequence[int]
    command: str
    commands: Sequence[str]
    recipe: str
    families: Sequence[str]
    conduct: Conduct
    rules: Rules
    record: Mapping[str, Any]
    matched: xr.Dataset | None
    verdict: Verdict | None
    audit: Audit | None
    further: Sequence[Table]
    power: Table | None
    networks: Sequence[TrainedNetwork]
    examples: PageExamples
    accuracies: Mapping[tuple[str, int], float]


def study_page(contents: StudyContents) -> str:
    """Return the page of a study."""
    results, verdict, examples = contents.results, contents.verdict, contents.examples
    published = not results.departures
    curves = level_charts(results)
    main = _main_charts(curves) if verdict is None else cost_charts(verdict)
    measured = () if verdict is None else tuple(map(str, verdict.costs.family.values))
    curves += [] if contents.matched is None else displacement_charts(contents.matched)
    explorers = [
        explore(
            display_name(each.name),
            each.run,
            each.network,
            training=examples.training,
            examples=examples.inputs,
            labels=examples.labels,
            families=_played(contents),
            conduct=contents.conduct,
        )
        for each in contents.networks
    ]
    changed = [*_at_equal_displacement(contents)]
    explorers = [
        replace(
            explorer,
            values=explorer.values | {"matched": matched_strips(explorer.key, found, contents.rules)},
        )
        for explorer, found in zip(explorers, changed, strict=True)
    ]
    sections = [
        Section(
            "terms",
            "Terms",
            terms((*contents.families, *measured), contents.rules, contents.conduct),
        ),
        Section(
            "curves", "Response curves", _curves(curves, published, contents.matched is not None), "Curves"
        ),
        Section("units", "Unit explorer", _units(contents, explorers), "Units"),
        Section("examples", "Examples", _examples(contents, explorers, changed), "Examples"),
        Section(
            "tables",
            "Tables: measured, published, difference" if published else "Tables",
            _tables(contents),
            "Tables",
        ),
        Section("checks", "Controls, checks and power", _checks(contents), "Checks"),
        *(
            [Section("audit", "The audit in short", _audit(contents.audit), "Audit")]
            if contents.audit
            else []
        ),
        Section("notes", "What was assumed, and notes", _notes(contents), "Notes"),
        Section(
            "methods",
            "Methods, citation, command",
            methods(_methods_text(contents), _version(contents), contents.command, contents.commands),
            "Methods",
        ),
    ]
    return document(
        f"nearzero: {results.title}",
        _lead(contents, main),
        sections,
        _data(contents, [*main, *curves], explorers),
        contents.runs,
    )


def _at_equal_displacement(contents: StudyContents) -> Iterator[MatchedExamples | None]:
    """Yield for each network what changes at equal displacement; None without a verdict, or if it isn't defined."""
    examples = contents.examples
    for each in contents.networks:
        yield (
            None
            if contents.verdict is None
            else matched_examples(
                each.network,
                training=examples.training,
                examples=examples.inputs,
                labels=examples.labels,
                design=each.design,
                rules=contents.rules,
            )
        )


def _played(contents: StudyContents) -> list[str]:
    """Return the families that the examples play: those that decide the verdict, if there is one, and the study's."""
    deciding = () if contents.verdict is None else (*contents.rules.distance, *contents.rules.intensity)
    return list(dict.fromkeys((*(name for name in deciding if name in FAMILIES), *contents.families)))


def _main_charts(curves: Sequence[Chart]) -> list[Chart]:
    """Return the response curves on the training set, for the first screen of a study without a verdict."""
    return [
        replace(chart, name=f"answer-{chart.name}", group="answer")
        for chart in curves
        if chart.labels["split"] == "train"
    ]


def _data(contents: StudyContents, charts: Sequence[Chart], explorers: Sequence[Explorer]) -> PageData:
    examples = contents.examples
    values = {
        "charts": {chart.name: chart.values() for chart in charts},
        "networks": [explorer.values for explorer in explorers],
        "examples": {
            "count": len(examples.labels),
            "height": examples.shape[0],
            "width": examples.shape[1],
            "white": examples.white,
        },
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "images": examples.inputs.values,
        "labels": examples.labels.astype(np.uint16),
        "indices": examples.indices.astype(np.uint32),
    }
    for explorer in explorers:
        arrays |= explorer.arrays
    return PageData(values, arrays)


# --- the first screen ---


def _lead(contents: StudyContents, charts: Sequence[Chart]) -> Markup:
    results = contents.results
    judged = contents.verdict is not None
    beside = None if contents.matched is None else against_noise(contents.matched, contents.rules)
    pictures = {chart.labels["network"]: figure(chart) for chart in charts} if judged else {}
    return tag(
        "section",
        tag("h1", QUESTION),
        tag("p", results.title, class_="subtitle"),
        tag(
            "p",
            "The claim that hidden units measure distance, and not intensity, is that of ",
            tag("a", PAPER, href="https://arxiv.org/abs/2411.17932", rel="noreferrer"),
            ". This page repeats its experiments on the networks named above. ",
            tag("a", "Terms", href="#terms"),
            " defines the words.",
        ),
        None
        if contents.verdict is None
        else glossed(map(str, contents.verdict.costs.family.values), contents.rules, contents.conduct),
        [tag("p", tag("strong", "Notice: "), notice, class_="notice") for notice in results.notices],
        answers(
            results,
            contents.verdict,
            contents.rules.margin,
            f"nearzero verdict {shlex.quote(contents.folder)}",
            contents.audit,
            pictures,
            beside,
            contents.power,
        ),
        None if judged else tag("div", [figure(chart) for chart in charts], class_="charts"),
        tag(
            "p",
            "Lines: means over runs on training images; bands: 95 % t intervals of each mean. ",
            "Costs are measured on the half of the training images that sets neither unit ranges nor levels. "
            "Intervals of D are those of the differences, at the confidence that is said with them; the charts of the "
            "cards have one y axis."
            if judged
            else "",
            class_="caption",
        ),
        tag(
            "p",
            "Which inputs show it: ",
            tag(
                "a",
                "those that change under one of the two and not under the other, at equal displacement"
                if judged
                else "those whose prediction changes first",
                href="#examples",
            ),
            "; in which units: ",
            tag("a", "the unit explorer", href="#units"),
            ".",
        ),
        to_html(numbers_table(results, contents.verdict, beside)),
        tag("h2", "What was run"),
        _run(contents),
        id="answer",
        aria_label="The answer",
    )


def _run(contents: StudyContents) -> Markup:
    record = contents.record
    data, sessions = record.get("data", {}), record.get("sittings", [])
    versions = sessions[-1]["versions"] if sessions else {}
    commits = list(
        dict.fromkeys(
            f"{git['commit'][:12]}{' (changed)' if git.get('changed') else ''}"
            for session in sessions
            if (git := session.get("git"))
        )
    )
    rows = {
        "networks": contents.results.title,
        "data": f"{data.get('name', 'unknown')} ({data.get('source', 'unknown source')})",
        "recipe": contents.recipe,
        "conduct": conduct_list(contents.results.conduct),
        "device": ", ".join(dict.fromkeys(session["device"] for session in sessions)) or "unknown",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown",
        "commits": ", ".join(commits) or "none recorded",
    }
    hashes = [
        tag("li", tag("code", f"{digest}  {name}")) for name, digest in sorted(data.get("sha256", {}).items())
    ]
    return tag(
        "div",
        tag("dl", [(tag("dt", name), tag("dd", words)) for name, words in rows.items()]),
        tag("details", tag("summary", "SHA-256 of the data"), tag("ul", hashes, class_="hashes"))
        if hashes
        else None,
    )


# --- the sections ---


def _curves(charts: Sequence[Chart], published: bool, displaced: bool) -> Markup:
    note = (
        "Open markers: published numbers."
        if published
        else "Published numbers aren't drawn: they belong to other data, other pixels or another conduct."
    )
    return tag(
        "div",
        curve_controls(charts, published, displaced),
        tag("div", [figure(chart) for chart in charts], class_="charts"),
        tag(
            "p",
            "Lines are means over runs, bands 95 % t intervals of the mean at each point. Each chart has a y axis "
            "of its own. ",
            note,
            " Against displacement, a family has a line for each side of its identity: thin below it, else thick."
            if displaced
            else "",
            " Zoom with the buttons, or with the wheel while Ctrl or Shift is held; drag to move.",
            class_="caption",
        ),
    )


def _units(contents: StudyContents, explorers: Sequence[Explorer]) -> Markup:
    if not explorers:
        return tag("p", "No network is embedded: no run of any network has finite weights.")
    return tag(
        "div",
        _chosen(contents, explorers),
        unit_panel(explorers),
        tag(
            "details",
            tag("summary", "All units of this network as a table"),
            [unit_table(explorer) for explorer in explorers],
        ),
    )


def _examples(
    contents: StudyContents, explorers: Sequence[Explorer], changed: Sequence[MatchedExamples | None]
) -> Markup:
    panel = example_panel(explorers)
    if contents.verdict is None or not explorers:
        return panel
    return tag(
        "div",
        tag("h3", "At equal displacement"),
        matched_panel(explorers, changed, contents.rules),
        tag("h3", "At any level of any family"),
        tag(
            "p",
            "Levels of different families aren't changes of equal size, and can't be compared.",
            class_="caption",
        ),
        panel,
    )


def _chosen(contents: StudyContents, explorers: Sequence[Explorer]) -> Markup:
    """Return a paragraph on the page's examples, with the accuracy there and on all test examples."""
    examples = contents.examples
    count = len(examples.labels)
    how = (
        f"all {count:,} test examples"
        if count == examples.total
        else f"{count:,} of the {examples.total:,} test examples, drawn at random with seed {SEED}"
    )
    places = "; ".join(
        f"{explorer.values['label']} run {run} {100 * explorer.accuracy:.2f} % here and {100 * accuracy:.2f} % on all"
        for explorer, ((_, run), accuracy) in zip(explorers, contents.accuracies.items(), strict=True)
    )
    return tag(
        "p",
        f"The explorer and the examples below use {how}. They weren't trained on; unit ranges are those of the "
        f"training set. Unperturbed accuracy on the test examples: {places}.",
    )


def _tables(contents: StudyContents) -> Markup:
    title, departures = contents.results.title, contents.results.departures
    judged = () if contents.verdict is None else judged_tables(contents.verdict, title)
    conduct = conduct_words(contents.results.conduct)
    measured = (
        replace(table, caption=table.caption.replace(conduct, "").strip())
        for table in tables(contents.results)
    )
    return tag(
        "div",
        tag("h3", "The verdict") if judged else None,
        [_titled(_finding_early(table), title) for table in judged],
        [_titled(table, title) for table in contents.further],
        tag("h3", "Accuracies" if departures else "Beside the published numbers") if judged else None,
        None if departures else tag("p", DEVIATIONS),
        [_titled(table, title) for table in measured],
    )


def _finding_early(table: Table) -> Table:
    """Return a table of comparisons with the finding beside the displacement, where narrow screens show it."""
    names = [column.name for column in table.columns]
    if not {"finding", "displacement"} <= set(names):
        return table
    order = [name for name in names if name != "finding"]
    order.insert(order.index("displacement") + 1, "finding")
    places = [names.index(name) for name in order]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in places),
        rows=tuple(tuple(row[place] for place in places) for row in table.rows),
    )


def _titled(table: Table, title: str) -> Markup:
    """Return a table without the study's title, which stands above the page."""
    return to_html(replace(table, title=table.title.replace(f": {title}", "", 1)))


def _checks(contents: StudyContents) -> Markup:
    verdict, power, folder = contents.verdict, contents.power, shlex.quote(contents.folder)
    checked = (
        tag("p", "No verdict was made, so there is nothing to check.")
        if verdict is None
        else tag(
            "ul",
            [
                tag(
                    "li",
                    f"{display_name(name)}, {CHECKS[result.check]}: {result.outcome}"
                    f"{' (the opposite is found too)' if result.outcome == 'turns' else ''}; it finds: "
                    f"{result.finding or 'not measured'}",
                )
                for name in verdict.networks
                for result in verdict.checked(name)
            ]
            or tag("li", "No direction was found, so no check was made."),
        )
    )
    kept = (
        to_html(power)
        if power is not None
        else tag(
            "p",
            "No power table of these rules is kept beside this study; ",
            tag("code", f"nearzero power {folder} --out {folder}"),
            " makes one.",
        )
    )
    return tag("div", tag("h3", "Checks of the finding"), checked, tag("h3", "Power"), kept)


def _audit(audit: Audit | None) -> Markup:
    if audit is None:
        return Markup()
    failed: dict[str, list[str]] = {}
    for each in audit.sentences:
        if each.held == each.conditions and each.finding != "survives":
            words = f"\u201c{each.text}\u201d {sentence_case(each.finding)}. Rule: {each.rule}"
            failed.setdefault(words, []).append(display_name(each.network))
    details = [_titled(table, audit.title) for table in (*fault_tables(audit), levels_table(audit))]
    return tag(
        "div",
        tag("ul", [tag("li", line) for line in audit.text().splitlines()]),
        [
            tag("p", f"All conditions hold for {' and '.join(names)}, and the rule needs more: {words}")
            for words, names in failed.items()
        ],
        _titled(_in_lines(sentences_table(audit)), audit.title),
        tag("details", tag("summary", "Fault by fault, and the rows of the published tables"), details),
    )


def _in_lines(table: Table) -> Table:
    """Return a table whose long texts have a line for each of their parts."""
    rows = tuple(
        tuple(cell.replace("; ", ";\n") if isinstance(cell, str) else cell for cell in row)
        for row in table.rows
    )
    return replace(table, rows=rows)


def _notes(contents: StudyContents) -> Markup:
    lines = [*contents.results.notices]
    if contents.verdict is not None:
        lines += [f"{caveat[:1].upper()}{caveat[1:]}." for caveat in contents.verdict.caveats]
    lines += [
        "Runs are the unit of inference: intervals say how much another set of runs might differ, on these data.",
        f"Levels are in unit ranges, {unit_range(contents.conduct)}; except those of scale and gains.",
        "The explorer computes in float32, in the order in which nearzero sums; where the two greatest logits are "
        "nearly equal (closer than 1e-5 of the greatest) rounding decides, and it counts these examples as near ties.",
    ]
    return tag("ul", [tag("li", line) for line in lines])


# --- methods ---


def _methods_text(contents: StudyContents) -> str:
    results, verdict = contents.results, contents.verdict
    version = _version(contents)
    text = (
        f"Two-layer networks were trained and perturbed with nearzero {version}: {results.title}. The hidden "
        "pre-activations z of every unit were replaced by y = min(max(scale z + offset, low), clip), and the accuracy "
        f"was measured at each level of the families {', '.join(contents.families)}. {conduct_words(results.conduct)} "
        "Intervals are 95 % t intervals of the mean over runs."
    )
    if verdict is not None:
        rules = verdict.rules
        targets = ", ".join(f"{100 * target:g}" for target in rules.targets)
        text += (
            f" Distance ({', '.join(rules.distance)}) and intensity ({', '.join(rules.intensity)}) were compared at "
            f"equal displacement of the activations, {targets} %: a {rules.test} test with a margin of "
            f"{points(rules.margin)} of {rules.measure.replace('_', ' ')}, alpha {rules.alpha:g}, "
            "adjusted by Holm's method over the comparisons of a network. "
            + "".join(f"{name}: {_formula(name, contents.conduct)} " for name in roles(rules))
            + " ".join(f"{display_name(name)}: {verdict.of(name)}." for name in verdict.networks)
        )
    return text


def _formula(name: str, conduct: Conduct) -> str:
    """Return the first sentence of what a family does, which has its formula."""
    return f"{description(name, conduct).partition('. ')[0].rstrip('.')}."


def _version(contents: StudyContents) -> str:
    sessions = contents.record.get("sittings", [])
    return str(sessions[-1]["versions"].get("nearzero", "")) if sessions else ""
