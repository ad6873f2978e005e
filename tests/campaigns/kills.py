"""Kill commands at random moments, run them again, and compare all results with those of an uninterrupted run.

    python tests/campaigns/kills.py                      # 100 kills, over all commands
    python tests/campaigns/kills.py --kills 6 grid probe # fewer, of some commands

The same seed gives the same shares of the duration; the moment itself depends on the machine.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import xarray as xr

sys.path.insert(0, str(Path(__file__).parent))
from readers import GRID

import nearzero as nz
from nearzero.support.files import cache_root

STUDY = {
    **{"data": "digits", "units": 16, "runs": 6, "steps": 300, "batch_size": 64, "evaluate_every": 50},
    **{"learning_rate": 0.01, "verdict_draws": 2, "verdict_targets": [0.1, 0.3]},
}
MODEL = """\
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))
"""
PASSING = {
    "log",
    ".lock",
    "provenance.json",
    "checksums",
    "page.html",
}  # they hold times, or sums of what does
ALL = ("train", "sweep", "report", "verdict", "audit", "grid", "probe", "fetch")


@dataclass(frozen=True)
class Command:
    """A command, what must be there before it, and the folder of its results.

    Attributes:
        arguments: of `nearzero`, in a folder with the files that they name.
        before: the commands that come first.
        results: the folder that is compared.
    """

    arguments: Sequence[str]
    before: Sequence[str] = ()
    results: str = "study"


def commands() -> dict[str, Command]:
    """Return the commands by name."""
    return {
        "train": Command(["train", "study"]),
        "sweep": Command(["sweep", "study"], ("train",)),
        "report": Command(["report", "study"], ("train", "sweep")),
        "verdict": Command(["verdict", "study", "--untrained", "--near-far"], ("train", "sweep")),
        "audit": Command(["audit", "study"], ("train", "sweep")),
        "grid": Command(["grid", "grid.toml", "--out", "grids/width"], results="grids"),
        "probe": Command(["probe", "model.py:model", "--data", "digits", "--out", "probe"], results="probe"),
        "fetch": Command(["data", "fetch", "mnist"], results="cache/datasets"),
    }


def start(folder: Path, command: Command, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a command in a folder, as the arguments of another program if there is one."""
    environment = os.environ | {"NEARZERO_CACHE": str(folder / "cache"), "NEARZERO_SAVE_EVERY": "0"}
    program = [*under, sys.executable, "-m", "nearzero", *command.arguments]
    return subprocess.Popen(
        program,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def complete(folder: Path, command: Command) -> float:
    """Run a command to its end, and return its duration in seconds."""
    began = time.monotonic()
    process = start(folder, command)
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(
            f"nearzero {' '.join(command.arguments)} ended with {process.returncode}: {said[-2000:]}"
        )
    return time.monotonic() - began


def prepare(folder: Path) -> None:
    """Make a folder with the files that commands name, and kernels: else most of the time would go to compilation."""
    folder.mkdir(parents=True)
    (folder / "grid.toml").write_text(GRID)
    (folder / "model.py").write_text(MODEL)
    nz.Study.create(folder / "study", "quick", STUDY)
    if (kernels := cache_root() / "kernels").is_dir():
        shutil.copytree(kernels, folder / "cache" / "kernels")
    complete(folder, Command(["compile"]))


@dataclass(frozen=True)
class Made:
    """Two folders, one before a command and one after it.

    Attributes:
        base: the folder in which the command can be run.
        whole: the folder in which it was run.
        seconds: its duration.
    """

    base: Path
    whole: Path
    seconds: float

    @classmethod
    def of(cls, begun: Path, folder: Path, name: str) -> Made:
        """Run a command, and those that come before it, on copies of a prepared folder."""
        base, whole = (folder / f"{each}-{name}" for each in ("base", "whole"))
        shutil.copytree(begun, base)
        for earlier in commands()[name].before:
            complete(base, commands()[earlier])
        shutil.copytree(base, whole)
        return cls(base, whole, complete(whole, commands()[name]))


@contextmanager
def folders() -> Iterator[Callable[[str], Made]]:
    """Yield a function that returns the two folders of a command, which are made when it is first asked for."""
    with tempfile.TemporaryDirectory() as place:
        prepare(begun := Path(place) / "begun")
        yield cache(partial(Made.of, begun, Path(place)))


def _files(folder: Path) -> dict[str, Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in PASSING)
    return {str(path.relative_to(folder)): path for path in files if not path.name.endswith((".png", ".pdf"))}


def differences(found: Path, expected: Path) -> Iterator[str]:
    """Yield the files in which two folders of results differ; pictures must be there, and aren't compared."""
    one, other = _files(found), _files(expected)
    yield from sorted(one.keys() ^ other.keys())
    for name in sorted(one.keys() & other.keys()):
        if name.endswith(".nc"):
            with xr.open_datatree(one[name]) as left, xr.open_datatree(other[name]) as right:
                if not left.load().identical(right.load()):
                    yield name
        elif one[name].read_bytes() != other[name].read_bytes():
            yield name
    pictures = [{path.name for path in folder.rglob("*.p[nd][gf]")} for folder in (found, expected)]
    yield from sorted(pictures[0] ^ pictures[1])


def killed_and_resumed(made: Made, name: str, shares: Sequence[float]) -> list[str]:
    """Kill a command once for each share of its duration, run it to its end, and return what differs."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        shutil.copytree(made.base, folder)
        for share in shares:
            process = start(folder, commands()[name])
            try:
                process.communicate(timeout=share * made.seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return completed(folder, made.whole, name)


def completed(folder: Path, whole: Path, name: str) -> list[str]:
    """Run a command to its end, and return in which files its results differ from whole ones, or how it failed."""
    command = commands()[name]
    try:
        complete(folder, command)
    except RuntimeError as error:
        return [str(error)]
    found = differences(folder / command.results, whole / command.results)
    # the cache has no lock: unfinished files are removed once they are too old to be another process's
    return [line for line in found if name != "fetch" or not line.endswith(".part")]


def campaign(
    names: Sequence[str],
    kills: int,
    seed: int,
    done: Callable[[str, list[str]], None] = lambda name, lines: None,
) -> Mapping[str, list[str]]:
    """Return, by command, a line for each difference after a kill; call a function with those of each command."""
    rng, faults = random.Random(seed), {}
    with folders() as made_of:
        for place, name in enumerate(names):
            count = kills // len(names) + (place < kills % len(names))
            made, lines = made_of(name), []
            while count > 0:
                shares = [rng.random() for _ in range(min(rng.choice((1, 1, 2, 3)), count))]
                count -= len(shares)
                lines += [
                    f"killed at {', '.join(f'{share:.3f}' for share in shares)} of {made.seconds:.1f} s: {line}"
                    for line in killed_and_resumed(made, name, shares)
                ]
            faults[name] = lines
            done(name, lines)
    return faults


def main(given: Sequence[str] | None = None) -> int:
    """Run the campaign from the command line; return 1 if results differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=[*ALL], metavar="COMMAND")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(given)

    def done(name: str, lines: list[str]) -> None:
        print(f"{name}: {'equal after every kill' if not lines else ''}", *lines, sep="\n  ", flush=True)

    found = campaign(options.commands, options.kills, options.seed, done)
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
