"""A page as one HTML text: sections, data, scripts and style, and a policy that forbids everything else.

The page's own modules are plain JavaScript in `assets/`; they are joined into one script in the order of `MODULES`.
Every script that runs is named in the Content-Security-Policy by its hash, so that a text from outside can't run
even if it were not escaped; and no script may be made from text, so Vega computes its expressions by interpreting them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import numpy.typing as npt

from nearzero.page.arrays import embed_arrays
from nearzero.report.render.markup import Markup, tag

__all__ = ["RUNS", "Section", "document", "policy_for"]

RUNS = "nearzero-runs"  # the name by which a page keeps the runs that it was asked for

VENDORED = ("vega.min.js", "vega-lite.min.js", "vega-interpreter.js")
# A module stands after those that it imports.
MODULES = (
    "arrays.js",
    "dom.js",
    "downloads.js",
    "theme.js",
    "tables.js",
    "charts.js",
    "network.js",
    "histogram.js",
    "controls.js",
    "explorer.js",
    "examples.js",
    "layer_map.js",
    "items.js",
    "probe.js",
    "main.js",
)
IMPORT = re.compile(r'^import (\{[^;]*?\}) from "\./([\w.]+)";$', re.MULTILINE | re.DOTALL)
EXPORT = re.compile(r"^export ((?:async )?(?:function|const|class) (\w+))", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A section of a page, with a place in its navigation.

    Attributes:
        name: its anchor.
        heading: its heading; its place in the navigation has `short`, or the heading.
        body: its contents.
        short: a shorter heading.
    """

    name: str
    heading: str
    body: Markup
    short: str = ""


@dataclass(frozen=True)
class PageData:
    """The data of a page.

    Attributes:
        values: by name, what is small enough for JSON: charts, names, settings.
        arrays: by name, the arrays.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def document(
    title: str, lead: Markup, sections: Sequence[Section], data: PageData, runs: Sequence[int] = ()
) -> str:
    """Return a page.

    Args:
        title: of the page, as plain text.
        lead: the first screen.
        sections: the sections below it.
        data: what its scripts read.
        runs: the runs that were asked for.
    """
    scripts = [_asset(f"vendor/{name}") for name in VENDORED] + [page_script()]
    links = [
        tag("li", tag("a", section.short or section.heading, href=f"#{section.name}")) for section in sections
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy_for(scripts)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name=RUNS, content=" ".join(map(str, runs))) if runs else None,
        tag("title", title),
        tag("style", Markup(_asset("page.css"))),
    )
    body = tag(
        "body",
        tag("a", "Skip to the contents", href="#main", class_="skip"),
        tag(
            "header",
            tag("nav", tag("ul", links), aria_label="Sections"),
            tag("button", "Theme: auto", type="button", id="theme", class_="quiet"),
            class_="bar",
        ),
        tag("main", lead, [_section(section) for section in sections], id="main", tabindex=-1),
        tag("div", id="tooltip", role="status", aria_live="polite", hidden=True),
        tag("noscript", tag("p", "Charts and sliders need JavaScript; the text and the tables don't.")),
        embed_arrays(data.arrays),
        tag("script", _json(data.values), type="application/json", id="page-data"),
        [tag("script", Markup(script)) for script in scripts],
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def policy_for(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy under which these scripts alone run, and nothing is fetched."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def page_script() -> str:
    """Return the page's own modules as one script, each in a function of its own that returns what it exports."""
    joined = "\n".join(_as_function(name, _asset(name)) for name in MODULES)
    return f'"use strict";\n(() => {{\nconst modules = {{}};\n{joined}\n}})();\n'


def _as_function(name: str, source: str) -> str:
    """Return a module as a function that is run at once, with the names that it imports and exports.

    Example:
        >>> from nearzero.page.document import _as_function
        >>> print(_as_function("b.js", 'import { one } from "./a.js";\\nexport function two() { return one + 1; }\\n'))
        modules["b.js"] = (() => {
        const { one } = modules["a.js"];
        function two() { return one + 1; }
        return { two };
        })();
    """
    exported = ", ".join(match[2] for match in EXPORT.finditer(source))
    body = EXPORT.sub(r"\1", IMPORT.sub(r'const \1 = modules["\2"];', source))
    returned = f"return {{ {exported} }};\n" if exported else ""
    return f'modules["{name}"] = (() => {{\n{body}{returned}}})();'


def _section(section: Section) -> Markup:
    heading = f"{section.name}-heading"
    return tag(
        "section",
        tag("h2", section.heading, id=heading),
        section.body,
        id=section.name,
        aria_labelledby=heading,
    )


def _json(values: Mapping[str, Any]) -> Markup:
    """Return values as JSON that can't end the element that holds it."""
    packed = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return Markup(packed.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@cache
def _asset(name: str) -> str:
    return resources.files("nearzero.page").joinpath("assets", name).read_text(encoding="utf-8")
