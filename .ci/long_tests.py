"""List or run the long tests. They check at full size the laws that shorter tests of `make test` check on samples.

python .ci/long_tests.py            # list them
python .ci/long_tests.py --run      # run them, one after the other: `make test-long`

The outcome is kept in `results/test-long.txt`, with date, commit, versions, processor and duration.
"""

from __future__ import annotations

import contextlib
import io
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import llvmlite.binding
import numba
import pytest

KEPT = Path("results/test-long.txt")
PACKAGES = ("nearzero", "numpy", "numba", "llvmlite", "scipy", "torch", "pytest")
FEATURES = ("avx2", "fma", "avx512f", "avx512bw", "neon")


def processor_seconds() -> float:
    """Return the processor time of this process and of its child processes that have ended, in seconds."""
    usages = (resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Listener:
    """A pytest plugin that records each long test: its law, and if it's run, its outcome and duration."""

    def __init__(self) -> None:
        self.laws: dict[str, str] = {}
        self.outcomes: dict[str, list[str]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Record the laws."""
        for item in items:
            for marker in item.iter_markers("long"):
                self.laws[item.nodeid] = marker.args[0]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        """Record the duration of a test, its fixtures included."""
        began = time.monotonic(), processor_seconds()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - began[0], processor_seconds() - began[1]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the outcome of a test; of setup and teardown only if they don't pass."""
        if report.when == "call" or not report.passed:
            reason = f" ({report.longrepr[2]})" if isinstance(report.longrepr, tuple) else ""
            self.outcomes.setdefault(report.nodeid, []).append(report.outcome + reason)


def long_tests() -> dict[str, str]:
    """Return the law of each long test, by its name. Only files that contain the marker are collected."""
    files = [
        str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.long" in path.read_text()
    ]
    listener = Listener()
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = pytest.main(["--collect-only", "-m", "long", *files], plugins=[listener])
    if status:
        raise SystemExit(f"long tests can't be collected:\n{output.getvalue()}")
    return listener.laws


def git(*arguments: str) -> str:
    """Run git; return its output."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """Return the processor's name in LLVM, and those of its features on which the layout of the kernels depends."""
    features = (numba.config.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten()).split(",")
    present = [name for name in FEATURES if f"+{name}" in features]
    name = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    return f"{platform.machine()}, {name}: {', '.join(present) or 'none of ' + ', '.join(FEATURES)}"


def run() -> int:
    """Run the long tests and keep the outcome; return pytest's exit status."""
    changed = git("status", "--porcelain", "--", "src", "tests")
    commit = git("rev-parse", "--short", "HEAD") + (" and changes that aren't committed" if changed else "")
    listener, began = Listener(), (time.monotonic(), processor_seconds())
    status = int(pytest.main(["-m", "long", "-p", "no:cacheprovider"], plugins=[listener]))
    wall, cpu = time.monotonic() - began[0], processor_seconds() - began[1]
    lines = [
        "The last `make test-long`: laws at full size, which shorter tests hold in `make test`.",
        "",
        f"date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"commit: {commit}",
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
        f"processor: {processor()}",
        f"took: {wall:.0f} s, {cpu:.0f} s of processor time",
        f"outcome: {'all passed' if status == 0 else f'FAILED (pytest says {status})'}",
        "",
    ]
    for test, law in listener.laws.items():
        outcome = ", ".join(listener.outcomes.get(test, ["not run"]))
        seconds, processor_time = listener.seconds.get(test, (0, 0))
        duration = f"{seconds:.0f} s, {processor_time:.0f} s of processor time"
        lines += [test, f"    {law}", f"    {outcome}, {duration}"]
    KEPT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(KEPT.read_text(encoding="utf-8"))
    return status


def main() -> int:
    """Run or list the long tests."""
    if "--run" in sys.argv:
        return run()
    for test, law in long_tests().items():
        print(f"{test}: {law}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
