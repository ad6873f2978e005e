"""The user's settings for models and data that are given by name: what overrules what is read off or inferred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nearzero.errors import InputError, check_choice
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.loading import PixelScale

__all__ = ["AUTO_CLASSES", "NEW_WEIGHTS", "AutoClass", "Loading", "Preprocess"]

AutoClass = Literal[
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSequenceClassification",
    "AutoModelForImageClassification",
]
AUTO_CLASSES: tuple[str, ...] = get_args(AutoClass)
Preprocess = str | Callable[[Any], Any]
NONE, ORDER, TEXTS = "none", "order", "texts"
NEW_WEIGHTS = Assumption(
    "weights", "new and random, from PyTorch's generator", "given", "Loading(untrained=)"
)


@dataclass(frozen=True, kw_only=True)
class Loading:
    """Hold the settings for models and data by name. What is None is inferred, and recorded in the assumptions.

    Attributes:
        auto_class: the class of `transformers` that loads a model, one of `AutoModelForCausalLM`,
            `AutoModelForMaskedLM`, `AutoModelForSequenceClassification` and `AutoModelForImageClassification`; by the
            `architectures` in the model's configuration if None.
        dtype: the precision of the weights, such as "float32"; as they were saved if None.
        untrained: whether a model by name gets new random weights, from PyTorch's global generator, in the place of its
            own.
        column: the column with the texts or images.
        labels: the column with the labels, or "none" to leave labels out.
        classes: what class of the model each class of the data is: a mapping from names in the data to the model's
            classes, by name or number; or "order", for class k of the data to be class k of the model.
        block: the number of tokens in a block, where texts are joined and cut into blocks; or "texts" for one text in
            a row.
        examples: the number of examples (or blocks) that are taken, from the first; all if None.
        preprocess: the name of a model whose preprocessing is applied, or a function from an image to a tensor.
        pixels, split, data_dir: of data sets that nearzero knows (mnist), see
            `nearzero.torch_models.loading.load_data`.

    Raises:
        InputError: a setting has an impossible value.

    Example:
        >>> import nearzero as nz
        >>> nz.Loading(column="sentence", block=128).block
        128
        >>> nz.Loading(auto_class="AutoModelForCausualLM")
        Traceback (most recent call last):
        nearzero.errors.InputError: auto_class must be one of AutoModelForCausalLM, ...
    """

    auto_class: AutoClass | None = None
    dtype: str | None = None
    untrained: bool = False
    column: str | None = None
    labels: str | None = None
    classes: Mapping[str, str | int] | Literal["order"] | None = None
    block: int | Literal["texts"] | None = None
    examples: int | None = None
    preprocess: Preprocess | None = None
    pixels: PixelScale = "raw"
    split: str = "test"
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if self.auto_class is not None:
            check_choice("auto_class", self.auto_class, AUTO_CLASSES)
        if self.block != TEXTS:
            _check_count("block", self.block, " or 'texts'", least=2)
        _check_count("examples", self.examples)
        if type(self.untrained) is not bool:
            raise InputError(f"untrained must be true or false; got {self.untrained!r}")
        if self.classes is not None and self.classes != ORDER and not isinstance(self.classes, Mapping):
            raise InputError(
                f"classes must be 'order', or a mapping from names in the data to classes; got {self.classes!r}"
            )
        if (
            self.preprocess is not None
            and not isinstance(self.preprocess, str)
            and not callable(self.preprocess)
        ):
            raise InputError(
                f"preprocess must be the name of a model or a function; got {type(self.preprocess).__name__}"
            )

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Refuse settings that have no effect.

        Raises:
            InputError: one of them was given.
        """
        for name in names:
            if getattr(self, name) not in (None, False):
                raise InputError(f"{name}={getattr(self, name)!r} has no effect here: {reason}; leave it out")


def _check_count(name: str, value: object, others: str = "", least: int = 1) -> None:
    if value is not None and (type(value) is not int or value < least):
        raise InputError(f"{name} must be a whole number, at least {least}{others}; got {value!r}")
