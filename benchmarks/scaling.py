"""How work grows: seconds and memory of 10 to 1,000 runs, and how soon a grid of 200 points plans and starts.

python benchmarks/scaling.py            # both
python benchmarks/scaling.py --runs     # a study of a small network
python benchmarks/scaling.py --grid     # a grid

Each measurement is a process of its own, which first does a study of two runs, so that imports and kernels don't
count. A second of the processor is one in which this process had one of the processors; on a machine with nothing
else to do, that is about a second of the clock for work on one thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

RUNS = (10, 100, 1000)
SETTINGS: dict[str, Any] = {
    "data": "digits",
    "activations": ["relu"],
    "units": 16,
    "steps": 200,
    "batch_size": 64,
    "evaluate_every": 50,
    "learning_rate": 0.01,
}
POINTS = 200


def measure_study(runs: int) -> dict[str, float]:
    """Return seconds of the clock and of the processor, and peak memory in MB, of training and sweeping a study."""
    import nearzero as nz

    with tempfile.TemporaryDirectory() as folder:
        nz.Study.create(f"{folder}/warm", "quick", SETTINGS | {"runs": 2}).train().sweep()
        clock, processor = time.monotonic(), time.process_time()
        nz.Study.create(f"{folder}/study", "quick", SETTINGS | {"runs": runs}).train().sweep()
        return {
            "clock": time.monotonic() - clock,
            "processor": time.process_time() - processor,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def measure_grid(what: str) -> dict[str, float]:
    """Return the seconds from the start of the process until a grid has its plan, or until its first job begins."""
    from nearzero.grid import Grid, GridSpec
    from nearzero.study.steps import TrainJob

    study = {key: value for key, value in SETTINGS.items() if key != "units"} | {"runs": 10}
    spec = GridSpec(title="Width", vary="units", values=list(range(8, 8 + POINTS)), study=study)
    began = time.clock_gettime(time.CLOCK_BOOTTIME) - _age()

    def seconds() -> dict[str, float]:
        return {
            "clock": time.clock_gettime(time.CLOCK_BOOTTIME) - began,
            "processor": time.process_time(),
        }

    class Begun(Exception):
        pass

    def begin(*_: object) -> None:
        raise Begun

    with tempfile.TemporaryDirectory() as folder:
        if what == "plan":
            Grid.proposed(f"{folder}/grid", spec).plan()
            return seconds()
        TrainJob.do_reporting = begin  # type: ignore[method-assign]
        try:
            Grid.create(f"{folder}/grid", spec).run()
        except Begun:
            return seconds()
    raise AssertionError("no job was begun")


def _age() -> float:
    """Return the seconds since this process was started."""
    import os

    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def elsewhere(*arguments: str) -> dict[str, float]:
    """Return what this script measures with other arguments, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", action="store_true", help="only the study")
    parser.add_argument("--grid", action="store_true", help="only the grid")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        kind, what = arguments.one
        print(json.dumps(measure_study(int(what)) if kind == "study" else measure_grid(what)))
        return
    if not arguments.grid:
        print(f"{'runs':>6}  {'clock, ms/run':>14}  {'processor, ms/run':>18}  {'peak memory, MB':>16}")
        whole = dict[int, float]()
        for runs in RUNS:
            found = elsewhere("--one", "study", str(runs))
            whole[runs] = 1000 * found["processor"]
            clock, processor = (1000 * found[key] / runs for key in ("clock", "processor"))
            print(f"{runs:>6}  {clock:>14.1f}  {processor:>18.1f}  {found['memory']:>16.0f}", flush=True)
        more = [
            (after - before) / (runs - fewer) for (fewer, before), (runs, after) in pairwise(whole.items())
        ]
        each = ", then ".join(f"{milliseconds:.1f} ms" for milliseconds in more)
        print(
            f"one run more: {each} of the processor; a study: {whole[RUNS[0]] - more[0] * RUNS[0]:.0f} ms on top"
        )
    if not arguments.runs:
        for what, words in (("plan", "has its plan"), ("start", "begins its first job")):
            found = elsewhere("--one", "grid", what)
            print(
                f"a grid of {POINTS} points {words} after {found['clock']:.1f} s ({found['processor']:.1f} s of the "
                "processor), start of Python included"
            )


if __name__ == "__main__":
    main()
