"""The result of a probe: responses as labelled arrays, which can be saved, opened and drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from nearzero.analysis.sweep import NOT_FINITE
from nearzero.analysis.verdict import Rules, costs
from nearzero.errors import InputError, did_you_mean
from nearzero.evaluators.base import EARLIER_HALVES, Scores
from nearzero.evaluators.metrics import by_name
from nearzero.evaluators.plan import LayerPlan
from nearzero.probing.saved import REMEDY, check_counts, read_saved
from nearzero.probing.summary import ProbeSummary, notes, summary_rows
from nearzero.report.figures.scales import metric_text
from nearzero.statistics.bootstrap import bootstrap_items
from nearzero.support.files import make_folder, parsing, write_bytes, write_text
from nearzero.support.netcdf import listed_texts, netcdf_content, parsing_loaded
from nearzero.support.words import number_of
from nearzero.torch_models.assumptions import Assumption, read_json
from nearzero.torch_models.named import Origin

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LayerResponse", "ProbeResult", "dataset", "with_perplexities"]

Doubles = npt.NDArray[np.float64]
FORMAT = "nearzero probe 1"
FILE, MATCHED = "probe.nc", "matched.nc"
PAGE_CODE = """\
result = nz.probe(model, data, keep_items=True)  # with the settings under "What was assumed"
result.to_html("page.html")"""
CURVE = ("layer", "family", "level")
EXP_OF = "exp_of"  # the attribute of a perplexity that names its loss


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Hold the responses of some layers of one model.

    Attributes:
        response: a Dataset on (layer, family, level). For each metric: its mean over the items (examples, or
            tokens that count), NaN where a family doesn't have a level; and `unperturbed_<metric>`. For each
            layer: `units`, `dead_units`, `activation`, `unit_axis`, `method` (how the logits were computed),
            `reason` (why the suffix couldn't be used), `offset` and `range` (the conduct), `rows` (how many
            count) and `partial` (whether some examples don't reach it, or give it another number of rows).
            `not_finite`, if logits are NaN or infinite anywhere: how many items have such logits. With `keep_items`
            also `<metric>_items` on (layer, family, level, item), `unperturbed_<metric>_items`, and of each item
            `sequence`, `token` and, if it is a class, `target`. `unit_minimum` and `unit_maximum` on (layer, unit)
            are the unit ranges, on the side that `range` names. Its attributes hold the assumptions, whether the logits
            at a token predict the next (`causal`), and the versions of packages.
        at_displacements: with a `design`, the responses at matched displacement, see `matched`; else None.

    Example:
        >>> import nearzero as nz
        >>> import numpy as np
        >>> model = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu").to_module()
        >>> x = np.array([[2, 1], [1, 2], [5, 4], [4, 5]], dtype=np.float32)
        >>> result = nz.probe(model, (x, np.array([0, 1, 0, 1])), families="clip", levels=[0.0, 1.0])
        >>> print(result.headline)
        Sequential, 4 items, unperturbed: accuracy 100.00 %, agreement 100.00 %
        >>> result.summary()[0]["clip"]
        '50.00 % at 0'
    """

    response: xr.Dataset
    at_displacements: xr.Dataset | None = None

    def _repr_html_(self) -> str:
        """Return what notebooks display: the map of layers, the summary and the notes."""
        from nearzero.report.notebook import probe_html

        with parsing_loaded(self.response, REMEDY):
            tables = (summary := self.summary()), summary.assumptions
            return probe_html(self.headline, tables, self.notes, self.plot, self._measured(None))

    @property
    def assumptions(self) -> tuple[Assumption, ...]:
        """Return what was inferred about the model and the data, with the argument that sets it; () if unknown."""
        return read_json(self.response.attrs.get("assumptions", "[]"))

    @property
    def origins(self) -> dict[str, Origin]:
        """Return where the model and the data come from, if they were given by name: name, revision and hashes."""
        known = {what: self.response.attrs.get(f"{what}_origin") for what in ("model", "data")}
        return {what: Origin.from_json(text) for what, text in known.items() if text is not None}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the name of each class; () if the names aren't known."""
        return tuple(json.loads(self.response.attrs.get("class_names", "[]")))

    @property
    def matched(self) -> xr.Dataset:
        """Return the responses at levels of equal displacement, on (layer, family, side, target).

        The reference half of the examples sets unit ranges and levels; the responses are those of the other
        half. `nz.verdict` takes these datasets, one for each run of a model.

        Raises:
            InputError: the probe had no `design`.
        """
        if self.at_displacements is None:
            raise InputError(
                "this probe has no responses at matched displacement; probe with design=nz.Design(...)"
            )
        return self.at_displacements

    @property
    def layers(self) -> list[str]:
        """Return the names of the layers, in the order of the forward pass."""
        return [str(name) for name in self.response.layer.values]

    @property
    def notes(self) -> list[str]:
        """Return what restricts the numbers, as texts: what was left out, isn't finite, is dead, can't be compared."""
        return notes(self.response, self.assumptions)

    def summary(self) -> ProbeSummary:
        """Return a row of texts for each layer: its properties, and the most extreme response of each family.

        The printed summary has a second table, of the assumptions.
        """
        return ProbeSummary(summary_rows(self.response), self.assumptions)

    @property
    def headline(self) -> str:
        """Return one line with the model, the number of items and the unperturbed metrics."""
        data = self.response
        values = (
            f"{metric.replace('_', ' ')} {metric_text(metric, float(data[f'unperturbed_{metric}']))}"
            for metric in map(str, data.attrs["metrics"])
        )
        return f"{data.attrs['model']}, {number_of(int(data.attrs['items']), 'item')}, unperturbed: {', '.join(values)}"

    @property
    def conclusion(self) -> str:
        """Return one line on the response that is farthest from the unperturbed model, by the first metric."""
        metric = self._measured(None)
        base = float(self.response[f"unperturbed_{metric}"])
        responses = self.response[metric].stack(place=("layer", "family", "level")).dropna("place")
        if not responses.size or not np.isfinite(base):
            return "nothing was measured"
        extreme = responses.isel(place=int(np.abs(responses.values - base).argmax()))
        layer, family, level = extreme.place.item()
        name = metric.replace("_", " ")
        if float(extreme) == base:
            return f"{name} stays {metric_text(metric, base)} at every level, in every layer"
        return (
            f"farthest from the unperturbed model: {layer} under {family} {level:.3g}, {name} "
            f"{metric_text(metric, float(extreme))} (unperturbed {metric_text(metric, base)})"
        )

    def intervals(
        self, metric: str | None = None, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> xr.Dataset:
        """Return intervals of a metric for new examples: `low` and `high` on (layer, family, level).

        The examples are resampled with replacement, all items of an example together, and the ends are quantiles of
        the means over items (percentile bootstrap; Efron and Tibshirani, 1993). The model is fixed.

        Args:
            metric: one of the metrics that were measured; the first if None.
            confidence: of the intervals.
            resamples: the number of resamples.
            seed: of the resamples, which are the same for all levels.

        Raises:
            InputError: the probe didn't keep its items, or the metric wasn't measured.

        Example:
            >>> import nearzero as nz
            >>> import numpy as np
            >>> model = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu").to_module()
            >>> x = np.array([[2, 1], [1, 2], [5, 4], [4, 5]], dtype=np.float32)
            >>> data = (x, np.array([0, 1, 0, 1]))
            >>> result = nz.probe(model, data, families="clip", levels=[0.0], keep_items=True)
            >>> result.response.accuracy.item(), result.intervals("accuracy").low.item()
            (0.5, 0.0)
        """
        name, items, back = self._items_of(metric)
        values, sequence = items.values.reshape(-1, items.sizes["item"]), items.sequence.values
        ends = np.full((2, len(values)), np.nan)
        known = ~np.isnan(values).any(axis=1)
        for argument, number in {"resamples": resamples, "seed": seed}.items():
            if type(number) is not int or number < 0:
                raise InputError(f"{argument} must be a whole number from 0; got {number!r}")
        if known.any():
            rng = np.random.default_rng(seed)
            ends[:, known] = bootstrap_items(values[known], sequence, rng, confidence, resamples)
        shape = items.shape[:-1]
        coords = {dim: self.response[dim] for dim in CURVE}
        return xr.Dataset(
            {end: (CURVE, back(row).reshape(shape)) for end, row in zip(("low", "high"), ends, strict=True)},
            coords,
            {"metric": name, "confidence": confidence, "resamples": resamples, "seed": seed},
        )

    def matched_differences(
        self, rules: Rules | None = None, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> xr.Dataset:
        """Return the costs of this one model at matched displacement, and D with intervals for new examples.

        D is the cost of distance minus that of intensity, as in a verdict. The examples of the responding half are
        resampled with replacement, all items of an example together (percentile bootstrap). The model, its levels and
        its draws are fixed, so the intervals say nothing about other trainings; `nz.judge_runs` does.

        Args:
            rules: the families and the measure; `Rules()` if None. Its targets are those of the probe's design.
            confidence: of the intervals.
            resamples: the number of resamples.
            seed: of the resamples, which all layers share.

        Returns:
            A Dataset on (layer, intensity, target): `distance_cost`, `intensity_cost`, `difference`, `low` and `high`,
            in the unit of costs; NaN where a displacement isn't reached.

        Raises:
            InputError: the probe had no `design` or didn't keep its items, or a family or the measure is missing.

        Example:
            >>> import numpy as np
            >>> import nearzero as nz
            >>> from nearzero.mechanisms.planted import distance_network, prototype_task
            >>> task = prototype_task(np.random.default_rng(0), examples=200)
            >>> model = distance_network(task, np.random.default_rng(0)).to_module()
            >>> result = nz.probe(model, (task.x, task.y), design=nz.Design(targets=(0.5,)), keep_items=True)
            >>> found = result.matched_differences()
            >>> bool((found.low > 0).all())  # on these examples and on others like them, distance costs more
            True
        """
        rules = rules or Rules()
        matched = self.matched
        if "sequence" not in matched:
            raise InputError("this needs the metric of every item; probe with keep_items=True")
        families = [*rules.distance, *rules.intensity]
        if missing := [name for name in families if name not in matched.family.values]:
            raise InputError(f"the design of this probe has no {missing[0]}; give it in families=")
        measure = rules.measure
        if f"{measure}_items" not in matched:
            known = (str(name) for name in self.response.attrs["metrics"])
            raise InputError(f"there is no {measure} item by item; measured were {', '.join(known)}")
        names = (measure, f"unperturbed_{measure}")
        items = xr.Dataset({name: matched[f"{name}_items"] for name in names})
        cost = costs(items.sel(family=families).astype(np.float64), measure)
        distance = cost.sel(family=list(rules.distance)).mean("family", skipna=False)
        intensity = cost.sel(family=list(rules.intensity)).rename(family="intensity")
        difference = (distance - intensity).transpose("layer", "intensity", "target", "item")
        rows = difference.values.reshape(-1, difference.sizes["item"])
        reached = ~np.isnan(rows).any(axis=1)
        ends = np.full((2, len(rows)), np.nan)
        if reached.any():
            rng = np.random.default_rng(seed)
            ends[:, reached] = bootstrap_items(
                rows[reached], matched.sequence.values, rng, confidence, resamples
            )
        means = difference.mean("item", skipna=False)
        low, high = (means.copy(data=row.reshape(means.shape)) for row in ends)
        return xr.Dataset(
            {
                "distance_cost": distance.mean("item", skipna=False),
                "intensity_cost": intensity.mean("item", skipna=False),
                "difference": means,
                "low": low,
                "high": high,
            },
            attrs={"measure": measure, "confidence": confidence, "resamples": resamples, "seed": seed},
        )

    def by_class(self, metric: str | None = None) -> xr.DataArray:
        """Return the mean of a metric over the items of each class, on (layer, family, level, target).

        Args:
            metric: one of the metrics that were measured; the first if None.

        Raises:
            InputError: the probe didn't keep its items, they have no classes, or the metric wasn't measured.

        Example:
            >>> import nearzero as nz
            >>> import numpy as np
            >>> model = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu").to_module()
            >>> x = np.array([[2, 1], [1, 2], [5, 4], [4, 5]], dtype=np.float32)
            >>> data = (x, np.array([0, 1, 0, 1]))
            >>> result = nz.probe(model, data, families="clip", levels=[0.0], keep_items=True)
            >>> result.by_class("accuracy").values.ravel().tolist()  # in a tie the first class is predicted
            [1.0, 0.0]
        """
        name, items, back = self._items_of(metric)
        if "target" not in items.coords:
            raise InputError("the items have no classes: there are no targets, or they aren't whole numbers")
        means = items.astype(np.float64).groupby("target").mean("item", skipna=False)
        return means.copy(data=back(means.values)).rename(name)

    def of_items(self, kept: npt.ArrayLike) -> ProbeResult:
        """Return a result with some of the kept items, for `by_class` and `intervals`; means and counts stay.

        Args:
            kept: a mask or indices of items.
        """
        return replace(self, response=self.response.isel(item=kept))

    def _items_of(self, metric: str | None) -> tuple[str, xr.DataArray, Callable[[Doubles], Doubles]]:
        """Return the name of a metric, values item by item, and the function from their means to the metric.

        These are the metric's own values and no function; of a perplexity, those of its loss, and exp.
        """
        name = self._measured(metric)
        loss = self.response[name].attrs.get(EXP_OF)
        items = f"{loss or name}_items"
        if items not in self.response:
            raise InputError("this needs the metric of every item; probe with keep_items=True")
        return name, self.response[items], _exp if loss else _same

    def _measured(self, metric: str | None) -> str:
        """Return the name of a metric that was measured, the first one if None.

        Raises:
            InputError: the metric wasn't measured.
        """
        measured = [str(name) for name in self.response.attrs["metrics"]]
        if metric is not None and metric not in measured:
            hint = did_you_mean(metric, measured)
            raise InputError(f"metric {metric!r} wasn't measured: {hint}measured were {', '.join(measured)}")
        return metric or measured[0]

    def plot(self, metric: str | None = None) -> Figure:
        """Draw a metric as colour: a panel for each family, with a row for each layer and levels along x.

        Args:
            metric: one of the metrics that were measured; the first if None.

        Raises:
            InputError: the metric wasn't measured.
        """
        from nearzero.report.figures.layers import layer_map

        name = self._measured(metric)
        assumed = [f"{row.what}: {row.value}" for row in self.assumptions if not row.is_of_layer]
        return layer_map(self.response, name, assumed)

    def plot_lines(self, metric: str | None = None) -> Figure:
        """Draw a metric as lines: a panel for each family, with a line for each layer.

        If the probe kept its items, bands show the intervals over examples, see `intervals`.

        Args:
            metric: one of the metrics that were measured; the first if None.

        Raises:
            InputError: the metric wasn't measured.
        """
        from nearzero.report.figures.layers import layer_lines

        name = self._measured(metric)
        intervals = self.intervals(name) if f"{name}_items" in self.response else None
        return layer_lines(self.response, name, intervals)

    def to_html(
        self,
        path: str | Path | None = None,
        *,
        title: str = "",
        inputs: Any = None,
        decode: Callable[[list[int]], str] | None = None,
        class_names: Sequence[str] | None = None,
        examples: int = 64,
        code: str | None = None,
    ) -> str:
        """Return one self-contained HTML page, and write it to a file if there is a path; `docs/page.md` describes it.

        With items that were kept (`keep_items=True`) it has intervals over examples, classes, and examples or tokens.

        Args:
            path: of the file; none is written if None.
            title: a line that names the model and its data; the headline if empty.
            inputs: what to show of the examples, for all of them in the order of the data: pictures in uint8,
                (N, height, width) with channels or without, or tokens, as ids or texts.
            decode: a function from token ids to text, such as `tokenizer.decode`.
            class_names: the name of each class; those of the result if None.
            examples: the greatest number of examples that are embedded.
            code: the command or code that makes the page again, to show in it.

        Raises:
            InputError: inputs that aren't those of the probe or can't be shown, or the file can't be written.

        Example:
            >>> import nearzero as nz
            >>> import numpy as np
            >>> model = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu").to_module()
            >>> x = np.array([[2, 1], [1, 2], [5, 4], [4, 5]], dtype=np.float32)
            >>> result = nz.probe(model, (x, np.array([0, 1, 0, 1])), families="clip", levels=[0.0, 1.0])
            >>> result.to_html(title="Two units")[:15]
            '<!DOCTYPE html>'
        """
        from nearzero.page.probe.build import build_page

        names = self.class_names or None if class_names is None else class_names
        given = inputs is not None or decode is not None  # an error may be theirs
        with parsing_loaded(None if given else self.response, REMEDY):
            text = build_page(
                self, title or self.headline, inputs, decode, names, examples, code or PAGE_CODE
            )
        if path is not None:
            write_text(Path(path), text)
        return text

    def save(self, folder: str | Path) -> Path:
        """Write the responses (NetCDF), a table (CSV) and the figure (PNG, PDF) to a folder, and return the folder.

        Raises:
            InputError: the folder can't be written to.
        """
        from nearzero.report.figures.style import figure_files

        folder = make_folder(Path(folder))
        files = figure_files("layers", self.plot())  # first, so that an error here leaves no file behind
        for name, data in {FILE: self.response, MATCHED: self.at_displacements}.items():
            if data is not None:
                write_bytes(folder / name, netcdf_content(data))
        table = self.response[[*self.response.attrs["metrics"]]].to_dataframe().dropna(how="all")
        write_text(folder / "response.csv", table.to_csv())
        for name, content in files.items():
            write_bytes(folder / name, content)
        return folder

    @classmethod
    def open(cls, folder: str | Path) -> ProbeResult:
        """Read a result that `save` has written: from its folder, or from the file `probe.nc` there.

        Raises:
            InputError: the folder holds no result of a probe, or its files can't be read.
        """
        if Path(folder).name == FILE and Path(folder).is_file():
            folder = Path(folder).parent
        path, optional = Path(folder) / FILE, Path(folder) / MATCHED
        if not path.exists():
            raise InputError(f"{folder} holds no result of a probe: there is no {FILE}")
        response, matched = read_saved(path), read_saved(optional) if optional.exists() else None
        if matched is not None:
            matched.attrs.setdefault("halves", EARLIER_HALVES)
        if response.attrs.get("format") != FORMAT:
            raise InputError(f"{path} isn't the result of a probe (format {response.attrs.get('format')!r})")
        with parsing(path, REMEDY):
            response.attrs["metrics"] = listed_texts(response.attrs["metrics"])
            check_counts(response)
            result = cls(response, matched)
            result._check()
        result.response.encoding["source"] = str(path.parent)
        return result

    def _check(self) -> None:
        """Read all that a display of the result reads; what is missing or damaged raises an error of any kind."""
        versions = json.loads(self.response.attrs.get("versions", "{}"))
        str((versions, self.headline, self.notes, self.summary(), dict(self.response.sizes)))


@dataclass(frozen=True, eq=False)
class LayerResponse:
    """Hold the measurements of one layer.

    Attributes:
        plan: the layer's perturbations.
        scores: the metrics under these.
        method: how the logits were computed: "suffix", "full" or "two-layer".
        reason: why full passes were necessary, if they were; else "".
        rows: the number of rows of the layer that count.
        partial: whether some examples don't reach the layer, or give it another number of rows.
    """

    plan: LayerPlan
    scores: Scores
    method: str
    reason: str
    rows: int
    partial: bool


def _unit_ranges(plans: Sequence[LayerPlan]) -> dict[str, Any]:
    """Return minimum and maximum of each unit, on the side of the layer's conduct; NaN beyond a layer's units."""
    width = max(plan.layer.units for plan in plans)
    ends = np.full((2, len(plans), width), np.nan)
    for row, plan in enumerate(plans):
        unit = plan.ranges.on(plan.conduct.range)
        ends[:, row, : plan.layer.units] = unit.minimum, unit.maximum
    return {
        name: (("layer", "unit"), values)
        for name, values in zip(("unit_minimum", "unit_maximum"), ends, strict=True)
    }


def with_perplexities(response: xr.Dataset, perplexities: Mapping[str, str], wanted: Any) -> xr.Dataset:
    """Return a response with perplexities, exp of the mean loss over all items.

    Args:
        response: the means of all other metrics.
        perplexities: by name, the name of the loss.
        wanted: the metrics in the order in which they were asked for.
    """
    if not perplexities:
        return response
    added: dict[str, Any] = {}
    for name, loss in perplexities.items():
        about = {EXP_OF: loss}
        added[name] = (CURVE, _exp(response[loss].values), about)
        added[f"unperturbed_{name}"] = ((), _exp(response[f"unperturbed_{loss}"].values), about)
    names = [*by_name(wanted), *response.attrs["metrics"]]
    return response.assign(added).assign_attrs(metrics=list(dict.fromkeys(names)))


def _exp(values: Doubles) -> Doubles:
    """Return exp(x); infinite where it is too large."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(values))


def _same(values: Doubles) -> Doubles:
    return values


def dataset(responses: Sequence[LayerResponse], model: str) -> xr.Dataset:
    """Return the responses of all layers as labelled arrays; `model` is the name of the model's class."""
    plans, scores = [response.plan for response in responses], [response.scores for response in responses]
    families = list(plans[0].grids)
    axis = np.unique(np.concatenate([grid for plan in plans for grid in plan.grids.values()]))
    metrics = list(scores[0].means)

    def on_axis(rows_of_layers: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Move (L, ...) of each layer to (layer, family, level, ...), with NaN where a family lacks a level."""
        first_layer = rows_of_layers[0]
        shape = (len(plans), len(families), len(axis), *first_layer.shape[1:])
        full = np.full(shape, np.nan, first_layer.dtype)
        for layer, (plan, rows) in enumerate(zip(plans, rows_of_layers, strict=True)):
            first = 0
            for family, grid in enumerate(plan.grids.values()):
                full[layer, family, np.searchsorted(axis, grid)] = rows[first : first + len(grid)]
                first += len(grid)
        return full

    data: dict[str, Any] = {}
    if any(score.not_finite.any() for score in scores):
        counts = [score.not_finite.astype(np.float64) for score in scores]
        data["not_finite"] = (CURVE, on_axis(counts), NOT_FINITE)
    for name in metrics:
        data[name] = (CURVE, on_axis([score.means[name] for score in scores]))
        data[f"unperturbed_{name}"] = ((), scores[0].unperturbed[name])
    about: dict[str, list[Any]] = {
        "kind": [plan.layer.kind for plan in plans],
        "type": [plan.layer.type for plan in plans],
        "activation": [plan.layer.activation or "none" for plan in plans],
        "units": [plan.layer.units for plan in plans],
        "unit_axis": [plan.layer.unit_axis for plan in plans],
        "dead_units": [plan.ranges.dead_units for plan in plans],
        "offset": [plan.conduct.offset for plan in plans],
        "range": [plan.conduct.range for plan in plans],
        "method": [response.method for response in responses],
        "reason": [response.reason for response in responses],
        "rows": [response.rows for response in responses],
        "partial": [response.partial for response in responses],
    }
    data |= {name: ("layer", np.array(values)) for name, values in about.items()}
    data |= _unit_ranges(plans)
    coords: dict[str, Any] = {"layer": [plan.layer.name for plan in plans], "family": families, "level": axis}
    positions = scores[0].positions
    if positions is not None:
        coords |= {"sequence": ("item", positions[:, 0]), "token": ("item", positions[:, 1])}
        if scores[0].targets is not None:
            coords["target"] = ("item", scores[0].targets)
        for name in metrics:
            values = [score.values[name].astype(np.float32) for score in scores]
            data[f"{name}_items"] = ((*CURVE, "item"), on_axis(values))
            plain = scores[0].unperturbed_values[name].astype(np.float32)
            data[f"unperturbed_{name}_items"] = ("item", plain)
    attributes = {
        "format": FORMAT,
        "model": model,
        "metrics": metrics,
        "examples": scores[0].examples,
        "items": scores[0].items,
    }
    return xr.Dataset(data, coords, attributes)
