"""Docstrings: their examples run, every public name has one, and each says what it returns or does."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nearzero"
PUBLIC = ("nearzero", "nearzero.datasets")
STATISTICS = (
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
)
RIDDLES = ("What", "Who", "Whether", "Where", "How")

DOCUMENTED = [
    *(f"{module}.{name}" for module in PUBLIC for name in importlib.import_module(module).__all__),
    *(f"nearzero.statistics.{name}" for name in STATISTICS),
    "nearzero.mechanisms.power.power",
]
# Modules whose names aren't public, but which every package may use, and others that have examples to keep.
MODULES = (
    "errors",
    "networks.initial",
    "networks.modules",
    "paper.peaks",
    "paper.published",
    "report.table",
    "support.arrays",
    "support.files",
    "support.memory",
    "support.threads",
)
WITH_EXAMPLES = {
    ".".join(("nearzero", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in SOURCE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
}


@pytest.mark.parametrize("module", sorted(WITH_EXAMPLES | {f"nearzero.{name}" for name in MODULES}))
def test_examples_run(module: str) -> None:
    """An example needs nothing but what it imports."""
    failed, attempted = doctest.testmod(
        importlib.import_module(module), globs={}, optionflags=doctest.ELLIPSIS
    )
    assert attempted
    assert not failed


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_names_have_an_example(name: str) -> None:
    member = pkgutil.resolve_name(name)
    if inspect.isclass(member) or inspect.isfunction(member):
        assert doctest.DocTestParser().get_examples(member.__doc__ or "")
        assert member.__module__ in WITH_EXAMPLES


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings_begin_with_what_is_done(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
    assert [doc.splitlines()[0] for doc in docs if doc.split(" ")[0].strip(",:") in RIDDLES] == []
