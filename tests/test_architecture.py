"""Imports point one way. What `docs/architecture.md` draws is read here from the sources."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nearzero"

# A package may import itself and those that stand before it; nothing may import a later one.
PACKAGES = [
    "errors",
    "support",
    "perturbations",
    "statistics",
    "datasets",
    "networks",
    "kernels",
    "torch_models",
    "training",
    "evaluators",
    "analysis",
    "mechanisms",
    "paper",
    "report",
    "page",
    "probing",
    "study",
    "grid",
    "cli",
    "__main__",
]
# Beyond the order: packages that must stay apart although it would allow them to meet.
APART = {
    "report": {"training", "kernels", "networks"},
    "page": {"training", "kernels", "torch_models", "datasets"},
}


def package_of(module: str) -> str:
    """Return the name of a module's package: "study" for "nearzero.study.jobs"."""
    return module.split(".")[1]


def modules_of(source: Path) -> dict[str, Path]:
    """Return all modules below a folder by their dotted names; the face of the package itself isn't among them."""
    dotted = {
        ".".join((source.name, *path.relative_to(source).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in source.rglob("*.py")
    }
    dotted.pop(source.name, None)
    return dotted


def imports_of(name: str, modules: dict[str, Path]) -> set[str]:
    """Return the modules that one module imports anywhere: in functions and under TYPE_CHECKING too."""
    top = name.split(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(modules[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: relative imports hide what is imported"
            module = node.module or ""
            found |= {
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in modules else module
                for alias in node.names
            }
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {each for each in found if each.split(".")[0] == top} - {name}


def cycle_in(source: Path) -> list[str]:
    """Return the modules of a cycle of imports, or an empty list."""
    modules = modules_of(source)
    try:
        graphlib.TopologicalSorter({name: imports_of(name, modules) for name in modules}).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


MODULES = modules_of(SOURCE)


def test_every_package_has_its_place() -> None:
    assert {package_of(name) for name in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name: str) -> None:
    package = package_of(name)
    allowed = set(PACKAGES[: PACKAGES.index(package) + 1]) - APART.get(package, set())
    imported = imports_of(name, MODULES)
    assert SOURCE.name not in imported, "the face of the package imports everything"
    assert {package_of(each) for each in imported} <= allowed


def test_no_file_imports_itself_through_others() -> None:
    assert cycle_in(SOURCE) == []


@pytest.mark.parametrize(
    "back",
    [
        "from face import one",
        "def later():\n    import face.one",
        "if TYPE_CHECKING:\n    from face.one import x",
    ],
)
def test_a_cycle_is_seen(tmp_path: Path, back: str) -> None:
    face = tmp_path / "face"
    face.mkdir()
    (face / "__init__.py").touch()
    (face / "one.py").write_text("from face import two")
    (face / "two.py").write_text("import os")
    assert cycle_in(face) == []
    (face / "two.py").write_text(back)
    assert set(cycle_in(face)) == {"face.one", "face.two"}


def test_folders_are_small() -> None:
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py"}
    assert [folder.name for folder in folders if len(list(folder.glob("*.py"))) > 12] == []


def test_one_name_for_one_class() -> None:
    names = [
        node.name.lstrip("_")
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_the_formatter_formats_all() -> None:
    assert [name for name, path in MODULES.items() if "fmt: skip" in path.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
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
    """Tab completion offers the public names and nothing else, whatever was imported before."""
    import nearzero
    import nearzero.study.store

    assert dir(nearzero) == sorted([*nearzero.__all__, "__version__"])
    for name in nearzero.__all__:
        assert getattr(nearzero, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'swep': did you mean 'sweep'"):
        _ = nearzero.swep
