"""The end of every page: texts to copy, and what to cite."""

from __future__ import annotations

from collections.abc import Sequence

from nearzero.report.render.markup import Markup, tag

__all__ = ["copied", "methods"]

BIBTEX = """@software{{nearzero,
  title  = {{nearzero: do hidden units measure distance or intensity?}},
  author = {{{{The nearzero authors}}}},
  year   = {{2026}},
  note   = {{Version {version}}}
}}

@article{{oursland2024distance,
  title   = {{Neural Networks Use Distance Metrics}},
  author  = {{Oursland, Alan}},
  journal = {{arXiv preprint arXiv:2411.17932}},
  year    = {{2024}},
  url     = {{https://arxiv.org/abs/2411.17932}}
}}"""


def methods(text: str, version: str, command: str, commands: Sequence[str] = ()) -> Markup:
    """Return a methods paragraph, the BibTeX entries, and the command that makes the page again.

    Args:
        text: the paragraph.
        version: of nearzero, by which the numbers were measured.
        command: the command, or the code.
        commands: those that make what the page is about, if nearzero does.
    """
    return tag(
        "div",
        tag("h3", "Methods"),
        copied("methods-text", text),
        tag("h3", "BibTeX"),
        copied("bibtex", BIBTEX.format(version=version)),
        _making(commands) if commands else None,
        tag("h3", "What makes this page again"),
        copied("command", command),
    )


def _making(commands: Sequence[str]) -> Markup:
    return tag(
        "div",
        tag("h3", "The commands that make the study, and this page"),
        tag(
            "p",
            "In a checkout of nearzero, once: ",
            tag("code", "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."),
            "; then, with ",
            tag("code", ".venv/bin"),
            " on the path:",
        ),
        copied("commands", "\n".join(commands)),
    )


def copied(name: str, words: str) -> Markup:
    """Return a text with a button that copies it."""
    return tag(
        "div",
        tag("pre", words, id=name, tabindex=0),
        tag("button", "Copy", type="button", data_copy=name),
        class_="copy",
    )
