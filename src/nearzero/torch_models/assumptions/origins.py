"""Know by the operations that made a tensor whether it holds logits or probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nearzero.torch_models.replay import tensors_in

__all__ = ["Origins", "TracedOutput"]

PROBABILITIES = ("sigmoid", "hardsigmoid", "special_expit", "_softmax", "_safe_softmax", "softmax")
LOG_PROBABILITIES = ("_log_softmax", "log_softmax", "log_sigmoid_forward")
# parts of names of operations whose results have no bounds
AFFINE = (
    "addmm",
    "mm",
    "bmm",
    "addmv",
    "linear",
    "convolution",
    "embedding",
    "batch_norm",
    "layer_norm",
    "group_norm",
)
# Operations that keep what their first argument holds; clamps of probabilities are for logarithms.
KEEPING = {
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand"),
    *("select", "slice", "index", "index_select", "gather", "split", "split_with_sizes", "unbind"),
    *("alias", "detach", "clone", "contiguous", "_to_copy", "lift_fresh", "flip", "roll"),
    *("clamp", "clamp_min", "clamp_max", "masked_fill"),
}
JOINING = ("cat", "stack")
MEANS = (
    "mean",
    "avg_pool",
    "upsample",
)  # parts of names; means of logits or of probabilities are of that kind
SUMS = ("add", "sub", "rsub")  # of logits and anything that isn't known are logits
MULTIPLES = ("mul", "div", "neg")  # of logits, by what isn't known
INVERSE = {"log": ("probabilities", "log-probabilities"), "exp": ("log-probabilities", "probabilities")}


@dataclass(frozen=True, eq=False)
class TracedOutput:
    """Hold what the operations of a forward pass say about its output.

    Attributes:
        logits: the output, for a few examples.
        kind: "logits", "probabilities" or "log-probabilities"; "" if the operations don't tell.
        made_by: the operation that tells; "" if none does.
        class_axes: the dimensions that the units of the last product or convolution are on; None if unknown.
    """

    logits: Tensor
    kind: str = ""
    made_by: str = ""
    class_axes: tuple[int, ...] | None = None


class Origins:
    """Note what the tensors of one forward pass hold, which the caller keeps."""

    def __init__(self) -> None:
        self._kinds: dict[int, tuple[str, str]] = {}  # by tensor: the kind, and the operation that tells

    def of(self, tensor: Tensor) -> tuple[str, str]:
        """Return what a tensor holds and the operation that tells it; empty if unknown."""
        return self._kinds.get(id(tensor), ("", ""))

    def forget(self, tensor: Tensor) -> None:
        """Forget a tensor, which the caller doesn't keep any longer."""
        self._kinds.pop(id(tensor), None)

    def follow(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Note what one result of an operation holds."""
        self._kinds[id(result)] = self._after(name.removesuffix("_"), list(tensors_in(args)))

    def _after(self, name: str, sources: list[Tensor]) -> tuple[str, str]:
        if name in PROBABILITIES:
            return "probabilities", name.strip("_")
        if name in LOG_PROBABILITIES:
            return "log-probabilities", name.strip("_")
        if any(name.endswith(affine) for affine in AFFINE):
            return "logits", name
        known = [self.of(source) for source in sources]
        first = known[0] if known else ("", "")
        kinds = [kind for kind, _ in known if kind]
        if name in INVERSE:
            before, after = INVERSE[name]
            return (after, first[1]) if first[0] == before else ("", "")
        if name in KEEPING or (name in JOINING and len(set(known)) == 1):
            return first
        if any(part in name for part in MEANS):
            return first if first[0] != "log-probabilities" else ("", "")
        if (name in SUMS and set(kinds) == {"logits"}) or (
            name in MULTIPLES and kinds == ["logits"] == [first[0]]
        ):
            return next(origin for origin in known if origin[0])
        return "", ""
