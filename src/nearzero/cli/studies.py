"""Commands about studies: from nothing to the report, step by step, and the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearzero.cli.common import (
    DataDir,
    Quiet,
    Settings,
    StudyFolder,
    app,
    console_for,
    option,
    settings_from,
    the_console,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["audit", "compile_", "grid", "new", "report", "reproduce", "show", "sweep", "train", "verdict"]


@app.command()
def reproduce(
    preset: Annotated[str | None, option("quick (a minute or two) or paper (hours).", "quick")] = None,
    out: Annotated[Path | None, option("The study's folder.", "studies/PRESET")] = None,
    runs: Annotated[int | None, option("Runs of each network.", "20")] = None,
    device: Annotated[str | None, option("Where to train: cpu, cuda, mps.", "cpu")] = None,
    data_dir: DataDir = None,
    spec: Annotated[Path | None, option("A spec file; the other options go over it.")] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Train, sweep and report: the whole paper, beside the published numbers.

    Interrupted at any point, the same command goes on where it was.
    """
    from nearzero.study import reproduce as reproduce_study
    from nearzero.study.spec import read_settings

    given = (read_settings(spec) if spec is not None else {}) | settings_from(settings)
    console = console_for(quiet)
    study = reproduce_study(
        preset, out, runs=runs, device=device, data_dir=data_dir, settings=given, console=console
    )
    _say_where(study.folder, console)


@app.command("compile")
def compile_() -> None:
    """Compile what studies on this processor need, once, so that the first needn't: some fifteen seconds."""
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
    _say_where(study, console)


@app.command()
def verdict(
    study: StudyFolder, data_dir: DataDir = None, settings: Settings = None, quiet: Quiet = False
) -> None:
    """Say whether distance or intensity costs more at equal displacement, by the rules of the study's spec.

    Measures every network at matched displacement first, where that isn't done yet.
    """
    console = console_for(quiet)
    _open(study).with_rules(settings_from(settings)).judge(data_dir=data_dir, console=console)
    _say_where(study, console)


@app.command()
def audit(
    study: StudyFolder,
    against: Annotated[
        Path | None, option("A study with the other pixels, raw or normalized.", metavar="STUDY")
    ] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Measure the faults of the published study on a study's own networks, and say which of its sentences survive."""
    console = console_for(quiet)
    opened = _open(study)
    other = None if against is None else _open(against)
    opened.audit(other, data_dir=data_dir, console=console)
    _say_where(study, console)


@app.command()
def grid(
    spec: Annotated[
        Path,
        typer.Argument(metavar="SPEC", help="A grid's spec, such as grids/width.toml.", show_default=False),
    ],
    out: Annotated[Path | None, option("The grid's folder.", "studies/grids/NAME")] = None,
    networks: Annotated[
        Path | None, option("Where its networks lie; grids can share them.", "networks, beside it")
    ] = None,
    data_dir: DataDir = None,
    quiet: Quiet = False,
) -> None:
    """Train and measure many networks that differ in one thing, and say what becomes of the verdict.

    Interrupted at any point, the same command goes on where it was.
    """
    from nearzero.grid import Grid
    from nearzero.report.write import print_grid

    console = console_for(quiet)
    made = Grid.create(out or Path("studies") / "grids" / spec.stem, spec)
    made.run(networks=networks, data_dir=data_dir, console=console)
    if console is not None:
        print_grid(made, console)
    _say_where(made.folder, console)


@app.command()
def show(study: StudyFolder) -> None:
    """Print what a study is and its tables; nothing is written."""
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
        f"{study / 'spec.toml'} is written; `nearzero train {study}` comes next", highlight=False
    )


def _open(folder: Path) -> Any:
    from nearzero.study import Study

    return Study.open(folder)


def _say_where(folder: Path, console: Console | None) -> None:
    if console is not None:
        where = f"\nTables are in {folder / 'tables'}, figures in {folder / 'figures'}."
        console.print(where, highlight=False, soft_wrap=True)  # a path that's broken can't be copied
