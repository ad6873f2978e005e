"""What produced a result: versions, platform, git state. No paths, no names of machines or users."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["sitting"]

# A sitting is a process, however many steps of a study it takes.
STARTED = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
PACKAGES = ("nearzero", "torch", "numpy", "numba", "scipy", "xarray", "h5netcdf", "safetensors")


def sitting(device: str, threads: int) -> dict[str, Any]:
    """A record of this process, for one sitting of a study."""
    return {
        "started": STARTED,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "device": device,
        "threads": threads,
        "versions": {name: _version(name) for name in PACKAGES},
        "git": _git_state(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout that nearzero runs from, and whether it has changes; None outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if git("ls-files", Path(__file__).name) == "":
            return None  # installed inside somebody else's repository
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
