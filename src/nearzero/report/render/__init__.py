"""Six renderers of a table: `terminal` (rich), `markdown`, `delimited` (CSV), `structured` (JSON), `latex` and `html`.

A renderer turns a `Table` into text and decides nothing about its contents. The renderer for the terminal
isn't imported here, so that writing files doesn't import rich.
"""

from nearzero.report.render.delimited import to_csv
from nearzero.report.render.latex import to_latex
from nearzero.report.render.markdown import to_markdown
from nearzero.report.render.structured import to_json

__all__ = ["to_csv", "to_json", "to_latex", "to_markdown"]
