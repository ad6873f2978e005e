"""Read mutated files in child processes, one after the other, and print the outcome of each as JSON.

`python tests/campaigns/cases.py ORIGINALS FOLDER SEED [[READER, FIRST, LAST], ...]` reads the cases FIRST to LAST - 1
of each reader. It ends as a child does that dies or hangs; `campaign.py` then starts it again behind that case.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Container, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from xarray import DataTree

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]

from hdf5_checksums import checked_parts, fitted
from readers import READERS

from nearzero.errors import InputError
from nearzero.grid import grid
from nearzero.probing import saved
from nearzero.support.netcdf import load_netcdf

FITTED = 0.8  # the share of changed files of results whose inner checksums fit
SECONDS = 10.0  # of the processor
WAITING = 60  # times as long by the clock, since others may use the processor too
BATCH = 500  # cases of one process, so that what one leaves behind doesn't hide another


def outcome(error: BaseException | None) -> tuple[str, str]:
    """Return "accepted", "refused" or "fault", and the words."""
    if error is None:
        return "accepted", ""
    words = str(error)
    if not isinstance(error, InputError):
        return "fault", f"{type(error).__name__}: {words[:300]}"
    if not words or "\n" in words or len(words) > 2000:
        return "fault", f"not one clear line: {words[:300]!r}"
    return "refused", words


def _limit(seconds: float) -> None:
    """End this process after so many seconds; 0: never."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAITING * seconds)


def parse_once(whole: Container[bytes]) -> None:
    """Let probes and grids keep what is in whole files, as studies do: each case parses the changed file alone."""
    parsed: dict[bytes, DataTree] = {}

    def load(content: bytes, source: object, remedy: str) -> DataTree:
        if content not in whole:
            return load_netcdf(content, source, remedy)
        if content not in parsed:
            parsed[content] = load_netcdf(content, source, remedy)
        return parsed[content].copy(deep=True)

    for module in (grid, saved):
        module.load_netcdf = load  # type: ignore[attr-defined]


def cases(originals: Path, folder: Path, name: str, seed: int, numbers: range) -> Iterator[dict[str, object]]:
    """Yield the outcome of each case; a line before each says which one is read."""
    reader = READERS[name]
    work = folder / reader.folder
    shutil.copytree(originals / reader.folder, work, dirs_exist_ok=True)
    paths = sorted({path for glob in reader.files for path in (originals / reader.folder).glob(glob)})
    contents = {path: path.read_bytes() for path in paths}
    parts = {path: checked_parts(content) for path, content in contents.items() if path.suffix == ".nc"}
    parse_once(set(contents.values()))
    for path in paths:  # whole files are accepted, and what is slow the first time isn't counted
        with redirect_stdout(StringIO()):
            reader.read(work / path.relative_to(originals / reader.folder))
    for number in numbers:
        rng = random.Random(f"{seed} {name} {number}")
        path = paths[rng.randrange(len(paths))]
        target = work / path.relative_to(originals / reader.folder)
        content = reader.change(contents[path], rng, list(contents.values()))
        if rng.random() < FITTED:
            content = fitted(content, contents[path], parts.get(path, []))
        target.write_bytes(content)
        which = {"reader": name, "case": number}
        print(json.dumps(which | {"file": str(target.relative_to(work))}), flush=True)
        before, began, error = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic(), None
        _limit(SECONDS)
        try:
            with redirect_stdout(StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                reader.read(target)
        except BaseException as raised:
            error = raised
        _limit(0.0)
        kind, words = outcome(error)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        target.write_bytes(contents[path])
        yield which | {"outcome": kind, "words": words, "MiB": grown, "s": time.monotonic() - began}


def read_in_child(originals: Path, folder: Path, name: str, seed: int, numbers: range) -> int:
    """Print the outcomes of cases that a copy of this process reads; return its exit code, -9 for signal 9."""
    child = os.fork()
    if child == 0:
        for case in cases(originals, folder, name, seed, numbers):
            print(json.dumps(case), flush=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(given: list[str]) -> None:
    """Read all cases, or end as the first child that doesn't read its own."""
    originals, folder, seed = Path(given[0]), Path(given[1]), int(given[2])
    for name, first, last in json.loads(given[3]):
        for begin in range(first, last, BATCH):
            code = read_in_child(originals, folder, name, seed, range(begin, min(begin + BATCH, last)))
            if code < 0:
                os.kill(os.getpid(), -code)
            if code:
                sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
