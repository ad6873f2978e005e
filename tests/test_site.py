"""The documentation site: its reference is whole. `make docs` builds it, and finds links that lead nowhere."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

import nearzero as nz
from nearzero.cli import app

DOCS = Path(__file__).parents[1] / "docs"
DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|data):: ([\w.]+)", re.MULTILINE)
VARIABLE = re.compile(r"\bNEARZERO_[A-Z_]+\b")
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (?:`(.*)`)? \| (.+) \|$", re.MULTILINE)


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED, LIVE, NAMES = (
    load(DOCS / "_extensions" / f"{name}.py") for name in ("generated_pages", "live_page", "public_names")
)
TUTORIAL, LINKS = (load(DOCS.parent / ".ci" / f"{name}.py") for name in ("tutorial", "site_links"))


def test_every_public_name_is_described_once() -> None:
    described = Counter[str]()
    for page in (DOCS / "api").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        module = re.search(r"currentmodule:: (\S+)", text)
        described.update(f"{module[1] if module else ''}.{name}" for name in DIRECTIVE.findall(text))
    names = [f"nearzero.{name}" for name in nz.__all__ if name not in ("datasets", "__version__")]
    names += [f"nearzero.datasets.{name}" for name in nz.datasets.__all__]
    assert [name for name in names if described[name] != 1] == []


@pytest.mark.parametrize("name", ["Spec", "GridSpec", "OwnNetwork", "OwnProbe"])
def test_keys_have_their_defaults_and_meanings(name: str) -> None:
    model = getattr(nz, name)
    rows = {key: (default, meaning) for key, _, default, meaning in ROW.findall(GENERATED.keys_of(name))}
    assert list(rows) == list(model.model_fields)
    for key, field in model.model_fields.items():
        default, meaning = rows[key]
        assert len(meaning) > 10
        if field.is_required():
            assert default == ""
        else:
            value = tomllib.loads(f"key = {default}")["key"] if default != "None" else None
            expected = field.get_default(call_default_factory=True)
            expected = {} if isinstance(expected, nz.OwnProbe) else expected  # a table with its defaults
            assert value == (list(expected) if isinstance(expected, tuple) else expected)


def test_values_are_in_words() -> None:
    text = GENERATED.keys_of("Spec")
    values = {key: value for key, value, *_ in ROW.findall(text)}
    assert values["pixels"] == '`"raw"`, `"normalized"`'
    assert values["steps"] == "whole number ≥ 1, ≤ 10,000,000"
    assert values["batch_size"] == 'whole number ≥ 1, ≤ 10,000,000 or `"all"`'
    assert values["thresholds"] == "list of numbers > 0, ≤ 100"


def test_commands_have_the_options_of_their_help() -> None:
    """What the page says of a command is what its `--help` prints."""
    sections = re.split(r"^## ", GENERATED.commands(), flags=re.MULTILINE)[1:]
    assert len(sections) > 15
    for section in sections:
        path = section.splitlines()[0]
        words = CliRunner().invoke(app, [*path.split()[1:], "--help"], env={"COLUMNS": "200"}).output
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", words)) - {"--help"}
        table = section.partition("\n|")[2]
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", table)) == options, path


def test_examples_of_a_help_are_a_block() -> None:
    end = "Examples:\n\n  nearzero power\n\n  nearzero power studies/quick"
    assert GENERATED.examples(end) == "Examples:\n\n```\nnearzero power\nnearzero power studies/quick\n```"
    assert GENERATED.examples("") == ""


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("nz.Study", "nearzero.Study"),
        ("nz.Study.open", "nearzero.Study.open"),
        ("nz.datasets.load", "nearzero.datasets.load"),
        ("nz.datasets", None),
        ("nz.none", None),
        ("np.ndarray", None),
    ],
)
def test_public_names_become_links(code: str, path: str | None) -> None:
    assert NAMES.public_path(code) == path


def test_classes_of_signatures_are_told_apart() -> None:
    """A `Dataset` of xarray isn't the one of `nz.datasets`."""
    paths = NAMES.defined_at()
    assert paths[f"{nz.Study.__module__}.Study"] == paths["Study"] == "nearzero.Study"
    assert paths[f"{nz.datasets.Dataset.__module__}.Dataset"] == "nearzero.datasets.Dataset"
    assert {"Dataset", "xarray.core.dataset.Dataset"}.isdisjoint(paths)


@pytest.mark.parametrize(
    ("page", "following"),
    [
        ("index", "install"),
        ("install", "tutorial"),
        ("tutorial", "your_verdict"),
        ("your_verdict", "instrument"),
        ("instrument", "validation"),
    ],
)
def test_newcomers_find_the_next_page(page: str, following: str) -> None:
    """From the start page to a verdict on a model of one's own."""
    assert f"]({following}.md" in (DOCS / f"{page}.md").read_text(encoding="utf-8")


def test_every_block_is_run_or_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert TUTORIAL.list_not_run() == 0, capsys.readouterr().out


def test_blocks_that_no_script_runs_are_found(tmp_path: Path) -> None:
    page = tmp_path / "tutorial.md"
    blocks = (
        ("", "make it"),
        ("python", "1 / 0"),
        ("sh", "ls  # here"),
        ("text about", "a"),
        ("{toctree}", "b"),
    )
    page.write_text("".join(f"\n```{kind}\n{line}\n```\n" for kind, line in blocks), encoding="utf-8")
    assert TUTORIAL.blocks_not_run(page) == ["tutorial.md:2: make it", "tutorial.md:10: ls"]


def test_broken_links_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">1</a> <a href="b.html#none">2</a> <a href="c.html">3</a> <img src="d.png"> '
        '<a href="https://arxiv.org/none">4</a> <a href="#top">5</a> <h1 id="top"></h1>'
    )
    (tmp_path / "b.html").write_text('<p id="here"></p>')
    assert LINKS.broken_links(tmp_path / "a.html") == ["b.html#none", "c.html", "d.png"]
    assert LINKS.broken_links(tmp_path / "b.html") == []


def test_environment_variables_are_described_once() -> None:
    """Those that the code reads, in the table of `files.md`."""
    sources = [*(DOCS.parent / "src").rglob("*.py"), DOCS / "conf.py"]
    read = {name for path in sources for name in VARIABLE.findall(path.read_text(encoding="utf-8"))}
    rows = re.findall(
        r"^\| `(NEARZERO_\w+)` \|", (DOCS / "files.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(rows) == sorted(read)


@pytest.mark.parametrize("page", ["index", "results", "findings", "page"])
def test_pages_link_to_the_live_page(page: str) -> None:
    source = [(DOCS / f"{page}.md").read_text(encoding="utf-8")]
    LIVE.link(None, page, source)
    assert f'href="{LIVE.FILE}"' in source[0]


def test_the_live_page_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []
    monkeypatch.setattr(nz.Study, "to_html", lambda study, path: made.append(path.write_text("whole")))
    site = SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(name="html"))
    for _ in range(2):
        LIVE.make(site, None)
    assert len(made) == 1
    assert (tmp_path / LIVE.FILE).read_text() == "whole"
    assert capsys.readouterr().err == ""


def test_without_data_the_live_page_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def to_html(study: nz.Study, path: Path) -> None:
        raise nz.datasets.NotFoundError("no source has <mnist>")

    monkeypatch.setattr(nz.Study, "to_html", to_html)
    LIVE.make(SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(name="html")), None)
    assert not LIVE.is_current(tmp_path / LIVE.FILE)
    page = (tmp_path / LIVE.FILE).read_text(encoding="utf-8")
    assert "no source has &lt;mnist&gt;" in page
    assert "nearzero data fetch mnist" in page
    assert capsys.readouterr().err == "paper_study.html wasn't made: no source has <mnist>\n"
