"""The command about the rules themselves: how many runs they need, and how often they are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearzero.cli.common import (
    Interrupted,
    Quiet,
    Settings,
    app,
    console_for,
    counting,
    option,
    print_rows,
    result_folder,
    settings_from,
)
from nearzero.errors import InputError

if TYPE_CHECKING:
    from nearzero.study import Spec

__all__ = ["power"]

NOTE = (
    "Shares of studies, with 95 % intervals (Clopper-Pearson). In the null nothing differs: equivalent is right, any "
    "direction is wrong. Of a mixture neither is known.\n"
)


@app.command()
def power(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="Whose rules.", show_default="the default rules")
    ] = None,
    settings: Settings = None,
    runs: Annotated[list[int] | None, option("Runs; may be repeated.", "6, 10")] = None,
    strength: Annotated[list[float] | None, option("Of the task; may be repeated.", "8")] = None,
    activation: Annotated[list[str] | None, option("abs or relu; may be repeated.", "both")] = None,
    studies: Annotated[int, option("Studies of each kind.", True)] = 20,
    seed: Annotated[int, option("Of everything that is drawn.", True)] = 0,
    out: Annotated[Path | None, option("A folder for power.json.")] = None,
    quiet: Quiet = False,
) -> None:
    """Say how many runs a design needs, and how often its rules are wrong where the answer is known.

    Plants networks that measure distance, match templates, or do half of each, and networks in which nothing differs;
    measures and judges them as `nearzero verdict` does. `--set verdict_...=...` changes the rules.
    """
    from rich.table import Column

    from nearzero.mechanisms import power as run
    from nearzero.threads import thread_count

    console, spec = console_for(quiet), _spec(study, settings)
    with result_folder(out), _begun_anew(), counting(console, "planting", "studies") as count:
        found = run(
            spec.rules, design=spec.design, runs=runs or (6, 10), strengths=strength or (8.0,),
            activations=activation or ("abs", "relu"), studies=studies, seed=seed, workers=thread_count(),
            advanced=count,
        )  # fmt: skip
    if out is not None:
        found.save(out)
    if console is None:
        return
    rows = [_stacked(each.row) for each in found.counts]
    headings = [Column(name, no_wrap=name not in ("networks", "findings")) for name in rows[0]]
    print_rows(console, headings, [row.values() for row in rows])
    for line in (NOTE, *found.sentences()):
        console.print(line, highlight=False, soft_wrap=True)


def _stacked(row: dict[str, str]) -> dict[str, str]:
    """Return a row in the 80 columns of a terminal: networks on two lines; findings, which add up to studies, wrap."""
    kept = {"runs": row["runs"], "right": row["right"], "wrong": row["wrong direction"]}
    networks = f"{row['mechanism']}, {row['activation']}\nstrength {row['strength']}"
    return {"networks": networks, **kept, **{name: row[name] for name in ("undecided", "findings")}}


def _spec(study: Path | None, settings: list[str] | None) -> Spec:
    """Return the spec that has the rules: of a study, or the default one, with what was set."""
    from nearzero.study import Study
    from nearzero.study.spec import VERDICT, resolve

    base = {} if study is None else Study.open(study).spec.model_dump(mode="json")
    given = settings_from(settings)
    if other := [key for key in given if key not in VERDICT]:
        raise InputError(f"a verdict's rules are {', '.join(VERDICT)}; got {other[0]!r}")
    return resolve(settings=base | given)


@contextmanager
def _begun_anew() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; nothing is kept, the same command begins anew") from error
