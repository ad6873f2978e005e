"""Download files from public mirrors, with a bound on the waiting time.

pooch does the transfer, in a thread of its own. The time-outs of the connection aren't enough: the look-up of
a name has none, a host with many addresses is tried at each of them, and every byte that arrives starts a
time-out anew. So the calling thread gives a mirror up if it delivers less than one chunk in
`SILENCE_SECONDS`. After a failure a mirror isn't used for the remaining files, so with two mirrors the user
waits in vain for at most twice that time.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import urlsplit

from nearzero.datasets.files import Unavailable, VerifiedFile, verified
from nearzero.datasets.registry import Entry, KnownFile
from nearzero.errors import InputError

__all__ = ["SILENCE_SECONDS", "from_mirrors"]

SILENCE_SECONDS = 8.0
_CONNECT_SECONDS = 5.0
_CHUNK = 1 << 16

_SIGNS = {
    "_Refused": "it sent more bytes than the file has",
    "NameResolutionError": "its name can't be resolved",
    "ProxyError": "the proxy refused",
    "SSL": "no secure connection",
    "refused": "connection refused",
    "imeout": "no answer in time",
    "IncompleteRead": "the connection broke",
    "Connection": "no connection",
}
"""Texts in the messages of exceptions, and the reasons that they stand for; the first match counts."""


def from_mirrors(
    entry: Entry, wanted: Sequence[KnownFile], say: Callable[[str], None]
) -> Iterator[VerifiedFile]:
    """Yield each wanted file when it is downloaded and checked.

    Raises:
        Unavailable: a file is on no mirror.
    """
    missing, failures = list(wanted), []
    for mirror in entry.mirrors:
        host = urlsplit(mirror).netloc
        say(f"{entry.name}: fetching from the public mirror {host}")
        try:
            while missing:
                yield _fetched(mirror, missing[0])
                missing.pop(0)
            return
        except Unavailable as reason:
            failures.append(f"{host}: {reason}")
            say(f"{entry.name}: the public mirror {host} failed: {reason}")
    if failures:
        raise Unavailable("; ".join(failures))


def _fetched(mirror: str, expected: KnownFile) -> VerifiedFile:
    delivered = _downloaded(f"{mirror}{expected.name}.gz", limit=expected.size + _CHUNK)
    try:
        return verified(expected, delivered, f"{expected.name}.gz", "public mirror")
    except InputError as error:
        raise Unavailable(f"it sent a wrong file ({error})") from error


def _downloaded(url: str, limit: int) -> bytes:
    """Return the bytes at a URL.

    Raises:
        Unavailable: an error, more than `limit` bytes, or no answer in time.
    """
    import pooch  # type: ignore[import-untyped]  # not at the top, since it imports requests, which is slow

    # The files are compressed already: an encoding by the server would change the bytes that are hashed.
    download = pooch.HTTPDownloader(
        timeout=(_CONNECT_SECONDS, SILENCE_SECONDS),
        chunk_size=_CHUNK,
        headers={"Accept-Encoding": "identity"},
    )
    sink = _Sink(limit)
    threading.Thread(target=_transfer, args=(download, url, sink), name=f"get {url}", daemon=True).start()
    try:
        while not sink.done:
            if not sink.beat.wait(SILENCE_SECONDS):
                raise Unavailable(f"no answer in {SILENCE_SECONDS:g} seconds")
            sink.beat.clear()
    finally:
        sink.abandoned = True
    if sink.failure is not None:
        raise Unavailable(sink.failure)
    return sink.getvalue()


class _Sink(io.BytesIO):
    """A buffer for a transfer, with its state for the thread that waits.

    Attributes:
        limit: the largest number of bytes that it accepts.
        beat: set whenever bytes arrive, and at the end.
        done: whether the transfer has ended.
        abandoned: whether the waiting thread has given up; then the next write fails, which ends the
            transfer.
        failure: the reason in a few words if the transfer failed.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.beat = threading.Event()
        self.done = False
        self.abandoned = False
        self.failure: str | None = None

    def write(self, chunk: bytes, /) -> int:  # type: ignore[override]  # pooch passes bytes only
        if self.abandoned or self.tell() + len(chunk) > self.limit:
            raise _Refused
        self.beat.set()
        return super().write(chunk)


class _Refused(Exception):
    """An error that ends the transfer: the sink takes no more bytes."""


def _transfer(download: Callable[[str, _Sink, None], object], url: str, sink: _Sink) -> None:
    """Download into the sink, and record a failure there."""
    try:
        download(url, sink, None)
    except Exception as error:  # an exception in this thread wouldn't reach the caller
        sink.failure = _in_short(error)
    finally:
        sink.done = True
        sink.beat.set()


def _in_short(error: Exception) -> str:
    """Return a few words in place of the nested messages of requests and urllib3."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    text = repr(error)
    return next((reason for sign, reason in _SIGNS.items() if sign in text), type(error).__name__)
