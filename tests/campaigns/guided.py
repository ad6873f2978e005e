"""Fuzz one reader with a coverage-guided fuzzer, Atheris, from the whole files on: `python guided.py READER RUNS`."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
with atheris.instrument_imports(include=["nearzero"]):
    from readers import READERS, make_originals

    from nearzero.errors import InputError


def tester(target: Path, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """Return a function that reads bytes as a file; only an `InputError` of one line may leave it."""

    def test(content: bytes) -> None:
        target.write_bytes(content)
        try:
            with redirect_stdout(StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(target)
        except InputError as error:
            if "\n" in str(error):
                raise RuntimeError(f"not one line: {error!r}") from error

    return test


def main(name: str, runs: int) -> None:
    """Fuzz the first file of a reader; the process ends with an error at the first fault."""
    with tempfile.TemporaryDirectory() as place:
        folder, reader = Path(place), READERS[name]
        make_originals(folder / "originals")
        originals = folder / "originals" / reader.folder
        paths = sorted(path for glob in reader.files for path in originals.glob(glob))
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, path in enumerate(paths):
            (corpus / str(number)).write_bytes(path.read_bytes())
        options = [f"-runs={runs}", "-seed=1", "-timeout=10", "-rss_limit_mb=2048", "-max_len=200000"]
        atheris.Setup([sys.argv[0], *options, str(corpus)], tester(paths[0], reader.read))
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
