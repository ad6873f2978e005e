"""Run the code blocks of pages that run as they are, and compare their output with the pages.

python .ci/tutorial.py            # run all pages and compare
python .ci/tutorial.py NAME...    # run some of them: tutorial, probe
python .ci/tutorial.py --write    # run the pages, and put the output and the figure into them
python .ci/tutorial.py --list     # list the blocks that aren't run, and why

The blocks of a page are run in order, in a folder that holds nothing but the kept results. Blocks
fenced as ``python`` share their variables, as in a notebook; if the first line is a comment with the name of a file,
the block is written to that file and not run; so are blocks fenced as ``toml``. Blocks fenced as ``bash`` are run by
the shell. The output of a block
is below it, fenced as ``text`` if it must be equal, or as ``text about`` if its numbers come from a training and may
differ a little on another processor. ``text kept`` is output of what isn't run here. Blocks without a language are
commands that aren't run; `NOT_RUN` says why, page by page.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (
    "install",
    "tutorial",
    "measured",
    "your_verdict",
    "your_grid",
    "your_data",
    "by_name",
    "new_family",
    "new_activation",
    "command_line",
    "files",
    "page",
    "probe",
    "refused",
    "weights",
    "critical_levels",
    "grids",
    "instrument",
    "cluster",
)
KEPT = "results"  # a page may read them
IMAGES = {  # file that a block makes, and the image on the page
    "figure.png": "probe_tutorial.png",
    "displacement.png": "displacement.png",
}
NOT_RUN = {  # by page, in order: why a block isn't run with its page
    "README": ("the gate runs it on all of MNIST: .ci/readme.py",),
    "index": ("the README's commands, which the gate runs",),
    "install": (
        "installs: the gate runs it, as a part of make install-dev",
        "installs from an index: the gate does so by make",
        "installs the wheel: the release workflow does so",
        "the README's command, which the gate runs",
        "the README's command, which the gate runs",
    ),
    "atlas": ("installs from an index", "trains for hours with weights from a hub"),
    "by_name": ("installs from an index", *("needs weights from a hub",) * 2),
    "cluster": (
        "needs weights from a hub",
        "needs a cluster: a scheduler stays",
        "needs Slurm",
        "needs a GPU",
    ),
    "language_models": ("tests/probing/test_generation.py runs it",) * 5,
    "audit": ("nearzero audit is tested on kept results; the gate makes this page",),
    "your_grid": ("shows keys", "needs weights from a hub"),
    "new_activation": ("a part of make test",),
    "gpu": ("needs a GPU, and hours", "needs a GPU; the tests for other devices are a part of make test"),
    "speed": ("measures for minutes on an idle machine: make bench",),
}
SKIPPED = {  # by file of src/nearzero: why its example is marked +SKIP
    "datasets/sources.py": "shows what happens without files and network",
    "mechanisms/power.py": "minutes; a short form is a part of make test",
    "study/study.py": "the quick study; the gate runs it as a command",
}
EXAMPLES = re.compile(
    r"^```\{literalinclude\} \.\./(examples/\w+\.py)$", re.MULTILINE
)  # tests/test_examples.py
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SLACK = 0.03  # by which a number of "about" may differ: relative for numbers above 1, else absolute
FENCE = re.compile(r"^```(python|toml|bash|text|text about)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+\.(?:py|toml))\n")
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")


def run_python(block: str, names: dict[str, Any], where: str) -> str:
    """Run a block, or write it if it's a file; return its output."""
    file = FILE.match(block)
    if file:
        Path(file[1]).write_text(block, encoding="utf-8")
        return ""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(block, where, "exec"), names)
    return output.getvalue()


def run_bash(block: str) -> str:
    """Run a block; return its output. An error ends the script."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", block]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def plain(text: str) -> str:
    """Remove blank lines at the ends of a text and blanks at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"


def same(on_page: str, output: str, about: bool) -> bool:
    """Return whether the text on a page agrees with an output."""
    if not about:
        return on_page == output
    pairs = zip(NUMBER.findall(on_page), NUMBER.findall(output), strict=False)
    near = all(
        abs(number - other) <= SLACK * max(1.0, abs(number))
        for number, other in ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    )
    shapes = [re.sub(r"\s+", " ", NUMBER.sub("0", text)).strip() for text in (on_page, output)]
    return near and shapes[0] == shapes[1]


def run_page(page: Path, write: bool) -> int:
    """Run a page's blocks in the current folder; return the number of outputs that differ."""
    text, names, differing, output = page.read_text(encoding="utf-8"), {"__name__": "__main__"}, 0, ""
    updated, end = "", 0
    for fence in FENCE.finditer(text):
        kind, block = fence.groups()
        line = text[: fence.start()].count("\n") + 1
        if kind.startswith("text"):
            if not same(block, plain(output), kind == "text about"):
                differing += 1
                print(f"{page.name}:{line}: the page has\n{block}but the output is\n{plain(output)}")
            updated += text[end : fence.start()] + f"```{kind}\n{plain(output)}```"
            end = fence.end()
            continue
        began = time.monotonic()
        where = f"{page.name}:{line}"
        if kind != "toml" or FILE.match(block):  # else it shows keys
            output = run_bash(block) if kind == "bash" else run_python(block, names, where)
        print(f"{where}: {kind}, {time.monotonic() - began:.1f} s", flush=True)
    if write:
        page.write_text(updated + text[end:], encoding="utf-8")
        for file, image in IMAGES.items():
            if Path(file).is_file():
                (ROOT / "docs" / "images" / image).write_bytes(Path(file).read_bytes())
    return differing


def forget(folder: Path) -> None:
    """Forget the modules that a page wrote to its folder; the next page may write others of the same name."""
    written = {path.stem for path in folder.glob("*.py")}
    for name in written & set(sys.modules):
        del sys.modules[name]


def blocks_not_run(page: Path) -> list[str]:
    """Return the blocks of a page that aren't run with it: place, first line."""
    text = page.read_text(encoding="utf-8")
    run = ("python", "bash") if page.stem in PAGES else ()
    return [
        f"{page.name}:{text[: found.start()].count(chr(10)) + 1}: {found[2].splitlines()[0].split('  ')[0]}"
        for found in BLOCK.finditer(text)
        if found[1] not in run
        and not (run and FILE.match(found[2]))  # a file that other blocks use
        and not found[1].startswith(("text", "{"))  # outputs, and what Sphinx reads
    ]


def list_not_run() -> int:
    """Print the blocks that aren't run and why; return how many have no reason, or a reason without a block."""
    wrong = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks, reasons = blocks_not_run(page), NOT_RUN.get(page.stem, ())
        wrong += abs(len(blocks) - len(reasons))
        for block, reason in zip_longest(blocks, reasons, fillvalue="NOTHING"):
            print(f"not run: {block}: {reason}")
        for example in EXAMPLES.findall(page.read_text(encoding="utf-8")):
            print(f"run by tests/test_examples.py: {page.name}: {example}")
    sources = ROOT / "src" / "nearzero"
    skipped = {
        path for path in sources.rglob("*.py") if "# doctest: +SKIP" in path.read_text(encoding="utf-8")
    }
    files = {path.relative_to(sources).as_posix() for path in skipped}
    for file in sorted(files | set(SKIPPED)):
        print(f"not run: an example in src/nearzero/{file}: {SKIPPED.get(file, 'NOTHING')}")
    return wrong + len(files ^ set(SKIPPED))


def main() -> int:
    """Run the pages; return the exit status."""
    if "--list" in sys.argv:
        return 1 if list_not_run() else 0
    os.environ["MPLBACKEND"] = "Agg"
    os.environ["OMP_NUM_THREADS"] = "1"  # with such small networks several threads are slower
    sys.dont_write_bytecode = True
    differing, began = 0, time.monotonic()
    pages = [name for name in sys.argv[1:] if name != "--write"] or PAGES
    for name in pages:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path(KEPT).symlink_to(ROOT / KEPT)
            sys.path.insert(0, folder)
            differing += run_page(ROOT / "docs" / f"{name}.md", "--write" in sys.argv)
            sys.path.remove(folder)
            forget(Path(folder))
    list_not_run()
    print(f"{len(pages)} pages run in {time.monotonic() - began:.0f} s, {differing} outputs differ")
    return 1 if differing and "--write" not in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
