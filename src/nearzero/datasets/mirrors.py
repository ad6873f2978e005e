"""Files from public mirrors, with a bound on waiting.

pooch does the transfer. It runs in a thread of its own, because looking up a name has no time-out, a host
with many addresses is tried at each of them, and a trickle of bytes resets every time-out there is: the
thread that watches gives a mirror up once it has delivered less than one chunk in `SILENCE_SECONDS`. A mirror
that failed once is not asked for the remaining files, so with two mirrors nobody waits in vain for more than
twice that time.
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
"""What shows up in the text of an exception, first match first, and what to say of it."""


def from_mirrors(
    entry: Entry, wanted: Sequence[KnownFile], say: Callable[[str], None]
) -> Iterator[VerifiedFile]:
    """Each wanted file once it is here and checked; `Unavailable` if any is missing at the end."""
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


def _fetched(mirror: str, known: KnownFile) -> VerifiedFile:
    delivered = _downloaded(f"{mirror}{known.name}.gz", limit=known.size + _CHUNK)
    try:
        return verified(known, delivered, f"{known.name}.gz", "public mirror")
    except InputError as error:
        raise Unavailable(f"it sent a wrong file ({error})") from error


def _downloaded(url: str, limit: int) -> bytes:
    """The bytes at a URL, or `Unavailable`."""
    import pooch  # type: ignore[import-untyped]  # here, because it pulls in requests

    # The files are gzip in their own right: an encoding on top would change what is hashed.
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
    """What a transfer writes into, and what the watching thread looks at."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.beat = threading.Event()
        self.done = False
        self.abandoned = False
        self.failure: str | None = None

    def write(self, chunk: bytes, /) -> int:  # type: ignore[override]  # pooch hands over bytes alone
        if self.abandoned or self.tell() + len(chunk) > self.limit:
            raise _Refused
        self.beat.set()
        return super().write(chunk)


class _Refused(Exception):
    """The sink takes no more bytes."""


def _transfer(download: Callable[[str, _Sink, None], object], url: str, sink: _Sink) -> None:
    """Download into the sink; whatever happens ends up there."""
    try:
        download(url, sink, None)
    except Exception as error:  # a thread has nobody to raise to
        sink.failure = _in_short(error)
    finally:
        sink.done = True
        sink.beat.set()


def _in_short(error: Exception) -> str:
    """A few words in place of the nested messages of requests and urllib3."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    text = repr(error)
    return next((words for sign, words in _SIGNS.items() if sign in text), type(error).__name__)
