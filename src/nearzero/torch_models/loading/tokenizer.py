"""A tokenizer by name: a function of the user's own, or a folder in which a tokenizer of transformers was saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nearzero.errors import InputError
from nearzero.torch_models.loading.objects import object_of, result_of, with_article

__all__ = ["load_tokenizer"]

FILES = ("tokenizer.json", "tokenizer_config.json")  # one of which a saved tokenizer has


def load_tokenizer(name: str) -> Any:
    """Return the tokenizer of a name.

    Args:
        name: `package.module:function` or `file.py:function`, which returns the tokenizer or is it; or a folder.

    Raises:
        InputError: there is none, it can't be read, or it isn't a tokenizer.

    Example:
        >>> from nearzero.torch_models.loading import load_tokenizer
        >>> load_tokenizer("saved")
        Traceback (most recent call last):
        nearzero.errors.InputError: a tokenizer is a folder or package.module:function; there is no folder saved
    """
    if name.startswith("hf:"):
        raise InputError(
            f"a tokenizer is a folder or package.module:function; got {name!r}; a model by name has its own"
        )
    if ":" in name:
        named = object_of(name, "a tokenizer")
        is_one = callable(getattr(named, "decode", None)) and not isinstance(named, type)
        tokenizer = result_of(named, name) if callable(named) and not is_one else named
    else:
        tokenizer = _saved(Path(name))
    if not callable(tokenizer) or not callable(getattr(tokenizer, "decode", None)):
        raise InputError(
            f"{name} gives {with_article(tokenizer)}, not a tokenizer: a function from a text to a mapping with "
            "'input_ids', with a method decode"
        )
    return tokenizer


def _saved(folder: Path) -> Any:
    """Return the tokenizer that transformers saved to a folder; nothing is loaded from a net, nor run.

    Raises:
        InputError: there is none, or no transformers.
    """
    if not folder.is_dir():
        raise InputError(f"a tokenizer is a folder or package.module:function; there is no folder {folder}")
    if not any((folder / name).is_file() for name in FILES):
        raise InputError(f"the folder {folder} holds no tokenizer: there is no {' or '.join(FILES)} in it")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError(f"the tokenizer in {folder} needs transformers: pip install transformers") from error
    try:
        # a folder of this machine has no revision to pin
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)  # nosec B615
    except (OSError, ValueError, KeyError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"transformers can't read the tokenizer in {folder}: {line}") from error
