"""Names of metrics: those of the user's own functions, and those that a result or a file can't hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nearzero.errors import InputError
from nearzero.support.names import has_unwritable

__all__ = ["PERPLEXITY", "by_name", "check_names", "with_losses"]

PERPLEXITY, LOSS = "perplexity", "cross_entropy"

# names in results, which a metric can't have
DIMENSIONS = ("layer", "family", "level", "item", "sequence", "token", "example", "side", "target", "unit")
LAYER_FACTS = ("kind", "type", "activation", "units", "unit_axis", "dead_units", "rows", "partial")
METHOD_FACTS = ("offset", "range", "method", "reason", "backend", "unit_minimum", "unit_maximum")
SIZES = ("displacement", "displacement_here", "median_displacement", "whitened_displacement")
LOGIT_SIZES = ("logit_displacement", "centred_logit_displacement")
COUNTS = ("undefined_examples", "predictions", "not_finite")
TAKEN = {*DIMENSIONS, *LAYER_FACTS, *METHOD_FACTS, *SIZES, *LOGIT_SIZES, *COUNTS}
DERIVED = ("unperturbed_{}", "centred_{}", "{}_items", "unperturbed_{}_items")


def by_name(wanted: Any) -> dict[str, Any]:
    """Return metrics by name; a function has its own name.

    Raises:
        InputError: no names or functions, or two functions of one name.
    """
    if isinstance(wanted, Mapping):
        return dict(wanted)
    if isinstance(wanted, str) or callable(wanted):
        wanted = (wanted,)
    if not isinstance(wanted, Iterable):
        raise InputError(
            f"metrics must be names, functions of (logits, target), or a mapping; got {wanted!r}"
        )
    named: dict[Any, Any] = {}
    for metric in wanted:
        name = getattr(metric, "__name__", type(metric).__name__) if callable(metric) else metric
        if not isinstance(name, str):
            raise InputError(f"the name of a metric must be text; got {name!r}")
        held = named.setdefault(name, metric)
        if held is not metric and not (isinstance(held, str) and isinstance(metric, str)):
            raise InputError(
                f"two metrics are called {name!r}; give a mapping, in which each has a name of its own: "
                "metrics={'first': ..., 'second': ...}"
            )
    return named


def check_names(names: Collection[str]) -> None:
    """Raise an error for names that metrics can't have.

    Raises:
        InputError: a name that the result uses; or one that a NetCDF file can't hold: an empty name; "."; a
            slash, a control character or half of a surrogate pair in it; or the prefix that netCDF has for itself.
    """
    derived = {form.format(name) for name in names for form in DERIVED}
    for name in names:
        if name in TAKEN or name in derived:
            raise InputError(
                f"a metric can't be called {name!r}, since the result uses this name already; name it in a mapping: "
                "metrics={'name': ...}"
            )
        reserved = name in ("", ".") or name.startswith("_nc4_non_coord_")
        if reserved or "/" in name or has_unwritable(name):
            raise InputError(
                f"a metric can't be called {name!r}, since a file can't hold this name; name it without slashes and "
                "control characters, in a mapping: metrics={'name': ...}"
            )


def with_losses(wanted: Any) -> tuple[Any, dict[str, str]]:
    """Return the metrics to measure, and by the name of each perplexity that of the loss it is computed from.

    The perplexity is exp of the mean loss over all items, so it is no mean of numbers that items have.

    Args:
        wanted: the metrics that were asked for; None for the default ones.

    Raises:
        InputError: as `by_name` and `check_names`, or a function of the user's own has the name of the loss.
    """
    named = {} if wanted is None else by_name(wanted)
    derived = [name for name, metric in named.items() if isinstance(metric, str) and metric == PERPLEXITY]
    if not derived:
        return wanted, {}
    check_names(derived)
    measured = {name: metric for name, metric in named.items() if name not in derived}
    losses = [name for name, metric in measured.items() if isinstance(metric, str) and metric == LOSS]
    loss = losses[0] if losses else LOSS
    if measured.setdefault(loss, LOSS) != LOSS:
        raise InputError(
            f"{PERPLEXITY} is computed from {LOSS}, which is the name of another metric here; give that another name"
        )
    return measured, dict.fromkeys(derived, loss)
