"""Parts of pages made when the site is built: the commands, the keys of a spec, the texts of links.

A page says `<!-- commands -->` or `<!-- keys of Spec -->` where its part belongs, so that the list can't differ
from the code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from typer.main import get_command

import nearzero as nz
from nearzero.cli import app as command_line
from nearzero.study.spec import PRESETS, CheckedModel

__all__ = ["setup"]

DOCS = Path(__file__).parents[1]
OUTWARD = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]+)\)")
FILE_NAMED = re.compile(r"\[(?:[\w.]+/)*(\w+\.(?:md|ipynb))\]\(((?:[\w.]+/)*\1(?:#[^)\s]*)?)\)")
ATTRIBUTE = re.compile(r"([a-z_, ]+): (.+)")


def commands() -> str:
    """Return a section for each command: usage, what it does, its arguments and options."""
    root = get_command(command_line)
    return "\n\n".join(sections(root, "nearzero"))


def sections(group: Any, path: str) -> Iterator[str]:
    """Yield the sections of a group's commands, in the order of `--help`."""
    context = group.make_context(path, [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "commands"):
            yield from sections(command, f"{path} {name}")
        elif not command.hidden:
            yield section(command, f"{path} {name}")


def section(command: Any, path: str) -> str:
    """Return the section of a command."""
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join((path, *command.collect_usage_pieces(context)))
    text = inspect.cleandoc(command.help or "").replace("\f", "")
    records = [record for p in command.get_params(context) if (record := described(p, context))]
    parts = (
        f"## {path}",
        f"```\n{usage}\n```",
        text,
        table(("", ""), records),
        examples(command.epilog or ""),
    )
    return "\n\n".join(part for part in parts if part)


def examples(end: str) -> str:
    """Return the end of a command's help: its indented lines are commands, and are fenced together."""
    head, *lines = [line for line in end.splitlines() if line.strip()] or [""]
    return f"{head}\n\n```\n{chr(10).join(line.strip() for line in lines)}\n```" if lines else head


def described(parameter: Any, context: Any) -> tuple[str, str] | None:
    """Return how a parameter is written, and its help; None if it's hidden."""
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts:
        return None
    names, text = (part.strip() for part in record)
    return f"`{names}`", text


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown, or nothing without rows."""
    if not rows:
        return ""
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def keys_of(name: str) -> str:
    """Return the keys of a spec: possible values, default, meaning; of a study's spec the presets too."""
    model: type[CheckedModel] = getattr(nz, name)
    meanings = attributes(model)
    schema = model.model_json_schema(mode="validation")
    rows = []
    for key, field in model.model_fields.items():
        meaning = meanings[key]  # a KeyError is a key without a description
        default = "" if field.is_required() else f"`{toml(field.get_default(call_default_factory=True))}`"
        rows.append((f"`{key}`", values(schema["properties"][key], schema), default, meaning))
    return table(("key", "values", "default", "meaning"), rows)


def presets() -> str:
    """Return the presets of a study's spec: the keys in which they differ."""
    keys = sorted({key for preset in PRESETS.values() for key in preset})
    rows = [(f"`{key}`", *(f"`{toml(preset.get(key, ''))}`" for preset in PRESETS.values())) for key in keys]
    return table(("key", *PRESETS), rows)


def attributes(model: type) -> dict[str, str]:
    """Return the meanings of a class's attributes, from its docstring."""
    doc = inspect.getdoc(model) or ""
    block = doc.partition("Attributes:\n")[2].partition("\n\n")[0]
    meanings: dict[str, str] = {}
    keys: list[str] = []
    for line in block.splitlines():
        begins = ATTRIBUTE.fullmatch(line.strip()) if not line.startswith(" " * 8) else None
        if begins:
            keys = [key.strip() for key in begins[1].split(",")]
            meanings |= dict.fromkeys(keys, begins[2])
        else:
            meanings |= {key: f"{meanings[key]} {line.strip()}" for key in keys}
    return meanings


def values(schema: dict[str, Any], root: dict[str, Any]) -> str:
    """Return the values that a JSON schema allows, in words."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return " or ".join(values(option, root) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{toml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind == "array":
        return f"list of {plural(values(schema.get('items', {}), root))}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    bounds = [
        f"{sign} {schema[key]:,}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema and schema[key] < 2**62
    ]
    return " ".join((words.get(kind, str(kind)), ", ".join(bounds))).strip()


def plural(words: str) -> str:
    """Return "numbers ≥ 0" for "number ≥ 0"."""
    return {"text": "texts"}.get(words, re.sub(r"number\b", "numbers", words))


def toml(value: Any) -> str:
    """Return a value as it is written in a spec."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, CheckedModel):
        return str(value.model_dump(exclude_defaults=True))
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(each) for each in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "keys of Spec": lambda: keys_of("Spec"),
    "keys of GridSpec": lambda: keys_of("GridSpec"),
    "keys of OwnNetwork": lambda: keys_of("OwnNetwork"),
    "keys of OwnProbe": lambda: keys_of("OwnProbe"),
    "presets": presets,
}


def fill(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the parts into a page; make code of links to folders outside of `docs`, and titles of file names."""
    folder = (DOCS / page).parent

    def without_folders(link: re.Match[str]) -> str:
        return f"`{link[1]}`" if (folder / link[2]).is_dir() else link[0]

    text = OUTWARD.sub(without_folders, source[0])
    text = FILE_NAMED.sub(r"[](\2)", text)  # the site names a page by its title
    for name, part in PARTS.items():
        if f"<!-- {name} -->" in text:
            text = text.replace(f"<!-- {name} -->", part())
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the event."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
