"""What these tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _quietly(one_torch_thread: None) -> None:
    """All of them on one thread."""
