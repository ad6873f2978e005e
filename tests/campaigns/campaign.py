"""Mutated files for every reader: each is accepted, or refused in one clear line, in time and within memory.

    python tests/campaigns/campaign.py                           # 10,000 for each reader
    python tests/campaigns/campaign.py --cases 200 npy           # fewer, for one reader
    python tests/campaigns/campaign.py --cases 1000 probe-values # whole files with other values, not other bytes

The same seed gives the same files. `make test-long` runs it in full, and the gate a short form.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
MOST_MEBIBYTES = 1024


@dataclass
class Found:
    """The outcomes of the cases of one reader.

    Attributes:
        outcomes: how many were accepted, refused or at fault.
        faults: a line for each fault, with the number of its case.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, case: int, kind: str, words: str) -> None:
        """Count an outcome."""
        self.outcomes[kind] += 1
        if kind == "fault":
            self.faults.append(f"case {case}: {words}")


def run_cases(
    originals: Path, readers: Sequence[str], cases: int, seed: int = 0, first: int = 0
) -> dict[str, Found]:
    """Return the outcomes of cases of each reader, in a child process for all; in another one after each death."""
    found = {reader: Found() for reader in readers}
    left = {reader: range(first, first + cases) for reader in readers}
    while any(left.values()):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(HERE / "cases.py"), str(originals), folder, str(seed)]
            work = [[reader, numbers.start, numbers.stop] for reader, numbers in left.items()]
            done = subprocess.run([*command, json.dumps(work)], capture_output=True, text=True, check=False)
        reading = None
        for line in map(json.loads, done.stdout.splitlines()):
            reader, case = line["reader"], line["case"]
            reading = None if "outcome" in line else line
            if reading is None:
                kind, words = line["outcome"], line["words"]
                if line["MiB"] > MOST_MEBIBYTES:
                    kind, words = "fault", f"took {line['MiB']} MiB; {words}"
                found[reader].add(case, kind, words)
            left[reader] = range(case + 1, first + cases)
        if reading is not None:
            why = f"the process ended with {done.returncode} (-27, -14: too slow); {done.stderr[-300:]!r}"
            found[reading["reader"]].add(reading["case"], "fault", f"{reading['file']}: {why}")
        elif done.returncode:
            raise RuntimeError(done.stderr)
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Run the campaign from the command line; return 1 if there is a fault."""
    sys.path.insert(0, str(HERE))
    from readers import BY_BYTES, READERS, make_originals

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "readers", nargs="*", default=BY_BYTES, metavar="READER", help=f"of {', '.join(READERS)}"
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(given)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        originals = Path(folder) / "originals"
        make_originals(originals)
        for reader in options.readers:
            found = run_cases(originals, [reader], options.cases, options.seed, options.first)[reader]
            counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.outcomes.items()))
            print(f"{reader}: {counts}", *found.faults[:20], sep="\n  ", flush=True)
            faults += len(found.faults)
    print("no fault" if not faults else f"{faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
