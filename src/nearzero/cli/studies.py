"""Commands for studies: steps, report, verdict, audit, grids, and the power of the verdict's rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nearzero.cli.common import (
    DataDir,
    Interrupted,
    Quiet,
    Settings,
    StudyFolder,
    app,
    argument,
    console_for,
    counting,
    option,
    print_rows,
    result_folder,
    settings_from,
    the_console,
)
from nearzero.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ()  # the functions are registered with the app


@app.command()
def power(
    study: Annotated[
        Path | None, argument("[STUDY]", "A study whose rules are used.", "the default rules")
    ] = None,
    settings: Settings = None,
    runs: Annotated[list[int] | None, option("Runs of each network; may be repeated.", "6, 10")] = None,
    strength: Annotated[list[float] | None, option("Strength of the task; may be repeated.", "8")] = None,
    activation: Annotated[list[str] | None, option("abs or relu; may be repeated.", "both")] = None,
    studies: Annotated[int, option("Studies of each kind.", True)] = 20,
    seed: Annotated[int, option("The seed of all draws.", True)] = 0,
    out: Annotated[Path | None, option("A folder for power.json.")] = None,
    quiet: Quiet = False,
) -> None:
    """Say how many runs a design needs, and how often its rules are wrong on known mechanisms.

    Plants networks that measure distance, match templates, or do half of each, and networks in which nothing
    differs; measures and judges them as `nearzero verdict` does. `--set verdict_...=...` changes the rules.
    """
    from rich.table import Column

    from nearzero.mechanisms.power import CAPTION
    from nearzero.mechanisms.power import power as measure_power
    from nearzero.study.spec import resolve, with_rules
    from nearzero.support.threads import thread_count

    console = console_for(quiet)
    spec = with_rules(resolve() if study is None else _open(study).spec, settings_from(settings))
    with result_folder(out), counting(console, "planting", "studies") as count:
        try:
            planted = {"strengths": strength or (8.0,), "activations": activation or ("abs", "relu")}
            options: dict[str, Any] = {"runs": runs or (6, 10), "studies": studies, "seed": seed, **planted}
            measured = measure_power(
                spec.rules, design=spec.design, workers=thread_count(), advanced=count, **options
            )
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted; nothing is kept, the same command begins anew") from error
    if out is not None:
        measured.save(out)
    if console is None:
        return
    rows = [_stacked(counts.row) for counts in measured.counts]
    headings = [Column(name, no_wrap=name not in ("networks", "findings")) for name in rows[0]]
    print_rows(console, headings, [row.values() for row in rows])
    for line in (f"{CAPTION}\n", *measured.sentences()):
        console.print(line, highlight=False, soft_wrap=True)


def _stacked(row: dict[str, str]) -> dict[str, str]:
    """Return a row that fits into 80 columns: networks on two lines, and findings wrapped."""
    kept = {"runs": row["runs"], "right": row["right"], "wrong": row["wrong direction"]}
    networks = f"{row['mechanism']}, {row['activation']}\nstrength {row['strength']}"
    return {"networks": networks, **kept, **{name: row[name] for name in ("undecided", "findings")}}


@app.command()
def reproduce(
    preset: Annotated[str | None, option("quick (a minute or two) or paper (hours).", "quick")] = None,
    out: Annotated[Path | None, option("The study's folder.", "studies/PRESET")] = None,
    runs: Annotated[int | None, option("Runs of each network.", "20")] = None,
    device: Annotated[str | None, option("The device for training: cpu, cuda, mps.", "cpu")] = None,
    data_dir: DataDir = None,
    spec: Annotated[Path | None, option("A spec file; other options replace its values.")] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Train, sweep and report: reproduce the whole paper, beside the published numbers.

    If it is interrupted, the same command continues.
    """
    from nearzero.study import reproduce as reproduce_study
    from nearzero.study.page.contents import PAGE
    from nearzero.study.spec import read_settings

    values = (read_settings(spec) if spec is not None else {}) | settings_from(settings)
    console = console_for(quiet)
    study = reproduce_study(
        preset, out, runs=runs, device=device, data_dir=data_dir, settings=values, console=console
    )
    _print_folders(study.folder, console, PAGE)


@app.command("compile")
def compile_() -> None:
    """Compile the kernels for this processor, once, in some 15 seconds; else the first study does it."""
    from nearzero.study.compiling import compile_kernels

    compile_kernels()


@app.command()
def train(study: StudyFolder, data_dir: DataDir = None, quiet: Quiet = False) -> None:
    """Train the networks of a study that aren't trained yet."""
    _open(study).train(data_dir=data_dir, console=console_for(quiet))


@app.command()
def sweep(study: StudyFolder, data_dir: DataDir = None, quiet: Quiet = False) -> None:
    """Sweep the networks of a study that aren't swept yet."""
    _open(study).sweep(data_dir=data_dir, console=console_for(quiet))


@app.command()
def report(study: StudyFolder, quiet: Quiet = False) -> None:
    """Write the tables and figures of a study, and print the tables."""
    console = console_for(quiet)
    _open(study).report(console=console)
    _print_folders(study, console)


@app.command()
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
    quiet: Quiet = False,
) -> None:
    """Say whether distance or intensity costs more at equal displacement, by the rules of the study's spec.

    Measures every network at matched displacement first, if that isn't done yet, and writes tables and figures.
    `--set verdict_...=...` asks by other rules and changes nothing in the study; what isn't measured yet is
    measured for this answer alone. With `--save`, the spec, the measurements and the tables follow the rules.
    """
    console, rules, opened = console_for(quiet), settings_from(settings), _open(study)
    if rules and not save:
        if near_far or untrained:
            raise InputError(
                "--set without --save changes nothing in the study, and --near-far and --untrained are kept in it; "
                "give them without --set, or add --save"
            )
        opened.ask(rules, data_dir=data_dir, console=console)
        if console is not None:
            line = f"\n{study} is as before; --save makes these its rules."
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    opened = opened.with_rules(rules)
    opened.judge(near_far=near_far, untrained=untrained, data_dir=data_dir, console=console)
    _print_folders(study, console)


@app.command()
def audit(
    study: StudyFolder,
    against: Annotated[
        Path | None, option("A study with the other pixels, raw or normalized.", metavar="STUDY")
    ] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Measure the published study's faults on a study's own networks, and say which sentences survive."""
    console = console_for(quiet)
    opened = _open(study)
    other = None if against is None else _open(against)
    opened.audit(other, data_dir=data_dir, console=console)
    _print_folders(study, console)


@app.command()
def grid(
    spec: Annotated[Path, argument("SPEC", "A grid's spec, such as grids/width.toml.")],
    out: Annotated[Path | None, option("The grid's folder.", "studies/grids/NAME")] = None,
    networks: Annotated[
        Path | None, option("The folder of its networks; grids can share it.", "networks, beside the grid's")
    ] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Train and measure many networks that differ in one thing, and give the verdict on each.

    If it is interrupted, the same command continues.
    """
    from nearzero.grid import Grid
    from nearzero.report.write import print_grid

    console = console_for(quiet)
    opened = Grid.create(out or Path("studies") / "grids" / spec.stem, spec)
    opened.run(networks=networks, data_dir=data_dir, console=console)
    if console is not None:
        print_grid(opened, console)
    _print_folders(opened.folder, console)


@app.command()
def show(study: StudyFolder) -> None:
    """Print a summary of a study and its tables; no file is written."""
    from nearzero.report.write import print_tables

    opened = _open(study)
    console = the_console()
    console.print(opened.title, style="bold", highlight=False)
    for key, value in opened.summary().items():
        console.print(f"  {key:<14} {value}", highlight=False, markup=False)
    print_tables(opened, console)


@app.command()
def new(
    study: StudyFolder,
    preset: Annotated[str, option("quick or paper.", True)] = "quick",
    settings: Settings = None,
) -> None:
    """Begin a study: make its folder and its spec, for `nearzero train`, `sweep` and `report`."""
    from nearzero.study import Study

    Study.create(study, preset, settings_from(settings))
    the_console().print(
        f"{study / 'spec.toml'} is written; continue with `nearzero train {study}`", highlight=False
    )


def _open(folder: Path) -> Any:
    from nearzero.study import Study

    return Study.open(folder)


def _print_folders(folder: Path, console: Console | None, page: str = "") -> None:
    if console is not None:
        line = f"\nTables are in {folder / 'tables'}, figures in {folder / 'figures'}."
        line += f" The page of it all is {folder / page}." if page else ""
        console.print(line, highlight=False, soft_wrap=True)  # a path with a line break can't be copied
