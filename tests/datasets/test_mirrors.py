"""Downloads: several mirrors, a bound on waiting, and a check of every byte."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nearzero.datasets import NotFoundError, load, mirrors
from nearzero.datasets.registry import IDX_FILES

if TYPE_CHECKING:
    from conftest import Mirror, Tiny


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "SILENCE_SECONDS", 0.4)


def failure(said: list[str]) -> str:
    with pytest.raises(NotFoundError) as caught:
        load("mnist", report=said.append)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_all_files_come_from_the_first_mirror_that_has_them(
    tiny: Tiny, mirror: Mirror, second_mirror: Mirror, monkeypatch, said: list[str]
):
    mirror.offer(tiny.files)
    tiny.change(monkeypatch, mirrors=(mirror.url, second_mirror.url))
    assert load("mnist", report=said.append).source == "public mirror"
    assert mirror.asked == [f"{name}.gz" for name in IDX_FILES]
    assert mirror.encodings == {"identity"}, "no encoding on top of the gzip files"
    assert not second_mirror.asked
    assert said == [f"mnist: fetching from the public mirror {mirror.url[7:-7]}"]


def test_a_mirror_that_failed_is_not_asked_again(
    tiny: Tiny, mirror: Mirror, second_mirror: Mirror, monkeypatch, said: list[str]
):
    mirror.offer({IDX_FILES[0]: tiny.files[IDX_FILES[0]]})
    second_mirror.offer(tiny.files)
    tiny.change(monkeypatch, mirrors=(mirror.url, second_mirror.url))
    assert load("mnist", report=said.append).source == "public mirror"
    assert mirror.asked == [f"{name}.gz" for name in IDX_FILES[:2]]
    assert second_mirror.asked == [f"{name}.gz" for name in IDX_FILES[1:]], (
        "what was had is not fetched twice"
    )
    assert said[1].endswith("failed: HTTP status 404")


def test_a_mirror_may_unpack_what_it_sends(tiny: Tiny, mirror: Mirror, monkeypatch):
    mirror.answers = {f"{name}.gz": data for name, data in tiny.files.items()}
    tiny.change(monkeypatch, mirrors=(mirror.url,))
    assert load("mnist", report=lambda _: None).source == "public mirror"


def never(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.5)


def trickling(handler: BaseHTTPRequestHandler) -> None:
    """The server sends a byte from time to time, so that no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    for _ in range(30):
        time.sleep(0.05)
        try:
            handler.wfile.write(b"x")
            handler.wfile.flush()
        except OSError:
            return


def breaking_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(b"\x1f\x8b")


BAD_ANSWERS = {
    "status": (503, "HTTP status 503"),
    "page": (
        b"<html>Please log in</html>",
        "it sent a wrong file (train-images-idx3-ubyte.gz has 26 bytes",
    ),
    "empty": (b"", "it sent a wrong file (train-images-idx3-ubyte.gz has 0 bytes instead of 616"),
    "other": (gzip.compress(bytes(616)), "it sent a wrong file (train-images-idx3-ubyte.gz has SHA-256 "),
    "broken": (gzip.compress(bytes(616))[:-3], "is a broken gzip file"),
    "too much": (bytes(1_000_000), "it sent more bytes than the file has"),
    "silent": (never, "no answer in "),
    "trickling": (trickling, "no answer in 0.4 seconds"),
    "breaking off": (breaking_off, "the connection broke"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_a_bad_answer_is_named_and_ends_soon(
    tiny: Tiny, mirror: Mirror, monkeypatch, said: list[str], kind: str, impatient: None
):
    answer, words = BAD_ANSWERS[kind]
    mirror.answers = {f"{name}.gz": answer for name in IDX_FILES}
    tiny.change(monkeypatch, mirrors=(mirror.url,))
    start = time.monotonic()
    message = failure(said)
    assert time.monotonic() - start < 5
    assert f"the public mirrors: {mirror.url[7:-7]}: " in message
    assert words in message
    assert len(mirror.asked) == 1


def test_a_closed_port_is_named(tiny: Tiny, monkeypatch, said: list[str]):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        tiny.change(monkeypatch, mirrors=(f"http://127.0.0.1:{port}/",))
        assert f"127.0.0.1:{port}: connection refused" in failure(said)


def test_a_name_that_cant_be_resolved_is_named(tiny: Tiny, monkeypatch, said: list[str]):
    def unknown(*args: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    tiny.change(monkeypatch, mirrors=("http://mirror.invalid/",))
    assert "mirror.invalid: its name can't be resolved" in failure(said)


def test_a_name_server_that_never_answers_does_not_hold_us_up(
    tiny: Tiny, monkeypatch, said: list[str], impatient: None
):
    released = threading.Event()

    def hanging(*args: object, **options: object) -> None:
        released.wait(10)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    tiny.change(monkeypatch, mirrors=("http://one.invalid/", "http://two.invalid/"))
    start = time.monotonic()
    message = failure(said)
    waited = time.monotonic() - start
    released.set()
    assert 0.8 <= waited < 2.4, "once for each mirror, not for each file"
    assert "one.invalid: no answer in 0.4 seconds; two.invalid: no answer in 0.4 seconds" in message


def test_what_arrived_before_a_failure_is_kept(tiny: Tiny, mirror: Mirror, monkeypatch, cached: Path, said):
    mirror.offer({IDX_FILES[0]: tiny.files[IDX_FILES[0]]})
    tiny.change(monkeypatch, mirrors=(mirror.url,))
    failure(said)
    assert [path.name for path in cached.iterdir()] == [IDX_FILES[0]]
    mirror.offer(tiny.files)
    assert load("mnist", report=said.append).source == "cache and public mirror"


def test_the_bound_on_waiting_for_all_mirrors_of_a_set(monkeypatch: pytest.MonkeyPatch):
    from nearzero.datasets import entries

    monkeypatch.undo()
    assert max(len(entry.mirrors) for entry in entries()) * mirrors.SILENCE_SECONDS <= 20
