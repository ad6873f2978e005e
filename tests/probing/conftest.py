"""Fixtures of these tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quietly(one_torch_thread: None) -> None:
    """Run all of them on one thread."""
