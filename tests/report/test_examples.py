"""The examples in the docstrings run."""

from __future__ import annotations

import doctest

from nearzero.report import table


def test_the_examples_run() -> None:
    failed, tried = doctest.testmod(table)
    assert tried
    assert not failed
