"""Docstrings: every public name has an example that runs, and each says what it returns or does."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nearzero"
PUBLIC = ("nearzero", "nearzero.datasets", "nearzero.mechanisms")
RIDDLES = ("What", "Who", "Whether", "Where", "How")

NAMES = [
    (module, name)
    for module in PUBLIC
    for name in importlib.import_module(module).__all__
    if inspect.isclass(member := getattr(importlib.import_module(module), name)) or inspect.isfunction(member)
]


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[".".join(each) for each in NAMES])
def test_public_names_have_an_example(module: str, name: str) -> None:
    member = getattr(importlib.import_module(module), name)
    home = importlib.import_module(member.__module__)
    examples = doctest.DocTestParser().get_doctest(member.__doc__, dict(vars(home)), name, home.__file__, 0)
    assert examples.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(examples)
    assert not result.failed


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings_begin_with_what_is_done(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
    assert [doc.splitlines()[0] for doc in docs if doc.split(" ")[0].strip(",:") in RIDDLES] == []
