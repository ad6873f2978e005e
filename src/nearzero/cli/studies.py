"""Commands for studies: steps, report, verdict, audit, grids, and the power of the verdict's rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearzero.cli.common import (
    BEGINS_ANEW,
    AsJson,
    DaskAddress,
    DataDir,
    Interrupted,
    Plan,
    Quiet,
    Settings,
    StudyFolder,
    WorkerCount,
    app,
    argument,
    complete_files,
    complete_preset,
    complete_result,
    complete_study,
    console_for,
    counting,
    examples,
    option,
    result_folder,
    settings_from,
    the_console,
    workers_for,
    working,
)
from nearzero.cli.output import (
    audit_conclusion,
    finish,
    folders_line,
    grid_plot,
    power_numbers,
    print_line,
    print_plan,
    probe_plot,
    probe_tables,
    response_table,
    study_conclusion,
    study_plot,
    this_command,
    verdict_conclusion,
)
from nearzero.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from nearzero.mechanisms.power import Power
    from nearzero.report.table import Table
    from nearzero.study import Study
    from nearzero.study.plan import WorkPlan
    from nearzero.support.workers import Workers

    Outcome = tuple[Iterable[Table], list[str]]  # tables and lines, as `finish` prints them


__all__ = ()  # the functions are registered with the app

SHOWN = 2  # of the tables of a verdict: comparisons, and the checks in short


@dataclass(frozen=True)
class _Asked:
    """Settings of a command that works on a study or a grid: its workers, and how the outcome is printed.

    Attributes:
        console: where it is printed; None prints nothing but JSON.
        workers, dask: the values of `--workers` and `--dask`.
        plan: whether `--plan` was given.
        as_json: whether `--json` was given.
    """

    console: Console | None
    workers: int | None
    dask: str | None
    plan: bool
    as_json: bool

    def finish(
        self, doing: str, plan: Callable[[Workers], WorkPlan], do: Callable[[Workers], Outcome]
    ) -> None:
        """Do the work and print its outcome; or, with `--plan`, print its plan.

        Args:
            doing: what is being done.
            plan: makes the plan for some workers.
            do: does the work on some workers, and returns tables and lines.
        """
        with (
            working(self.console, doing),
            workers_for(self.console, self.workers, self.dask) as chosen,
        ):
            planned = plan(chosen) if self.plan else None
            tables, lines = do(chosen) if planned is None else ((), [])
        if planned is not None:
            print_plan(planned, self.console, as_json=self.as_json)
        else:
            finish(self.console, tables, lines, as_json=self.as_json)


@app.command(
    epilog=examples("nearzero power", "nearzero power studies/quick --runs 10 --runs 20 --out power")
)
def power(
    study: Annotated[
        Path | None, argument("[STUDY]", "A study whose rules are used.", "the default rules", complete_study)
    ] = None,
    settings: Settings = None,
    runs: Annotated[list[int] | None, option("Runs of each network; may be repeated.", "6, 10")] = None,
    strength: Annotated[list[float] | None, option("Strength of the task; may be repeated.", "8")] = None,
    activation: Annotated[list[str] | None, option("abs or relu; may be repeated.", "both")] = None,
    studies: Annotated[int, option("Studies of each kind.", True)] = 20,
    seed: Annotated[int, option("The seed of all draws.", True)] = 0,
    out: Annotated[Path | None, option("A folder for power.json.")] = None,
    workers: Annotated[
        int | None, option("Do the work in so many processes.", "all processors", metavar="N")
    ] = None,
    dask: DaskAddress = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say how many runs a design needs, and how often its rules are wrong on known mechanisms.

    Plants networks that measure distance, match templates, or do half of each, and networks in which nothing
    differs; measures and judges them as `nearzero verdict` does. `--set verdict_...=...` changes the rules.
    """
    console = console_for(quiet, as_json)
    with working(console, "loading the rules"):
        from nearzero.mechanisms.power import CAPTION
        from nearzero.mechanisms.power import power as measure_power
        from nearzero.report.table import text_table
        from nearzero.study.spec import resolve, with_rules
        from nearzero.support.threads import thread_count

        spec = with_rules(resolve() if study is None else _open(study).spec, settings_from(settings))
    number = thread_count() if workers is None and dask is None else workers
    with (
        result_folder(out),
        counting(console, "planting and judging studies") as count,  # until the workers have ended, too
        workers_for(console, number, dask) as chosen,
    ):
        try:
            planted = {"strengths": strength or (8.0,), "activations": activation or ("abs", "relu")}
            options: dict[str, Any] = {"runs": runs or (6, 10), "studies": studies, "seed": seed, **planted}
            measured = measure_power(
                spec.rules, design=spec.design, executor=chosen, advanced=count, **options
            )
        except KeyboardInterrupt as error:
            raise Interrupted(BEGINS_ANEW) from error
    if out is not None:
        measured.save(out)
    stacked = text_table("power", [_stacked(counts.row) for counts in measured.counts], "", CAPTION)
    shown = power_numbers(measured) if as_json else stacked
    conclusion = f"{measured.conclusion}; next: {_after_power(study, out, measured, bool(settings))}"
    finish(console, [shown], [*measured.sentences(), conclusion], as_json=as_json)


def _after_power(study: Path | None, out: Path | None, measured: Power, changed: bool) -> str:
    """Return the command after `nearzero power`: what shows its table on a page, or what has enough runs."""
    if study is not None and not changed:
        kept = out is not None and out.resolve() == study.resolve()
        return f"nearzero page {study}" if kept else f"nearzero power {study} --out {study}"
    if measured.enough is not None:
        return f"nearzero reproduce --runs {measured.enough}"
    return this_command(more=("--runs", str(2 * max(counts.runs for counts in measured.counts))))


def _stacked(row: dict[str, str]) -> dict[str, str]:
    """Return a row that fits into 80 columns: the network in one column, and findings wrapped."""
    kept = {"runs": row["runs"], "right": row["right"], "wrong": row["wrong direction"]}
    networks = f"{row['mechanism']}, {row['activation']}\nstrength {row['strength']}"
    return {"networks": networks, **kept, **{name: row[name] for name in ("undecided", "findings")}}


@app.command(
    epilog=examples(
        "nearzero reproduce",
        "nearzero reproduce --runs 5 --out studies/five",
        "nearzero reproduce --preset paper --device cuda",
    )
)
def reproduce(
    preset: Annotated[
        str | None, option("quick (a minute or two) or paper (hours).", "quick", complete=complete_preset)
    ] = None,
    out: Annotated[Path | None, option("The study's folder.", "studies/PRESET")] = None,
    runs: Annotated[int | None, option("Runs of each network.", "20")] = None,
    device: Annotated[str | None, option("The device for training: cpu, cuda, mps.", "cpu")] = None,
    data_dir: DataDir = None,
    spec: Annotated[Path | None, option("A spec file; other options replace its values.")] = None,
    settings: Settings = None,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    plan: Plan = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train, sweep and report: reproduce the whole paper, beside the published numbers.

    If it is interrupted, the same command continues. `nearzero show` prints all tables.
    """
    asked = _Asked(console_for(quiet, as_json), workers, dask, plan, as_json)

    def values() -> dict[str, Any]:
        from nearzero.study.spec import read_settings

        return (read_settings(spec) if spec is not None else {}) | settings_from(settings)

    def make_plan(chosen: Workers) -> WorkPlan:
        study = _proposed(preset, out, values(), runs=runs, device=device)
        return study.plan(data_dir=data_dir, executor=chosen)

    def do(chosen: Workers) -> Outcome:
        from nearzero.study import reproduce as reproduce_study

        given: dict[str, Any] = {"runs": runs, "device": device, "data_dir": data_dir, "settings": values()}
        study = reproduce_study(preset, out, **given, console=asked.console, executor=chosen)
        return _reported(study, as_json)

    asked.finish("reading spec and data", make_plan, do)


def _proposed(preset: str | None, out: Path | None, settings: dict[str, Any], **given: Any) -> Study:
    """Return the study that `nearzero reproduce` would begin or continue; nothing is written."""
    from nearzero.study import Study
    from nearzero.study.spec import resolve
    from nearzero.study.store import Store

    settings = settings | {key: value for key, value in given.items() if value is not None}
    folder = out or Path("studies") / resolve(preset, settings).preset
    return Study(Store.proposed(folder, lambda rules: resolve(preset, {**rules, **settings})))


@app.command("compile", epilog=examples("nearzero compile"))
def compile_(quiet: Quiet = False) -> None:
    """Compile the kernels for this processor, once, in some 30 seconds; else the first study does it."""
    console, names = console_for(quiet), list[str]()
    with working(console, "compiling the kernels for this processor") as show_work:

        def begun(name: str) -> None:
            names.append(name)
            show_work(f"compiling kernel {len(names)}, {name.lstrip('_')}")

        from nearzero.study.compiling import compile_kernels

        compile_kernels(begun=begun)
    done = f"{len(names)} kernels are compiled" if names else "all kernels were compiled already"
    finish(console, lines=[f"{done}; next: nearzero reproduce"])


@app.command(epilog=examples("nearzero train studies/mine"))
def train(
    study: StudyFolder,
    data_dir: DataDir = None,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    plan: Plan = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train the networks of a study that aren't trained yet."""
    asked = _Asked(console_for(quiet, as_json), workers, dask, plan, as_json)
    _do_step(study, "train", f"the networks are trained; next: nearzero sweep {study}", data_dir, asked)


@app.command(epilog=examples("nearzero sweep studies/mine"))
def sweep(
    study: StudyFolder,
    data_dir: DataDir = None,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    plan: Plan = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Sweep the networks of a study that aren't swept yet."""
    asked = _Asked(console_for(quiet, as_json), workers, dask, plan, as_json)
    _do_step(study, "sweep", f"the networks are swept; next: nearzero report {study}", data_dir, asked)


def _do_step(study: Path, step: str, done: str, data_dir: str | None, asked: _Asked) -> None:
    """Do the step of this name and print that it is done; or print its plan."""

    def do(chosen: Workers) -> Outcome:
        getattr(_open(study), step)(data_dir=data_dir, console=asked.console, executor=chosen)
        return (), [done]

    def make_plan(chosen: Workers) -> WorkPlan:
        return _open(study).plan([step], data_dir=data_dir, executor=chosen)

    asked.finish("reading spec and data", make_plan, do)


@app.command(epilog=examples("nearzero report studies/mine", "nearzero report studies/mine --json"))
def report(study: StudyFolder, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Write the tables and figures of a study. `nearzero show` prints the tables."""
    console = console_for(quiet, as_json)
    with working(console, f"reading {study}"):
        made, lines = _reported(_open(study).report(console=console), as_json)
    finish(console, made, lines, as_json=as_json)


def _reported(study: Any, as_json: bool) -> Outcome:
    """Return the tables of a report, which only scripts see, and its lines."""
    from nearzero.report.tables import tables

    lines = [folders_line(study.folder), *study_conclusion(study, f"nearzero verdict {study.folder}")]
    return (tables(study) if as_json else ()), lines


@app.command(
    epilog=examples(
        "nearzero verdict studies/quick",
        "nearzero verdict studies/quick --near-far",
        "nearzero verdict studies/quick --set verdict_margin=2",
    )
)
def verdict(
    study: StudyFolder,
    data_dir: DataDir = None,
    settings: Annotated[
        list[str] | None,
        option("A rule, verdict_...; may be repeated. Asks only.", False, "--set", metavar="KEY=VALUE"),
    ] = None,
    save: Annotated[bool, option("Keep the rules of --set in the study.", False, "--save")] = False,
    near_far: Annotated[
        bool, option("Also measure the effects near zero and far from it.", False, "--near-far")
    ] = False,
    untrained: Annotated[
        bool, option("Also measure the networks before their first step.", False, "--untrained")
    ] = False,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    plan: Plan = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say whether distance or intensity costs more at equal displacement, by the rules of the study's spec.

    Measures every network at matched displacement first, if that isn't done yet, and writes tables and figures.
    `--set verdict_...=...` asks by other rules and changes nothing in the study; what isn't measured yet is
    measured for this answer alone. With `--save`, the spec, the measurements and the tables follow the rules.
    """
    if settings and plan:
        raise InputError("--plan is about the rules of the study; give it without --set")
    if settings and not save and (near_far or untrained):
        raise InputError(
            "--set without --save changes nothing in the study, and --near-far and --untrained are kept in it; give "
            "them without --set, or add --save"
        )
    asked = _Asked(console_for(quiet, as_json), workers, dask, plan, as_json)

    def make_plan(chosen: Workers) -> WorkPlan:
        steps = ["matched", *(["untrained"] if untrained else []), *(["parts"] if near_far else [])]
        return _open(study).plan(steps, data_dir=data_dir, executor=chosen)

    def do(chosen: Workers) -> Outcome:
        from nearzero.report.verdict import judged_tables
        from nearzero.study.page.renew import renew_page
        from nearzero.support.checksums import working as held

        rules, opened = settings_from(settings), _open(study)
        how: dict[str, Any] = {"data_dir": data_dir, "console": asked.console, "executor": chosen}
        if rules and not save:
            judged = opened.ask(rules, **how)
            tables = judged_tables(judged, opened.title)
            kept = f"{study} is as before; --save makes these its rules."
            lines = [kept, *verdict_conclusion(judged, f"nearzero show {study}")]
            return (tables if as_json else tables[:SHOWN]), lines
        with held(study):  # a command that is refused has changed nothing
            opened = opened.with_rules(rules)
            judged = opened.judge(near_far=near_far, untrained=untrained, **how)
        renew_page(opened, data_dir=data_dir, console=asked.console)
        lines = [folders_line(study), *verdict_conclusion(judged, _next_to_read(study))]
        return (opened.tables()["verdict"] if as_json else ()), lines

    asked.finish(f"reading {study}", make_plan, do)


@app.command(
    epilog=examples("nearzero audit studies/quick", "nearzero audit studies/raw --against studies/normalized")
)
def audit(
    study: StudyFolder,
    against: Annotated[
        Path | None, option("A study with the other pixels, raw or normalized.", metavar="STUDY")
    ] = None,
    data_dir: DataDir = None,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    plan: Plan = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure the published study's faults on a study's own networks, and say which sentences survive."""
    asked = _Asked(console_for(quiet, as_json), workers, dask, plan, as_json)

    def make_plan(chosen: Workers) -> WorkPlan:
        return _open(study).plan(["audit"], data_dir=data_dir, executor=chosen)

    def do(chosen: Workers) -> Outcome:
        from nearzero.report.audit import audited_tables
        from nearzero.study.page.renew import renew_page

        opened, other = _open(study), None if against is None else _open(against)
        outcome = opened.audit(other, data_dir=data_dir, console=asked.console, executor=chosen)
        renew_page(opened, data_dir=data_dir, console=asked.console)
        lines = [folders_line(study), *audit_conclusion(outcome, _next_to_read(study))]
        return (audited_tables(outcome) if as_json else ()), lines

    asked.finish(f"reading {study}", make_plan, do)


@app.command(
    epilog=examples("nearzero grid width", "nearzero grid mine.toml", "nearzero show studies/grids/width")
)
def grid(
    spec: Annotated[
        str,
        argument(
            "SPEC",
            "The path of a grid's spec, or the name of one that comes with nearzero, as width.",
            complete=complete_files("*.toml", folders=False),
        ),
    ],
    out: Annotated[Path | None, option("The grid's folder.", "studies/grids/NAME")] = None,
    networks: Annotated[
        Path | None, option("The folder of its networks; grids can share it.", "networks, beside the grid's")
    ] = None,
    data_dir: DataDir = None,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    plan: Plan = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train and measure many networks that differ in one thing, and give the verdict on each.

    They are a study's, or your own: [network] in the spec then names the functions that build and train them.
    If it is interrupted, the same command continues.
    """
    asked = _Asked(console_for(quiet, as_json), workers, dask, plan, as_json)
    folder = out or Path("studies") / "grids" / Path(spec).stem

    def make_plan(chosen: Workers) -> WorkPlan:
        from nearzero.grid import Grid

        proposed = Grid.proposed(folder, spec)
        return proposed.plan(networks=networks, data_dir=data_dir, executor=chosen)

    def do(chosen: Workers) -> Outcome:
        from nearzero.grid import Grid
        from nearzero.report.grids import grid_tables

        opened = Grid.create(folder, spec)
        opened.run(networks=networks, data_dir=data_dir, console=asked.console, executor=chosen)
        following = f"nearzero show {opened.folder}"
        lines = [folders_line(opened.folder), *verdict_conclusion(opened.verdict(), following)]
        return (grid_tables(opened) if as_json else ()), lines

    asked.finish("reading spec and data", make_plan, do)


@app.command(
    epilog=examples(
        "nearzero show studies/quick", "nearzero show studies/grids/width", "nearzero show probed --json"
    )
)
def show(
    folder: Annotated[
        Path,
        argument("FOLDER", "The folder of a study, a grid or a probe's result.", complete=complete_result),
    ],
    as_json: AsJson = False,
) -> None:
    """Print what is in the folder of a study, a grid or a probe: tables, small plots, verdict and audit.

    No file is written.
    """
    console = the_console(stderr=as_json)
    if (folder / "grid.toml").is_file():
        _show_grid(folder, console, as_json)
    elif (folder / "probe.nc").is_file():
        _show_probe(folder, console, as_json)
    else:
        _show_study(folder, console, as_json)


@app.command(epilog=examples("nearzero verify studies/quick", "nearzero verify studies/quick --json"))
def verify(
    study: Annotated[Path, argument("STUDY", "The folder of a study or a grid.", complete=complete_result)],
    as_json: AsJson = False,
) -> None:
    """Check the files of a study or a grid against the checksums that were made when they were written.

    Names what is damaged, was changed by hand or is missing, and what makes it again. Exit code 2 if there is
    such a file, 1 if the folder has no checksums.
    """
    console = the_console(stderr=as_json)
    with working(console, f"reading the files of {study}"):
        from nearzero.grid.grid import grid_remedy
        from nearzero.report.table import text_table
        from nearzero.study.store import SPEC, remedy
        from nearzero.support.checksums import RECORD, verify_files

        is_grid = (study / "grid.toml").exists()
        if not any((study / name).exists() for name in (SPEC, RECORD)) and not is_grid:
            _open(study)  # says why it isn't a study
        checks = verify_files(study)
    again, rows = grid_remedy if is_grid else remedy, list[dict[str, str]]()
    for check in checks:
        what = again(study, check.name) if check.status in _STATUS else ""
        if check.status == "missing":
            what = what.removeprefix("delete it").removeprefix(",").removeprefix(" and ")
        rows.append({"file": check.name, "status": check.status, "remedy": what})
    wrong = [row for row in rows if row["status"] in _STATUS]
    width = max((len(row["file"]) for row in wrong), default=0)
    for row in () if as_json else wrong:
        line = f"{row['file']:<{width}}  {_STATUS[row['status']]:<27}  {row['remedy']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)  # commands are copied from it
    whole = sum(row["status"] == "whole" for row in rows)
    lines = [f"{whole} of {len(rows)} files are as they were written"]
    if unknown := [row["file"] for row in rows if row["status"] == "no checksum"]:
        named = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        lines.append(f"{len(unknown)} have no checksum and can't be checked: {named}")
    lines.append("the log isn't checked")
    following = "" if wrong else f"; next: nearzero show {study}"
    finish(
        console,
        lines=["; ".join(lines) + following],
        as_json=as_json,
        for_scripts=[text_table("files", rows)],
    )
    if wrong or not whole:
        raise typer.Exit(2 if wrong else 1)


_STATUS = {"damaged": "damaged, or changed by hand", "missing": "missing"}


def _show_study(folder: Path, console: Console, as_json: bool) -> None:
    lines: list[str] = []
    with working(console, f"reading {folder}"):
        opened = _open(folder)
        made, summary = opened.tables(), opened.summary()
        shown = [study_plot(opened)] if "report" in made and not as_json else []
        for part, tables in made.items():
            shown += tables if as_json or part != "verdict" else tables[:SHOWN]
        if "audit" in made:
            lines += [*audit_conclusion(opened.audited()), ""]
        if "verdict" in made:
            lines += [*verdict_conclusion(opened.verdict()), ""]
        if "report" in made:
            following = ["audit", "page"] if "verdict" in made else ["verdict"]
            following = [step for step in following if step not in made]
            lines += study_conclusion(opened, f"nearzero {following[0]} {folder}")
        else:
            step = "sweep" if opened.is_trained else "train"
            lines.append(f"nothing is measured yet; next: nearzero {step} {folder}")
    if not as_json:
        console.print(opened.title, style="bold", highlight=False, markup=False)
        for key, value in summary.items():
            print_line(console, f"  {key:<14} {value}", hanging=17)
        console.print()
    finish(console, shown, lines, as_json=as_json)


def _show_grid(folder: Path, console: Console, as_json: bool) -> None:
    with working(console, f"reading {folder}"):
        from nearzero.grid import Grid
        from nearzero.report.grids import grid_tables

        opened = Grid.open(folder)
        judged, made = opened.verdict(), grid_tables(opened)
        shown = made if as_json else (grid_plot(judged), made[0])
        lines = [opened.spec.question, *verdict_conclusion(judged)]
    finish(console, shown, lines, as_json=as_json)


def _show_probe(folder: Path, console: Console, as_json: bool) -> None:
    with working(console, f"reading {folder}"):
        from nearzero.probing import ProbeResult

        result = ProbeResult.open(folder)
        tables = [*(() if as_json else [probe_plot(result)]), *probe_tables(result, numbers=as_json)]
        lines = [*result.notes, result.headline, f"{result.conclusion}; next: nearzero page {folder}"]
    finish(console, tables, lines, as_json=as_json, for_scripts=[response_table(result)])


@app.command(epilog=examples("nearzero new studies/mine --set data=fashion-mnist --set runs=5"))
def new(
    study: StudyFolder,
    preset: Annotated[str | None, option("quick or paper.", "quick", complete=complete_preset)] = None,
    settings: Settings = None,
) -> None:
    """Begin a study: make its folder and its spec, for `nearzero train`, `sweep` and `report`."""
    console = the_console()
    with working(console, "checking the settings"):
        from nearzero.study import Study

        Study.create(study, preset, settings_from(settings))
    print_line(console, f"{study / 'spec.toml'} is written; next: nearzero train {study}")


def _next_to_read(study: Path) -> str:
    """Return the command after one that measured: what makes a page, or, where there is one, what prints the tables."""
    from nearzero.study.store import PAGE

    return f"nearzero {'show' if (study / PAGE).is_file() else 'page'} {study}"


def _open(folder: Path) -> Study:
    from nearzero.study import Study

    return Study.open(folder)
