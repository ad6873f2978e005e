"""What the commands share: the app, the options that several of them have, the console."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DataDir", "Quiet", "Settings", "StudyFolder", "app", "console_for", "settings_from"]

app = typer.Typer(
    name="nearzero",
    help="Do hidden units measure distance or intensity? Perturb them, and see.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="A study's folder.", show_default=False)]
DataDir = Annotated[
    Optional[str],  # noqa: UP045 (typer reads the annotation)
    typer.Option(help="A folder with the data files; also NEARZERO_DATA.", show_default=False),
]
Settings = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any key of the spec; may be repeated.", show_default=False
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def console_for(quiet: bool = False) -> Console | None:
    """Where to print; None if nothing is to be printed."""
    from rich.console import Console

    if quiet:
        return None
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None
    # tables need some 110 columns; what isn't a terminal (a file, a pipe) has no width of its own
    return Console(width=width or (None if sys.stdout.isatty() else 120))


def settings_from(pairs: list[str] | None) -> dict[str, Any]:
    """The settings of `--set`, as a mapping."""
    from nearzero.study.spec import parse_setting

    return dict(parse_setting(pair) for pair in pairs or [])


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Do hidden units measure distance or intensity? Perturb them, and see."""
    if version:
        from importlib.metadata import version as version_of

        print(f"nearzero {version_of('nearzero')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
