"""Examples in docstrings of names that aren't public; `tests/test_docstrings.py` runs those of public names."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "errors",
    "networks.initial",
    "networks.modules",
    "support.arrays",
    "support.files",
    "support.memory",
    "support.threads",
)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, attempted = doctest.testmod(importlib.import_module(f"nearzero.{module}"), optionflags=flags)
    assert attempted
    assert not failed
