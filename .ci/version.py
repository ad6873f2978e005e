"""Check that the package, CITATION.cff and CHANGELOG.md have one version, and a tag too if one is given.

python .ci/version.py           # in the gate
python .ci/version.py v0.2.0    # in a release; the changelog must have no open section then
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PLACES = {
    "src/nearzero/__init__.py": r'^__version__ = "(.+)"$',
    "CITATION.cff": r"^version: (.+)$",
    "CHANGELOG.md": r"^## \[(\d.*)\]",  # the newest one with a version
}


def main(tags: list[str]) -> int:
    """Print the versions that differ; return the exit status."""
    found = {}
    for name, pattern in PLACES.items():
        match = re.search(pattern, Path(name).read_text(encoding="utf-8"), re.MULTILINE)
        found[name] = match[1] if match else "none"
    for tag in tags:
        found["the tag"] = tag.removeprefix("v")
    if tags and "\n## [Unreleased]" in Path("CHANGELOG.md").read_text(encoding="utf-8"):
        found["CHANGELOG.md"] += ", and unreleased changes"
    same = len(set(found.values())) == 1
    versions = "; ".join(f"{name} has {version}" for name, version in found.items())
    print(f"version: {versions}" if not same else f"version: {found['CITATION.cff']} everywhere")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
