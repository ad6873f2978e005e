"""The memory limit: the values that it accepts, and the errors for others."""

import pytest

from nearzero.errors import InputError
from nearzero.support.memory import DEFAULT_MEMORY, memory_limit, memory_text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (10**8, 10**8),
        ("500 MB", 5 * 10**8),
        ("1.5GiB", 3 * 2**29),
        ("2 gb", 2 * 10**9),
        ("20000000", 2 * 10**7),
    ],
)
def test_sizes(given, expected, monkeypatch):
    assert memory_limit(given) == expected
    monkeypatch.setenv("NEARZERO_MEMORY", str(given))
    assert memory_limit() == expected
    assert memory_limit("64 MB") == 64 * 10**6  # the argument precedes the environment


def test_default(monkeypatch):
    monkeypatch.delenv("NEARZERO_MEMORY", raising=False)
    assert memory_limit() == DEFAULT_MEMORY


@pytest.mark.parametrize("given", ["lots", "", "-1", "1e9", "3 PB", "nan", True, 1.5])
def test_sizes_that_cannot_be_read(given):
    with pytest.raises(InputError, match='memory must be a number of bytes or a text like "2 GB"; got'):
        memory_limit(given)


def test_too_little(monkeypatch):
    monkeypatch.setenv("NEARZERO_MEMORY", "1 MB")
    with pytest.raises(InputError, match="NEARZERO_MEMORY must be at least 16 MB; got '1 MB'"):
        memory_limit()


def test_text():
    assert [memory_text(16e6), memory_text(1.25e9)] == ["16 MB", "1.2 GB"]
