"""Arrays in a page: little-endian bytes as base64, each in an element of its own, read by `assets/arrays.js`."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nearzero.report.render.markup import Markup, tag

__all__ = ["embed_arrays"]

# The types that a page can hold, with the names of JavaScript's typed arrays.
TYPES = {
    "uint8": "Uint8Array",
    "uint16": "Uint16Array",
    "uint32": "Uint32Array",
    "float32": "Float32Array",
    "float64": "Float64Array",
}


def embed_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> Markup:
    """Return elements that hold arrays; the browser doesn't run or show them.

    Args:
        arrays: by name; of the types uint8, uint16, uint32, float32 and float64.

    Raises:
        TypeError: an array of another type.

    Example:
        >>> import numpy as np
        >>> from nearzero.page.arrays import embed_arrays
        >>> embed_arrays({"w2": np.array([[1.0, 2.0]], np.float32)})
        '<script type="text/plain" data-array="w2" data-type="Float32Array" data-shape="1,2">AACAPwAAAEA=</script>'
    """
    return Markup("\n".join(_element(name, values) for name, values in arrays.items()))


def _element(name: str, values: npt.NDArray[Any]) -> Markup:
    if values.dtype.name not in TYPES:
        raise TypeError(
            f"a page can't hold an array of {values.dtype}; {name} must be one of {', '.join(TYPES)}"
        )
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return tag(
        "script",
        Markup(base64.b64encode(little.tobytes()).decode("ascii")),
        type="text/plain",
        data_array=name,
        data_type=TYPES[values.dtype.name],
        data_shape=",".join(map(str, values.shape)),
    )
