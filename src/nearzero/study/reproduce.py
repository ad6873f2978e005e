"""The paper in one call: train, sweep, report."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearzero.study.spec import resolve
from nearzero.study.study import Study

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["reproduce"]


def reproduce(
    preset: str | None = None,
    out: str | PathLike[str] | None = None,
    *,
    runs: int | None = None,
    device: str | None = None,
    data_dir: str | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Study:
    """Reproduce "Neural Networks Use Distance Metrics" (arXiv 2411.17932): both networks, three families, all
    tables and figures.

    Args:
        preset: "quick" (the default; batches of 256, minutes) or "paper" (the whole training set as one batch,
            hours).
        out: the study's folder; ``studies/<preset>`` unless given. A study that is there goes on where it
            was.
        runs: runs of each network, in place of the preset's 20.
        device: where to train: "cpu" (the default), or a PyTorch device such as "cuda".
        data_dir: a folder with the data files, if they aren't to be found or fetched.
        settings: any other keys of `Spec`, such as ``{"offset": "shift"}``.
        console: a rich console for progress and tables; quiet unless given.

    Raises:
        InputError: something given can't be used; nothing is lost, and the message says what to do.
    """
    given = dict(settings or {})
    given |= {key: value for key, value in (("runs", runs), ("device", device)) if value is not None}
    chosen = resolve(preset, given).preset
    study = Study.create(out or Path("studies") / chosen, preset, given)
    return study.run(data_dir=data_dir, console=console)
