"""The examples in the docstrings run, and every test and interval has one."""

from __future__ import annotations

import doctest
import importlib

import pytest

FUNCTIONS = [
    "bands.simultaneous_band",
    "bootstrap.crossed_bootstrap",
    "differences.paired_differences",
    "multiplicity.holm",
    "paired.effect_size",
    "paired.equivalence_test",
    "paired.paired_t_test",
    "paired.sign_flip_test",
    "summaries.summarise",
    "summaries.t_interval",
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_function_runs(name: str) -> None:
    module, function = name.split(".")
    documented = getattr(importlib.import_module(f"nearzero.statistics.{module}"), function)
    (example,) = doctest.DocTestFinder(recurse=False).find(documented, name, globs={})
    assert example.examples
    assert not doctest.DocTestRunner().run(example).failed
