"""Check the built site: every link and picture within it leads to a file, and every anchor to an element.

python .ci/site_links.py docs/_build/html
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["broken_links"]


class Page(HTMLParser):
    """The targets and the anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what an element links to and is called."""
        for name, value in attributes:
            if name in ("href", "src") and value:
                self.targets.append(value)
            elif (name == "id" or (name == "name" and tag == "a")) and value:
                self.anchors.add(value)


@cache
def read(path: Path) -> Page:
    """Return the parsed page."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def broken_links(path: Path) -> list[str]:
    """Return the links of a page to files or anchors that don't exist; links to other sites aren't followed."""
    broken = []
    for target in read(path).targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        goal = goal / "index.html" if goal.is_dir() else goal
        anchor = unquote(parts.fragment)
        if not goal.is_file() or (anchor and goal.suffix == ".html" and anchor not in read(goal).anchors):
            broken.append(target)
    return broken


def main(folder: str) -> int:
    """Print the broken links of a site; return the exit status."""
    pages = sorted(Path(folder).resolve().rglob("*.html"))
    broken = {page.name: found for page in pages if (found := broken_links(page))}
    for page, targets in broken.items():
        print(f"{page}: nothing is at {', '.join(targets)}")
    links = sum(len(read(page).targets) for page in pages)
    print(f"{len(pages)} pages with {links} links, {sum(map(len, broken.values()))} of them broken")
    return 1 if broken or not pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
