"""Pages: every link, path and name of a module leads to something that exists."""

from __future__ import annotations

import pkgutil
import re
import tomllib
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]
PRESENT = [page for page in sorted(PAGES) if page.name != "CHANGELOG.md"]  # pages about this version alone

FENCED = re.compile(r"^```.*?^```[ \t]*$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HEADING = re.compile(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
EXTERNAL = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
TRACKED = re.compile(r"(?:\.ci|benchmarks|docs|examples|results|src|tests)/[\w./-]*\w")
MODULE = re.compile(r"nearzero(?:\.\w+)+")


def prose(page: Path) -> str:
    """Return the text of a page without its fenced blocks and comments."""
    return COMMENT.sub("", FENCED.sub("", page.read_text(encoding="utf-8")))


def links(text: str) -> list[str]:
    """Return the targets of the links and images in a text, but not those that lead to other sites."""
    return [target for target in LINK.findall(CODE.sub("", text)) if not EXTERNAL.match(target)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes of the headings in a text."""
    slugs, times = set(), Counter[str]()
    for heading in HEADING.findall(text):
        label = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", label.lower()).replace(" ", "-")
        slugs.add(f"{slug}-{times[slug]}" if times[slug] else slug)
        times[slug] += 1
    return slugs


def broken(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead to no file, or to no heading of a Markdown file."""
    missing = []
    for target in links(text):
        path, _, anchor = unquote(target).partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and (goal.suffix != ".md" or anchor not in anchors(prose(goal)))):
            missing.append(target)
    return missing


def name(page: Path) -> str:
    """Return the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", sorted(PAGES), ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken(page, prose(page)) == []


@pytest.mark.parametrize("page", PRESENT, ids=name)
def test_paths_and_modules_in_code_exist(page: Path) -> None:
    words = [word for span in CODE.findall(prose(page)) for word in span.split()]
    assert [
        word
        for word in words
        if TRACKED.fullmatch(word) and not word.startswith("docs/_build") and not (ROOT / word).exists()
    ] == []
    for word in words:
        if MODULE.fullmatch(word):
            pkgutil.resolve_name(word)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[rules](docs/instrument.md#the-rules) and ![map](docs/images/probe_convnet.png)", []),
        ("[rules](docs/instrument.md#rules)", ["docs/instrument.md#rules"]),
        (
            "[a page](docs/none.md), `[code](none.md)`, [paper](https://arxiv.org/abs/2411.17932#none)",
            ["docs/none.md"],
        ),
        ("[here](#install) and [there](#four-commands)", ["#four-commands"]),
    ],
)
def test_broken_links_are_found(text: str, expected: list[str]) -> None:
    assert broken(ROOT / "README.md", text) == expected


def test_the_readme_on_a_package_index_has_no_links_into_the_repository() -> None:
    """The build changes the README as pyproject.toml says; an index has the text alone."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert links(text)
    for change in settings["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert links(text) == []
    assert COMMENT.findall(text) == []
    assert "https://arxiv.org" in text


def test_anchors_are_those_of_github() -> None:
    assert anchors("# A `code`, and b\n\n## The rules\n## The rules\n### [Link](x.md): 10 %\n") == {
        "a-code-and-b",
        "the-rules",
        "the-rules-1",
        "link-10-",
    }


def test_every_picture_is_on_a_page() -> None:
    texts = "".join(page.read_text(encoding="utf-8") for page in PRESENT)
    pictures = [*(ROOT / "docs" / "images").iterdir()]
    assert [picture.name for picture in pictures if f"images/{picture.name}" not in texts] == []
