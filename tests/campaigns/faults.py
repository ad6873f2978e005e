"""Run commands under faults of the system, run them again without, and compare all results with whole ones.

    python tests/campaigns/faults.py                          # 60 faults, over all kinds and commands
    python tests/campaigns/faults.py --faults 6 --kind disk   # fewer, of one kind

A fault is a disk that is full or read-only, a limit of the size of files, of open files or of memory, or a second
process that does the same. A command that can't go on says so in one line, with exit code 2; and what it leaves behind
damages nothing. The same seed gives the same shares of the limits. Disks need root on Linux, which can mount them.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from kills import ALL, Made, commands, completed, folders, start

ON_DISKS = ("disk", "read-only")
ANYWHERE = ("file size", "open files", "memory", "two processes")
KINDS = (*ON_DISKS, *ANYWHERE)
LIMITED = (
    "import os, resource, sys; most = int(sys.argv[2]); "
    "resource.setrlimit(getattr(resource, sys.argv[1]), (most, most)); os.execv(sys.argv[3], sys.argv[3:])"
)
LONGEST = 20  # times the duration of the command


def can_mount() -> bool:
    """Return whether this process can mount disks."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _disk(Path(folder), 2**20):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def _disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a disk of so many bytes, in memory."""
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def _sizes(folder: Path) -> list[int]:
    """Return the bytes of each file in a folder, in pages, as disks in memory count them."""
    return [-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file()]


@dataclass
class Outcome:
    """How a command ended under a fault, and whether it can be run again.

    Attributes:
        codes: the exit code of each process.
        faults: a line for each thing that went wrong.
    """

    codes: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def wait(self, process: subprocess.Popen[str], seconds: float, *, may_die: bool = False) -> None:
        """Wait for the end of a process.

        Args:
            process: of the command.
            seconds: the time after which it hangs.
            may_die: whether a library may end the process, as some do if memory is refused to them.
        """
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.faults.append(f"hangs for {seconds:.0f} s")
            return
        code, last = process.returncode, (said.strip().splitlines() or [""])[-1]
        self.codes.append(code)
        of_nearzero = last.startswith("nearzero: ")
        died = may_die and code != 2 and not of_nearzero  # OpenBLAS says so itself, and ends the process
        if "Traceback" in said or not (code == 0 or died or (code == 2 and of_nearzero)):
            self.faults.append(f"ends with {code}: {said[-600:]!r}")


def under_fault(made: Made, name: str, kind: str, share: float) -> Outcome:
    """Run a command under a fault, then to its end without, and return what happened.

    Args:
        made: folders before and after the command.
        name: of the command.
        kind: of the fault.
        share: of the limit, from 0 to 1.
    """
    command, longest, outcome = commands()[name], 60 + LONGEST * made.seconds, Outcome()
    before, after = (sum(_sizes(folder)) for folder in (made.base, made.whole))
    limits = {
        "file size": ("RLIMIT_FSIZE", share * max(_sizes(made.whole / command.results))),
        "open files": ("RLIMIT_NOFILE", 8 + 40 * share),
        "memory": ("RLIMIT_AS", 2**30 * 4**share),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        if kind in ON_DISKS:
            folder.mkdir()
            with _disk(folder, 2 * after):
                shutil.copytree(made.base, folder, dirs_exist_ok=True)
                size = before + int(share * (after - before)) + 2**16
                _mount("-o", "remount,ro" if kind == "read-only" else f"remount,size={size}", folder)
                outcome.wait(start(folder, command), longest)
                _mount("-o", f"remount,rw,size={2 * after}", folder)
                outcome.faults += completed(folder, made.whole, name)
            return outcome
        shutil.copytree(made.base, folder)
        if kind == "two processes":
            processes = [start(folder, command) for _ in range(2)]
        else:
            limit, most = limits[kind]
            processes = [start(folder, command, [sys.executable, "-c", LIMITED, limit, str(int(most))])]
        for process in processes:
            outcome.wait(process, longest, may_die=kind == "memory")
        outcome.faults += completed(folder, made.whole, name)
        return outcome


def campaign(
    kinds: Sequence[str],
    names: Sequence[str],
    faults: int,
    seed: int,
    done: Callable[[str, Outcome], None] = lambda what, outcome: None,
) -> Mapping[str, Outcome]:
    """Return the outcome of each fault, by a text that tells which; call a function with each.

    Kinds and commands take turns: each kind meets each command before one meets another twice.
    """
    rng, found = random.Random(seed), dict[str, Outcome]()
    turns = range(len(kinds))
    pairs = [(kinds[(place + turn) % len(kinds)], name) for turn in turns for place, name in enumerate(names)]
    with folders() as made_of:
        for number in range(faults):
            kind, name = pairs[number % len(pairs)]
            share = rng.random()
            what = f"{name}, {kind} at {share:.3f}"
            found[what] = under_fault(made_of(name), name, kind, share)
            done(what, found[what])
    return found


def possible_kinds() -> list[str]:
    """Return the kinds of faults that this machine can have."""
    return [*KINDS] if can_mount() else [*ANYWHERE]


def main(given: Sequence[str] | None = None) -> int:
    """Run the campaign from the command line; return 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", default=[*ALL], metavar="COMMAND")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, help="may be repeated; all that this machine can do"
    )
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(given)
    kinds = options.kind or possible_kinds()

    def done(what: str, outcome: Outcome) -> None:
        codes = ", ".join(map(str, outcome.codes))
        print(
            f"{what}: exit code {codes}{'' if outcome.faults else '; then equal'}",
            *outcome.faults,
            sep="\n  ",
            flush=True,
        )

    found = campaign(kinds, options.commands, options.faults, options.seed, done)
    return 1 if any(outcome.faults for outcome in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
