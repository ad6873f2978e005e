"""The long tests: laws at full size, which shorter tests hold in `make test`.

python .ci/long_tests.py            # what they are
python .ci/long_tests.py --run      # run them, one after the other: `make test-long`

The outcome is kept in `results/test-long.txt`: when, on which commit, with what versions, on what processor, how long.
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


def spent() -> float:
    """Processor seconds of this process and of those that it has started and that have ended."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in each)


class Listener:
    """Notes each long test: its law, and when it's run, its outcome and how long it took."""

    def __init__(self) -> None:
        self.laws: dict[str, str] = {}
        self.outcomes: dict[str, list[str]] = {}
        self.seconds: dict[str, tuple[float, float]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note the laws."""
        for item in items:
            for marker in item.iter_markers("long"):
                self.laws[item.nodeid] = marker.args[0]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        """Note how long a test takes, its fixtures included."""
        began = time.monotonic(), spent()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - began[0], spent() - began[1]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note an outcome; a setup or teardown that passes says nothing."""
        if report.when == "call" or not report.passed:
            reason = f" ({report.longrepr[2]})" if isinstance(report.longrepr, tuple) else ""
            self.outcomes.setdefault(report.nodeid, []).append(report.outcome + reason)


def long_tests() -> dict[str, str]:
    """The law of each long test, by its name: only files that mention the marker are collected."""
    files = [
        str(path) for path in sorted(Path("tests").rglob("test_*.py")) if "mark.long" in path.read_text()
    ]
    listener = Listener()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = pytest.main(["--collect-only", "-m", "long", *files], plugins=[listener])
    if status:
        raise SystemExit(f"long tests can't be collected:\n{said.getvalue()}")
    return listener.laws


def git(*arguments: str) -> str:
    """What git says."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """Its name as LLVM knows it, and which of the features it has that decide how kernels are cut."""
    known = numba.config.CPU_FEATURES or llvmlite.binding.get_host_cpu_features().flatten()
    has = [name for name in FEATURES if f"+{name}" in known.split(",")]
    name = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    return f"{platform.machine()}, {name}: {', '.join(has) or 'none of ' + ', '.join(FEATURES)}"


def run() -> int:
    """Run them; keep the outcome; gives pytest's exit status."""
    changed = git("status", "--porcelain", "--", "src", "tests")
    commit = git("rev-parse", "--short", "HEAD") + (" and changes that aren't committed" if changed else "")
    listener, began = Listener(), (time.monotonic(), spent())
    status = int(pytest.main(["-m", "long", "-p", "no:cacheprovider"], plugins=[listener]))
    wall, cpu = time.monotonic() - began[0], spent() - began[1]
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
        lines += [
            test,
            f"    {law}",
            "    {}, {:.0f} s, {:.0f} s of processor time".format(
                outcome, *listener.seconds.get(test, (0, 0))
            ),
        ]
    KEPT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(KEPT.read_text(encoding="utf-8"))
    return status


def main() -> int:
    """Run or list."""
    if "--run" in sys.argv:
        return run()
    for test, law in long_tests().items():
        print(f"{test}: {law}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
