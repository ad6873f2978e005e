"""List or run the long tests. They check at full size the laws that shorter tests of `make test` check on samples.

python .ci/long_tests.py                              # list them, with the outcome that is kept
python .ci/long_tests.py --run                        # run them, one after the other: `make test-long`
python .ci/long_tests.py --run tests/page -k papers   # run some of them; the arguments are pytest's

As soon as a test has ended, its outcome is kept in `results/test-long.json`, with date, commit, versions, processor and
duration. So they can be run in parts, and each outcome says which code it belongs to.
"""

from __future__ import annotations

import contextlib
import io
import json
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import pytest

KEPT = Path("results/test-long.json")
PACKAGES = ("nearzero", "numpy", "numba", "llvmlite", "scipy", "torch", "pytest")
FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "neon")


def main(arguments: list[str]) -> int:
    """Run or list the long tests."""
    if "--run" in arguments:
        chosen = [argument for argument in arguments if argument != "--run"]
        return int(pytest.main(["-m", "long", "-p", "no:cacheprovider", *chosen], plugins=[Keeper()]))
    for test, law in long_tests().items():
        print(f"{test}: {law}; {last_outcome(test)}")
    return 0


class Keeper:
    """A pytest plugin that keeps the outcome of each long test that runs.

    Attributes:
        laws: of the tests that were collected, by their names.
    """

    def __init__(self) -> None:
        self.laws: dict[str, str] = {}
        self._outcomes: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Record the laws."""
        for item in items:
            for marker in item.iter_markers("long"):
                self.laws[item.nodeid] = marker.args[0]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        """Keep the outcome of a test, and its duration, fixtures included."""
        self._outcomes = []
        began = time.monotonic(), processor_seconds()
        result = yield
        outcome = {
            "law": self.laws[item.nodeid],
            "outcome": ", ".join(self._outcomes),
            "seconds": round(time.monotonic() - began[0]),
            "processor_seconds": round(processor_seconds() - began[1]),
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            **where(),
        }
        KEPT.write_text(
            json.dumps(kept() | {item.nodeid: outcome}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a test; of setup and teardown only if they don't pass."""
        if report.when == "call" or not report.passed:
            reason = f" ({report.longrepr[2]})" if isinstance(report.longrepr, tuple) else ""
            self._outcomes.append(report.outcome + reason)


def long_tests() -> dict[str, str]:
    """Return the law of each long test, by its name. Only files that contain the marker are collected."""
    files = [
        str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.long" in path.read_text()
    ]
    keeper = Keeper()
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = pytest.main(["--collect-only", "-m", "long", *files], plugins=[keeper])
    if status:
        raise SystemExit(f"long tests can't be collected:\n{output.getvalue()}")
    return keeper.laws


def kept() -> dict[str, dict[str, Any]]:
    """Return the outcomes that are kept, by the names of the tests."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}


def last_outcome(test: str) -> str:
    """Return in words how a test ended when it ran last: "passed in 36 s on 2026-11-29 06:45 UTC, at 874cfdf"."""
    if test not in kept():
        return "no outcome is kept"
    last = kept()[test]
    return f"{last['outcome']} in {last['seconds']} s on {last['date']}, at {last['commit']}"


@cache
def where() -> dict[str, str]:
    """Return the commit, the versions and the processor."""
    changed = git("status", "--porcelain", "--", "src", "tests")
    return {
        "commit": git("rev-parse", "--short", "HEAD")
        + (" and changes that aren't committed" if changed else ""),
        "versions": f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
        "processor": processor(),
    }


def git(*arguments: str) -> str:
    """Run git; return its output."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """Return the processor's name in LLVM, and those of its features on which the layout of the kernels depends."""
    features = (numba.config.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten()).split(",")
    present = [name for name in FEATURES if f"+{name}" in features]
    name = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    return f"{platform.machine()}, {name}: {', '.join(present) or 'none of ' + ', '.join(FEATURES)}"


def processor_seconds() -> float:
    """Return the processor time of this process and of its child processes that have ended, in seconds."""
    usages = (resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
