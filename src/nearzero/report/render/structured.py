"""Tables as JSON, for scripts: every number at full precision, under the names that a CSV file has."""

import json
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

from nearzero.report.render.delimited import Field, field_names, fields
from nearzero.report.table import Table

__all__ = ["to_json"]


def to_json(tables: Iterable[Table], lines: Iterable[str] = ()) -> str:
    """Return tables and the lines that conclude them as one JSON object, with a line feed at its end.

    The object has "conclusions", the lines, and "tables": by its name, each table's "title", "caption", "notices" and
    "rows". A row has the fields of a CSV file by name; null where there is no number, or none that is finite.

    Example:
        >>> from nearzero.report.render import to_json
        >>> from nearzero.report.table import text_table
        >>> print(to_json([text_table("layers", [{"layer": "act", "units": "64"}])], ["One layer."]), end="")
        {
          "conclusions": [
            "One layer."
          ],
          "tables": {
            "layers": {
              "title": "",
              "caption": "",
              "notices": [],
              "rows": [
                {
                  "layer": "act",
                  "units": 64
                }
              ]
            }
          }
        }
    """
    content = {"conclusions": list(lines), "tables": {table.name: _contents(table) for table in tables}}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _contents(table: Table) -> dict[str, Any]:
    names = list(chain.from_iterable(map(field_names, table.columns)))
    rows = (chain.from_iterable(map(fields, table.columns, row)) for row in table.rows)
    return {
        "title": table.title,
        "caption": table.caption,
        "notices": list(table.notices),
        "rows": [dict(zip(names, map(_value, row), strict=True)) for row in rows],
    }


def _value(field: Field) -> Field:
    return None if isinstance(field, float) and not math.isfinite(field) else field
