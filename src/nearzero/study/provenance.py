"""The record of programs and machines behind a result, without paths and names of machines or users."""

from __future__ import annotations

import datetime
import json
import platform
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nearzero.support.checksums import read_recorded, write_recorded
from nearzero.support.files import parsing
from nearzero.support.threads import thread_count
from nearzero.support.versions import versions_of

__all__ = ["RECORD", "read_record", "record_session"]

# A session is a process, in which any number of a study's steps are done. Its key on disk is "sittings".
STARTED = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
RECORD = "provenance.json"
PACKAGES = ("nearzero", "torch", "numpy", "numba", "scipy", "xarray", "h5netcdf", "safetensors")


def read_record(folder: Path, keys: Sequence[str] = ("name", "source", "sha256")) -> dict[str, Any]:
    """Return the record in a folder; empty if there is none.

    Args:
        folder: of a study or a grid.
        keys: of the record of a study's data.

    Raises:
        InputError: the file can't be read, or isn't such a record.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    remedy = "restore it, or delete it: the next step begins a new record"
    content = read_recorded(folder, path, remedy)
    with parsing(path, remedy):
        record = dict(json.loads(content))
        for key in keys if "data" in record else ():
            record["data"][key]
        for session in record.get("sittings", []):
            dict(session["versions"])
        return record


def record_session(folder: Path, record: dict[str, Any], device: str) -> None:
    """Add this process to the sessions of a record, and write the record into a folder."""
    session = {
        "started": STARTED,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "device": device,
        "threads": thread_count(),
        "versions": versions_of(PACKAGES),
        "git": _git_state(folder),
    }
    sessions = record.setdefault("sittings", [])
    if session not in sessions:
        sessions.append(session)
    content = json.dumps(record, indent=2, sort_keys=True) + "\n"
    write_recorded(folder, folder / RECORD, content.encode())


def _processor() -> str:
    try:
        model = re.search(r"^model name.*?:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        model = None
    return model[1].strip() if model else platform.processor() or platform.machine()


def _git_state(own: Path) -> dict[str, Any] | None:
    """Return the commit of nearzero's checkout, and whether it is changed; None outside a checkout.

    Changed files and new ones that aren't ignored count, except those in the folder that is being written.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        # no shell, and nothing of a user in the command
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
        return done.stdout.strip()

    try:
        if git("ls-files", Path(__file__).name) == "":
            return None  # installed in a folder of another repository
        *words, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        top, own = Path("\n".join(words)), own.resolve()
        others = (
            [f":(top,exclude,literal){own.relative_to(top)}"]
            if own.is_relative_to(top) and own != top
            else []
        )
        changes = git("status", "--porcelain", "--untracked-files=all", "--", ":(top)", *others)
        return {"commit": commit, "changed": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None
