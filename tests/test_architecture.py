"""Imports point one way. What `docs/architecture.md` draws is read here from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nearzero"

# A part may import the parts that stand in an earlier line, and its own; nothing may import a later one.
LAYERS: list[set[str]] = [
    {"errors"},
    {"arrays", "files", "halves", "memory", "threads", "activations", "pixels", "perturbation", "statistics"},
    {"kernels", "ranges", "metrics", "datasets", "paper"},
    {"families", "networks"},
    {"lines"},
    {"hidden", "training", "noise", "probing"},
    {"evaluators"},
    {"sweep", "critical", "displacement"},
    {"matched", "parts", "invariance", "verdict"},
    {"mechanisms", "audit"},
    {"report"},
    {"study", "analysis"},
    {"grid"},
    {"cli"},
    {"__main__"},
]
# Beyond the layers: parts that must stay apart although the order would allow them to meet.
APART = {"report": {"sweep", "training", "hidden", "kernels", "networks", "study"}}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nearzero"):
            rest = (node.module or "").split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nearzero.")}
    return found


MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def test_every_part_has_its_layer() -> None:
    assert {part_of(path) for path in MODULES} == set().union(*LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    layer = next(index for index, parts in enumerate(LAYERS) if part in parts)
    allowed = set().union(*LAYERS[:layer], {part}) - APART.get(part, set())
    assert imports_of(path) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_modules_are_small_and_say_why_they_exist(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert len(path.read_text().splitlines()) <= 700
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            words = len((ast.get_docstring(node, clean=False) or "").splitlines())
            assert (node.end_lineno or 0) - node.lineno - words <= 65, node.name
    if path.name not in ("__init__.py", "__main__.py"):
        names = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert "__all__" in names


def test_import_is_light() -> None:
    """PyTorch, matplotlib and statsmodels take seconds; who asks for help mustn't wait for them."""
    heavy = "torch matplotlib statsmodels sklearn mlxtend typer rich.progress"
    code = f"import sys, nearzero; print([name for name in {heavy.split()!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_study_on_the_processor_never_imports_pytorch(tmp_path: Path) -> None:
    """It's two seconds of the quick study's ninety."""
    settings = ["data=digits", "runs=1", "units=16", "steps=4", "learning_rate=0.01", "batch_size=64"]
    arguments = [part for each in settings for part in ("--set", each)]
    code = (
        "import sys\n"
        "from nearzero.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print('torch' in sys.modules)\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "reproduce",
        "--quiet",
        "--out",
        str(tmp_path / "study"),
        *arguments,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"


def test_the_names_of_the_package() -> None:
    import nearzero

    for name in nearzero.__all__:
        assert getattr(nearzero, name).__doc__
