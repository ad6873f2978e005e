"""Fuzz one reader with a fuzzer that is guided by coverage, Atheris, from whole files on.

    python tests/campaigns/guided.py npz                # 3,000 files
    python tests/campaigns/guided.py npz --seconds 60   # as many as it reads in a minute
    python tests/campaigns/guided.py npz --originals FOLDER   # whole files made before

The first byte of an input chooses which file of the reader it is. The dependency group `fuzz` is needed. A fault ends
it with 1, and is in the file `crash-...` of the working folder.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
import nearzero

PACKAGE = Path(nearzero.__file__).parent
# instrumented code can't be compiled
KERNELS = [f"nearzero.kernels.{path.stem}" for path in (PACKAGE / "kernels").glob("*.py")]
KERNELS += ["nearzero.training.readout_kernel"]
MAKE = "import sys; from pathlib import Path; from readers import make_originals; make_originals(Path(sys.argv[1]))"

with atheris.instrument_imports(include=["nearzero"], exclude=KERNELS):
    from cases import parse_once
    from hdf5_checksums import checked_parts, fitted
    from readers import BY_BYTES, READERS

    from nearzero.errors import InputError


def tester(paths: Sequence[Path], read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Return a function that reads bytes as one of several files; only an `InputError` of one line may leave it.

    The first byte chooses the file, which takes the others and is whole again afterwards. Inner checksums are made to
    fit, since else nearly all changes of results would be refused by them.
    """
    whole = {path: path.read_bytes() for path in paths}
    parts = {path: checked_parts(content) for path, content in whole.items() if path.suffix == ".nc"}
    parse_once(set(whole.values()))

    def test(given: bytes) -> None:
        if not given:
            return
        target = paths[given[0] % len(paths)]
        target.write_bytes(fitted(given[1:], whole[target], parts.get(target, [])))
        try:
            with redirect_stdout(StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(target)
        except InputError as error:
            if "\n" in str(error):
                raise RuntimeError(f"not one line: {error!r}") from error
        finally:
            target.write_bytes(whole[target])

    return test


def main() -> None:
    """Fuzz the files of a reader; the process ends with an error at the first fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=BY_BYTES)
    parser.add_argument("--runs", type=int, default=3000, help="files at most; -1: no limit")
    parser.add_argument("--seconds", type=int, help="stop after so many, whatever --runs says")
    parser.add_argument("--originals", type=Path, help="a folder with whole files; made anew if not given")
    given = parser.parse_args()
    name = given.reader
    limit = f"-runs={given.runs}" if given.seconds is None else f"-max_total_time={given.seconds}"
    with tempfile.TemporaryDirectory() as place:
        folder, reader = Path(place), READERS[name]
        if given.originals:
            shutil.copytree(given.originals, folder / "originals")
        else:  # in a process of its own, where nothing is instrumented
            command = [sys.executable, "-c", MAKE, str(folder / "originals")]
            subprocess.run(command, check=True, cwd=Path(__file__).parent)
        originals = folder / "originals" / reader.folder
        paths = sorted({path for glob in reader.files for path in originals.glob(glob)})[:256]
        corpus = folder / "corpus"
        corpus.mkdir()
        test, longest = tester(paths, reader.read), 0
        for number, path in enumerate(paths):
            content = bytes([number]) + path.read_bytes()
            (corpus / str(number)).write_bytes(content)
            longest = max(longest, len(content))
            test(content)  # what is slow the first time isn't counted: imports
        options = [limit, "-seed=1", "-timeout=60", "-rss_limit_mb=2048", f"-max_len={2 * longest}"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], test)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
