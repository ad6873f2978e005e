"""Names of models and of data in a spec: which values are names, what is filled into them, and their local paths.

A name of a library, such as "hf:org/name-{size}-seed{seed}", takes the place of a function. What stands in braces is
`seed`, what varies, or a constant under [network.arguments].
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from string import Formatter
from typing import TYPE_CHECKING, Any

from nearzero.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from nearzero.torch_models.named import Loading

__all__ = [
    "OF_DATA",
    "OF_MODELS",
    "filled",
    "is_data_name",
    "is_model_name",
    "loading_of",
    "placeholders",
    "with_path",
]

LOCAL = re.compile(r"((?:\w+:)+)(/.*|\.{1,2}(?:/.*)?)")  # prefixes, and the path of a file or folder
OF_MODELS = ("auto_class", "dtype", "untrained")
OF_DATA = ("column", "labels", "classes", "block", "examples", "preprocess")


def is_model_name(name: str) -> bool:
    """Return whether a name is that of a library's model or data, and not of a function."""
    from nearzero.torch_models.named import is_named

    return is_named(name)


def is_data_name(name: str) -> bool:
    """Return whether a name leads to texts or images that a model's preprocessing turns into inputs."""
    from nearzero.torch_models.named import is_raw

    return is_raw(name)


def placeholders(name: str) -> list[str]:
    """Return what stands in braces in a name, each once.

    Raises:
        InputError: the braces can't be read.
    """
    try:
        parts = [field for _, field, _, _ in Formatter().parse(name) if field is not None]
    except ValueError as error:
        raise InputError(f"the braces in {name!r} can't be read: {error}") from error
    if wrong := [part for part in parts if not part.isidentifier()]:
        raise InputError(
            f"braces hold seed or the name of an argument, as in {{seed}}; got {{{wrong[0]}}} in {name!r}"
        )
    return list(dict.fromkeys(parts))


def filled(name: str, values: Mapping[str, Any]) -> str:
    """Return a name with the values of what stands in braces; all of them must be there."""
    return name.format_map(values)


def loading_of(settings: Mapping[str, Any] | None) -> Loading:
    """Return the settings of models and data by name.

    Raises:
        InputError: an unknown key, or a value that can't be used.
    """
    from nearzero.torch_models.named import Loading

    known = [*OF_MODELS, *OF_DATA]
    for key in settings or {}:
        if key not in known:
            raise InputError(
                f"unknown key {key!r} in [network.loading]: {did_you_mean(key, known)}known are {', '.join(known)}"
            )
    return Loading(**(settings or {}))


def with_path(name: str, change: Callable[[str], str]) -> str:
    """Return a name with its local path, if it has one, changed by a function, which makes it absolute or relative."""
    local = LOCAL.fullmatch(name)
    if local is not None:
        changed = change(local[2])
        return f"{local[1]}{changed if changed.startswith(('.', '/')) else f'./{changed}'}"
    changed = change(name)
    there = next((path for path in (changed, name) if os.path.isabs(path)), None)
    return changed if ":" not in name and there is not None and is_data_name(there) else name
