"""What produced a result: versions, platform, git state. No paths, no names of machines or users."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from nearzero.errors import InputError
from nearzero.support.files import read_bytes, write_text
from nearzero.support.threads import thread_count

__all__ = ["read_record", "record_sitting"]

# A sitting is a process, however many steps of a study it takes.
STARTED = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
RECORD = "provenance.json"
PACKAGES = ("nearzero", "torch", "numpy", "numba", "scipy", "xarray", "h5netcdf", "safetensors")


def read_record(folder: Path) -> dict[str, Any]:
    """What is known of where the results in a folder come from; empty where nothing is.

    Raises:
        InputError: the file can't be read, or isn't such a record.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        return dict(json.loads(read_bytes(path)))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} isn't a record of nearzero: {error}; delete the folder and begin again"
        ) from error


def record_sitting(folder: Path, record: dict[str, Any], device: str) -> None:
    """Add this process to the sittings of a record, and make it the record of a folder."""
    now = {
        "started": STARTED,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "device": device,
        "threads": thread_count(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git": _git_state(),
    }
    sittings = record.setdefault("sittings", [])
    if now not in sittings:
        sittings.append(now)
    write_text(folder / RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        found = re.search(r"^model name.*?:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


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
