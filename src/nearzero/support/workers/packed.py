"""Objects of a user's that go to workers: pickled here, and refused clearly where that isn't possible."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from nearzero.errors import InputError
from nearzero.support.users import reason
from nearzero.support.workers.workers import Workers

__all__ = ["Packed"]


@dataclass(frozen=True)
class Packed:
    """An object that jobs need: itself in this process, and pickled for other processes.

    Executors pickle what they are given themselves, but one that fails to unpickle it in a worker loses the worker.

    Attributes:
        what: the object in words, for messages.
        held: the object, for jobs in this process.
        content: its pickle, for jobs in other processes; None in this process.
    """

    what: str
    held: Any = None
    content: bytes | None = None

    @classmethod
    def of(cls, value: Any, what: str, workers: Workers) -> Packed:
        """Return an object as the workers need it.

        Raises:
            InputError: it can't be sent to another process.
        """
        if workers.are_here:
            return cls(what, held=value)
        try:
            return cls(what, content=pickle.dumps(value))
        except Exception as error:  # a user's class may raise anything
            raise cls._refusal(what, error) from error

    def open(self) -> Any:
        """Return the object.

        Raises:
            InputError: this process can't import what it is made of.
        """
        if self.content is None:
            return self.held
        try:
            # made by the process that gave this job, as all that executors send
            return pickle.loads(self.content)  # noqa: S301  # nosec B301
        except Exception as error:
            raise self._refusal(self.what, error) from error

    @staticmethod
    def _refusal(what: str, error: Exception) -> InputError:
        return InputError(
            f"{what} can't be sent to a worker ({reason(error)}); name it (file.py:function, hf:, timm:, "
            "torchvision:), or define its classes and functions in a module that workers can import"
        )
