"""The command that makes a page of a study or of a probe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from nearzero.cli.common import (
    DataDir,
    Quiet,
    app,
    argument,
    complete_result,
    console_for,
    examples,
    option,
    working,
)
from nearzero.cli.output import finish
from nearzero.errors import InputError

__all__ = ()  # the function is registered with the app


@app.command(epilog=examples("nearzero page studies/quick", "nearzero page probed --inputs images.npy"))
def page(
    result: Annotated[
        Path,
        argument(
            "RESULT", "A study's folder; or a probe's folder, or its probe.nc.", complete=complete_result
        ),
    ],
    out: Annotated[
        Path | None, option("The file.", "page.html in the folder", "--out", "-o", metavar="FILE")
    ] = None,
    runs: Annotated[
        list[int] | None, option("Of a study: a run of each network to embed; may be repeated.", "the first")
    ] = None,
    data_dir: DataDir = None,
    inputs: Annotated[
        Path | None,
        option("Of a probe: pictures in uint8 or token ids of all examples, as a .npy file."),
    ] = None,
    decode: Annotated[
        str | None,
        option("Of a probe: file.py:function from token ids to text.", metavar="FILE.py:FUNCTION"),
    ] = None,
    title: Annotated[str, option("Of a probe: a line that names the model and the data.")] = "",
    quiet: Quiet = False,
) -> None:
    """Make one HTML page of a study or a probe, with curves, tables, units and examples. It opens without a network."""
    console = console_for(quiet)
    folder = result.parent if result.is_file() else result
    path, missing = out or folder / "page.html", list[str]()
    with working(console, f"making the page of {result}"):
        if (folder / "probe.nc").is_file():
            _refuse({"--runs": runs, "--data-dir": data_dir}, "a study", "a probe")
            text = _probe_page(result, path, inputs, decode, title, out)
        else:
            _refuse({"--inputs": inputs, "--decode": decode, "--title": title}, "a probe", "a study")
            from nearzero.study import Study

            study = Study.open(result)
            text = study.to_html(path, runs=runs, data_dir=data_dir)
            missing = [step for step in ("verdict", "audit") if step not in study.done]
    following = f"; next: nearzero {missing[0]} {result}" if missing else ""
    line = f"{path}: {len(text.encode()) / 1e6:.1f} MB; open it in a browser{following}"
    finish(console, lines=[line])


def _refuse(options: dict[str, Any], of: str, found: str) -> None:
    """Refuse options of the other kind of result.

    Raises:
        InputError: one of them was given.
    """
    given = [name for name, value in options.items() if value]
    if given:
        raise InputError(
            f"{' and '.join(given)} belong to the page of {of}, and this is {found}; leave them out"
        )


def _probe_page(
    result: Path, path: Path, inputs: Path | None, decode: str | None, title: str, out: Path | None
) -> str:
    """Write the page of a probe, and return it."""
    import numpy as np

    from nearzero.probing import ProbeResult
    from nearzero.torch_models.loading import object_of

    options = {"--inputs": inputs, "--decode": decode, "--title": title, "--out": out}
    words = [f"{name} {shlex.quote(str(value))}" for name, value in options.items() if value]
    try:
        held = None if inputs is None else np.load(inputs, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{inputs} can't be read as a .npy file: {error}") from error
    return ProbeResult.open(result).to_html(
        path,
        title=title,
        inputs=held,
        decode=None if decode is None else object_of(decode, "a decoder"),
        code=" ".join(["nearzero page", shlex.quote(str(result)), *words]),
    )
