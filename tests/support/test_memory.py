"""The memory limit: the values that it accepts, and the errors for others; and how a lack of memory is told."""

import errno
import resource

import pytest

from nearzero.errors import InputError
from nearzero.support.files import parsing
from nearzero.support.memory import (
    DEFAULT_MEMORY,
    check_address_space,
    is_out_of_memory,
    memory_limit,
    memory_text,
)


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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
    ],
)
def test_errors_for_lack_of_memory_are_told_from_others(error):
    assert is_out_of_memory(error)
    later = ValueError("the model fails")
    later.__cause__ = error
    assert is_out_of_memory(later)
    assert not is_out_of_memory(ValueError("memory"))
    with (
        pytest.raises(InputError, match=r"^memory is used up while a\.json is read$"),
        parsing("a.json", "delete it"),
    ):
        raise error


@pytest.mark.parametrize("limit", [10**8, 10**9 - 1])
def test_a_limit_in_which_libraries_cannot_be_loaded(limit, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    with pytest.raises(InputError, match=r"^the memory of this process is limited to .* see `ulimit -v`$"):
        check_address_space()


@pytest.mark.parametrize("limit", [10**9, resource.RLIM_INFINITY])
def test_a_limit_in_which_they_can(limit, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    check_address_space()


@pytest.mark.parametrize("limit", [10**9, resource.RLIM_INFINITY])
def test_compiled_code_that_gets_no_memory_may_say_no_more(limit, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    limited = limit != resource.RLIM_INFINITY
    assert is_out_of_memory(SystemError("error return without exception set")) == limited
