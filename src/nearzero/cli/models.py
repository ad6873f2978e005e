"""Commands for any PyTorch model: list its layers, probe them, and judge several trainings of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nearzero.cli.common import (
    BEGINS_ANEW,
    AsJson,
    DaskAddress,
    DataDir,
    Interrupted,
    Quiet,
    WorkerCount,
    app,
    argument,
    complete_data,
    complete_family,
    console_for,
    examples,
    option,
    result_folder,
    settings_from,
    the_console,
    workers_for,
    working,
)
from nearzero.cli.output import (
    finish,
    folders_line,
    print_line,
    probe_tables,
    response_table,
    this_command,
    verdict_conclusion,
)
from nearzero.errors import InputError
from nearzero.support.words import number_of

if TYPE_CHECKING:
    from rich.console import Console

    from nearzero.analysis.verdict import Verdict
    from nearzero.probing import ProbeResult
    from nearzero.report.table import Table
    from nearzero.support.workers import Workers
    from nearzero.torch_models.named import Loading, NamedModel

__all__ = (
    *(
        "BatchSize",
        "Causal",
        "Device",
        "Load",
        "Memory",
        "ModelName",
        "PixelOption",
        "Quantiles",
        "SplitOption",
    ),
    *(
        "UnitAxis",
        "Units",
        "Weights",
        "loading_of",
        "opened_model",
        "quantiles_of",
        "units_of",
        "users_errors",
    ),
)

MOST_UNITS = 10**7  # more than any layer has; a longer span would take the machine's memory

ModelName = Annotated[
    str,
    argument(
        "MODEL",
        "hf:org/name, timm:name or torchvision:name:weights; or package.module:function or file.py:function, which "
        "builds the model.",
    ),
]
Weights = Annotated[
    Path | None,
    option("The model's weights: safetensors, what PyTorch saved, an index of such files, or a folder."),
]
RunNames = Annotated[
    list[str], argument("MODEL", "As for nearzero probe; with several names, each is a run of its own.")
]
RunWeights = Annotated[
    list[Path] | None,
    option("A folder with a file of weights for each run; or the file of one run, repeated for each.", False),
]
RuleSettings = Annotated[
    list[str] | None,
    option("A rule, verdict_...; may be repeated.", False, "--set", metavar="KEY=VALUE"),
]
DataPlace = Annotated[
    str | None,
    argument("DATA", "hf:name:configuration:split, a folder of images, a text file; or as --data."),
]
DataName = Annotated[
    str | None,
    option(
        "In the place of DATA: a data set (mnist), a folder of IDX files, arrays x and y (.npz, .safetensors), or "
        "module:function.",
        False,
        complete=complete_data,
    ),
]
Load = Annotated[
    list[str] | None,
    option(
        "What a name leaves open: column, labels, classes, block, examples, preprocess, auto_class, dtype; may be "
        "repeated.",
        False,
        metavar="KEY=VALUE",
    ),
]
PixelOption = Annotated[str, option("Of images: raw (0 to 255), unit or normalized.", True)]
SplitOption = Annotated[str, option("Of a data set: test or train.", True)]
Causal = Annotated[
    bool | None,
    option(
        "Whether logits at a token are compared with the next token.", "found out", "--causal/--no-causal"
    ),
]
OutputPlace = Annotated[
    str | None, option("The key or index of the logits in the model's output.", "found", metavar="KEY")
]
OutputKind = Annotated[
    str | None, option("What the model returns: logits, probabilities or log-probabilities.", "found")
]
ClassAxis = Annotated[
    str | None, option("The output's dimension of the classes, or none if it has no such.", "found")
]
UnitAxis = Annotated[int | None, option("The dimension of the units in a layer's values.", "found")]
Units = Annotated[
    str | None, option("The units to perturb: 0,3,8-15, or each, one at a time.", "all", metavar="UNITS")
]
Quantiles = Annotated[
    str | None,
    option("Quantiles in the place of minimum and maximum.", "minimum, maximum", metavar="LOW,HIGH"),
]
BatchSize = Annotated[int | None, option("Examples at a time.", "256")]
BatchAxis = Annotated[
    str | None, option("The inputs' dimension of the examples: 0, 1, or none if they can't be cut.", "found")
]
Device = Annotated[str, option("The device for the model: cpu, cuda, mps.", True)]
Memory = Annotated[
    str | None, option('The memory that it may use, for example "2 GB".', "NEARZERO_MEMORY or 3 GB")
]


def opened_model(
    name: str, weights: Path | None, loading: Loading, device: str = "cpu"
) -> tuple[NamedModel, str]:
    """Return a model with its weights on a device, and a line or more that says where the weights are from."""
    from nearzero.study.steps import reaching
    from nearzero.torch_models.loading import watch_loading
    from nearzero.torch_models.named import is_named, open_model

    with watch_loading() as loaded:
        model = open_model(name, loading)
    with reaching(device):
        model.module.to(device)
    if weights is not None:
        model, found = model.with_weights(weights)
        return model, str(found)
    if is_named(name):
        return model, f"weights: {'new and random, not those of ' if loading.untrained else ''}{model.origin}"
    if loaded or not list(model.module.parameters()) or _is_pretrained(model.module):
        return model, f"weights: as {name} builds them"
    return model, f"weights: random, as {name} builds them; --weights loads others"


def _named_runs(
    names: list[str], weights: list[Path] | None, loading: Loading, device: str, workers: Workers
) -> tuple[Any, list[Path] | None]:
    """Return the models of several runs, or one model and the weights of each run; workers are given their names.

    Raises:
        InputError: one name without weights, or several with weights; or workers and a device.
    """
    from nearzero.torch_models.loading import weights_of_runs

    _check_device(device, workers)
    if weights and len(names) == 1:
        files = weights_of_runs(weights[0] if len(weights) == 1 else weights)
        if workers.executor is not None:
            return names[0], files
        return opened_model(names[0], None, loading, device)[0], files
    if weights or len(names) == 1:
        raise InputError(
            "a verdict needs several runs: several names of models, or one and --weights of each run"
        )
    if workers.executor is not None:
        return names, None
    return (opened_model(name, None, loading, device)[0] for name in names), None


def _check_device(device: str, workers: Workers) -> None:
    """Raise an error for workers with a device, on which they don't measure."""
    if workers.executor is not None and device != "cpu":
        raise InputError(
            f"workers measure on their processors; leave out --device {device}, or --workers and --dask"
        )


def _one_data(place: str | None, name: str | None) -> str:
    """Return the data that were named as DATA or by --data.

    Raises:
        InputError: they were named in both ways, or not at all.
    """
    if place is not None and name is not None:
        raise InputError(f"the data are named twice, {place} and --data {name}; leave one out")
    if place is None and name is None:
        raise InputError("the data are missing: name them after the model, or by --data")
    return str(place or name)


def loading_of(pairs: list[str] | None, pixels: str, split: str, data_dir: str | None) -> Loading:
    """Return the settings of all `--load` options, and those of a data set's images.

    Raises:
        InputError: an unknown key, or a value that can't be used.
    """
    from nearzero.errors import did_you_mean
    from nearzero.torch_models.loading import object_of
    from nearzero.torch_models.named import Loading, is_named

    settings: dict[str, Any] = {"pixels": pixels, "split": split, "data_dir": data_dir}
    keys = [field.name for field in fields(Loading) if field.name not in settings]
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if key not in keys or not equals:
            hint = did_you_mean(key, keys)
            raise InputError(f"--load takes KEY=VALUE: {hint}the keys are {', '.join(keys)}; got {pair!r}")
        settings[key] = {"true": True, "false": False}.get(value, _number_or_text(value))
        if key == "classes" and "=" in value:
            words = (each.partition("=") for each in value.split(","))
            settings[key] = {name: _number_or_text(number) for name, _, number in words}
        if key == "preprocess" and ":" in value and not is_named(value):
            settings[key] = object_of(value, "the preprocessing")
    return Loading(**settings)


def _is_pretrained(module: Any) -> bool:
    """Return whether a module of Hugging Face was made from saved weights, by the name that it then keeps."""
    parts = (getattr(part, "config", None) for part in module.modules())
    return any(getattr(config, "_name_or_path", "") for config in parts)


@contextmanager
def users_errors(model: str, data: str) -> Iterator[None]:
    """Turn errors in a user's model or data into one line that names the user's own file and line.

    An interruption says that nothing is kept: these commands can't continue later.

    With NEARZERO_DEBUG set, such an error passes as it is and shows its traceback.

    Raises:
        InputError: an error arose in a user's code.
    """
    try:
        with warnings.catch_warnings():  # the error itself says it in one line
            warnings.filterwarnings("ignore", message="Got pickle error")
            yield
    except KeyboardInterrupt as error:
        raise Interrupted(BEGINS_ANEW) from error
    except BaseException as error:  # a user's code may raise anything, SystemExit included
        explained = _explained(error, model, data)
        if explained is None or (os.environ.get("NEARZERO_DEBUG") and not isinstance(error, InputError)):
            raise
        raise InputError(explained) from error


def _explained(error: BaseException, model: str, data: str) -> str | None:
    """Return an error in a user's code in one line; None if it arose elsewhere."""
    from nearzero.support.users import failing_part, place, reason

    part, where = failing_part(error), place(error)
    if part is None and where is None:
        return None
    if where is None:
        where = f"data: {_definition(data)}"
        if part is not None and part.startswith("the model"):
            where = f"model: {_definition(model)}; {where}"
    if isinstance(error, InputError):
        line = str(error)
    else:
        line = reason(error) if part is None else f"{part}: {reason(error)}"
    return line if where in line else f"{line} ({where})"


def _definition(name: str) -> str:
    """Return a user's file and line in which a function or class is defined, by its name; else the name."""
    from nearzero.support.users import defined_at
    from nearzero.torch_models.loading import object_of
    from nearzero.torch_models.named import is_named

    if is_named(name):
        return name
    try:
        return defined_at(object_of(name, "it")) or name
    except InputError:
        return name


@app.command(
    epilog=examples(
        "nearzero layers net.py:Net --data mnist",
        "nearzero layers hf:openai-community/gpt2 text.txt",
        "nearzero layers net.py:Net --data data.py:loader --weights net.safetensors --json",
    )
)
def layers(
    model: ModelName,
    place: DataPlace = None,
    data: DataName = None,
    weights: Weights = None,
    load: Load = None,
    pixels: PixelOption = "raw",
    split: SplitOption = "test",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """List the layers of a model that can be probed: name, kind, shape, activation, units."""
    console, name = the_console(stderr=as_json), _one_data(place, data)
    with users_errors(model, name), working(console, "loading PyTorch and the model"):
        from nearzero.probing import layers as find_layers

        loading = loading_of(load, pixels, split, data_dir)
        built, told = opened_model(model, weights, loading)
        found = find_layers(built, name, loading=loading)
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "type": layer.type,
            "shape": "x".join(("N", *map(str, layer.shape[1:]))),
            "units": str(layer.units),
            "unit axis": str(layer.unit_axis),
            "activation": layer.activation or "none",
        }
        for layer in found
    ]
    from nearzero.report.table import text_table

    following = this_command("--json").replace("nearzero layers", "nearzero probe", 1)
    lines = [
        *(told.splitlines() if weights is not None else []),
        f"{number_of(len(rows), 'layer')}; next: {following}",
    ]
    finish(console, [text_table("layers", rows)], lines, as_json=as_json)


def _progress(quiet: bool) -> bool | None:
    """Return the setting of the progress bar: none if quiet, else in terminals."""
    return False if quiet else None


def _number_or_text(text: str | None) -> int | str | None:
    """Return a dimension or index that was given as text as a number; other text as it is."""
    return int(text) if text is not None and text.removeprefix("-").isdecimal() else text


def _reading(
    units: str | None,
    causal: bool | None,
    output: str | None,
    output_kind: str | None,
    class_axis: str | None,
    unit_axis: int | None,
    batch_size: int | None,
    batch_axis: str | None,
    memory: str | None,
) -> dict[str, Any]:
    """Return the settings by which a model and its data are read, as `nz.probe` takes them."""
    return {
        "units": units_of(units),
        "causal": causal,
        "output": _number_or_text(output),
        "output_kind": output_kind,
        "class_axis": _number_or_text(class_axis),
        "unit_axis": unit_axis,
        "batch_size": batch_size,
        "batch_axis": _number_or_text(batch_axis),
        "memory": memory,
    }


def _metrics(names: list[str] | None) -> dict[str, Any] | None:
    """Return metrics by name; `file.py:function` is a function of the user's own, called by its name there.

    Raises:
        InputError: there is no such file or function, it isn't a function, or two metrics have one name.
    """
    from nearzero.torch_models.loading import object_of

    metrics: dict[str, Any] = {}
    for name in dict.fromkeys(names or ()):
        metric = object_of(name, "a metric") if ":" in name else name
        if metric is not name and not callable(metric):
            kind = type(metric).__name__
            raise InputError(f"--metric {name} is {kind}, not a function of (logits, target)")
        short = name.rpartition(":")[2]
        if short in metrics:
            raise InputError(f"two metrics are called {short!r}; give one of the functions another name")
        metrics[short] = metric
    return metrics or None


def quantiles_of(text: str | None) -> tuple[float, float] | None:
    """Return two quantiles from "LOW,HIGH".

    Raises:
        InputError: the text isn't two numbers.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InputError(
            f"--quantiles takes two numbers from 0 to 1, such as 0.001,0.999; got {text}"
        ) from None
    return low, high


def units_of(text: str | None) -> list[int] | str | None:
    """Return units from "0,3,8-15", or "each".

    Raises:
        InputError: the text is neither.
    """
    if text in (None, "each"):
        return text
    assert text is not None
    units: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or not (last.isdecimal() or not dash):
            raise InputError(
                f"--units takes numbers and spans of units, such as 0,3,8-15, or each; got {text!r}"
            )
        begin, end = int(first), int(last or first)
        if not begin <= end < MOST_UNITS:
            raise InputError(
                f"--units takes spans from a unit to a later one, below {MOST_UNITS:,}; got {part}"
            )
        units += range(begin, end + 1)
    return units


@app.command(
    epilog=examples(
        "nearzero probe net.py:Net --data mnist --weights net.safetensors --out probed",
        'nearzero probe net.py:Net --data mnist --layer "conv*" --family offset --levels 21',
        "nearzero probe lm.py:model --data lm.py:loader --causal --json",
        "nearzero probe timm:resnet18.a1_in1k images/ --out probed",
        "nearzero probe hf:openai-community/gpt2 hf:wikitext:wikitext-2-raw-v1:test --load examples=8",
    )
)
def probe(
    model: ModelName,
    place: DataPlace = None,
    data: DataName = None,
    layer: Annotated[list[str] | None, option("A name or glob; may be repeated.", "all activations")] = None,
    out: Annotated[Path | None, option("A folder for the result.")] = None,
    weights: Weights = None,
    load: Load = None,
    family: Annotated[
        list[str] | None, option("May be repeated.", "offset, scale, clip", complete=complete_family)
    ] = None,
    levels: Annotated[int | None, option("The number of levels of each family.", "all, 100 to 125")] = None,
    metric: Annotated[
        list[str] | None, option("A name, or file.py:function; may be repeated.", "accuracy, agreement")
    ] = None,
    pixels: PixelOption = "raw",
    split: SplitOption = "test",
    data_dir: DataDir = None,
    causal: Causal = None,
    output: OutputPlace = None,
    output_kind: OutputKind = None,
    class_axis: ClassAxis = None,
    unit_axis: UnitAxis = None,
    units: Units = None,
    quantiles: Quantiles = None,
    batch_size: BatchSize = None,
    batch_axis: BatchAxis = None,
    device: Device = "cpu",
    memory: Memory = None,
    keep_items: Annotated[
        bool,
        option(
            "Keep the metrics of every example or token, for intervals, classes and examples on its page."
        ),
    ] = False,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Perturb layers of a model, one at a time, at every level, and measure its predictions."""
    console, name = console_for(quiet, as_json), _one_data(place, data)
    with (
        result_folder(out),
        users_errors(model, name),
        working(console, "loading PyTorch and the model") as show_work,
        workers_for(console, workers, dask) as chosen,
    ):
        from nearzero.probing import probe as probe_model

        _check_device(device, chosen)
        loading = loading_of(load, pixels, split, data_dir)
        built, told = opened_model(model, weights, loading, device)
        options: dict[str, Any] = {
            "families": family or ("offset", "scale", "clip"),
            "levels": levels,
            "metrics": _metrics(metric),
            "quantiles": quantiles_of(quantiles),
            "keep_items": keep_items,
            "executor": chosen,
        }
        reading = (units, causal, output, output_kind, class_axis, unit_axis, batch_size, batch_axis, memory)
        options |= _reading(*reading)
        show_work("probing")
        result = probe_model(built, name, layer, loading=loading, progress=_progress(quiet), **options)
    _finish_probe(result, told, out, console, as_json)


def _finish_probe(
    result: ProbeResult, told: str, out: Path | None, console: Console | None, as_json: bool
) -> None:
    """Write the result of a probe to its folder, and print what was found, where its files are, and what comes next."""
    if out is not None:
        with working(console, "writing the result and drawing its figure"):
            result.save(out)
    if console is not None and not as_json:
        print_line(console, result.headline)
        for line in told.splitlines():
            print_line(console, line)
    lines = [*([result.headline, *told.splitlines()] if as_json else []), *result.notes]
    lines += [f"The responses, their table and the figure are in {out}."] if out is not None else []
    following = (
        f"nearzero page {out}" if out is not None else this_command("--json", more=("--out", "probed"))
    )
    lines.append(f"{result.conclusion}; next: {following}")
    with working(console, "listing layers and assumptions"):
        made = probe_tables(result, numbers=as_json)
        numbers = [response_table(result)] if as_json else []
    finish(console, made, lines, as_json=as_json, for_scripts=numbers)


@app.command(
    "judge-runs",
    epilog=examples(
        "nearzero judge-runs net.py:Net --data mnist --weights runs --held-out mnist --out judged",
        "nearzero judge-runs hf:EleutherAI/pythia-14m-seed{1..9} --data hf:wikitext:wikitext-2-raw-v1:validation",
    ),
)
def judge_runs(
    model: RunNames,
    data: DataName = None,
    weights: RunWeights = None,
    layer: Annotated[list[str] | None, option("A name or glob; may be repeated.", "all activations")] = None,
    held_out: Annotated[
        str | None, option("Data that weren't trained on, as --data; of a data set, its test split.")
    ] = None,
    out: Annotated[Path | None, option("A folder for tables and figures.")] = None,
    measure: Annotated[str, option("The cost: of accuracy, agreement or cross_entropy.", True)] = "accuracy",
    settings: RuleSettings = None,
    load: Load = None,
    pixels: PixelOption = "raw",
    split: SplitOption = "test",
    data_dir: DataDir = None,
    causal: Causal = None,
    output: OutputPlace = None,
    output_kind: OutputKind = None,
    class_axis: ClassAxis = None,
    unit_axis: UnitAxis = None,
    units: Units = None,
    batch_size: BatchSize = None,
    batch_axis: BatchAxis = None,
    device: Device = "cpu",
    memory: Memory = None,
    workers: WorkerCount = None,
    dask: DaskAddress = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Say whether distance or intensity costs more in several trainings of a model: a verdict over its runs.

    Each file of weights is a training of its own. All layers are one table; fewer than six runs are described and
    not judged. `--set verdict_...=...` changes the rules.
    """
    console, name = console_for(quiet, as_json), _one_data(None, data)
    with working(console, "loading PyTorch"):
        from nearzero.probing import judge_runs as judge
        from nearzero.study.spec import resolve, with_rules

    spec = with_rules(resolve(), settings_from(settings))
    rules = replace(spec.rules, measure=measure)  # type: ignore[arg-type]
    with (
        result_folder(out),
        users_errors(model[0], name),
        working(console, "loading model and data"),
        workers_for(console, workers, dask) as chosen,
    ):
        loading = loading_of(load, pixels, split, data_dir)
        runs, files = _named_runs(model, weights, loading, device, chosen)
        if held_out is not None:
            _check_held_out(held_out, name, split)
        reading = (units, causal, output, output_kind, class_axis, unit_axis, batch_size, batch_axis, memory)
        judged = judge(
            runs,
            name,
            layer,
            weights=files,
            held_out=held_out,
            rules=rules,
            design=replace(spec.design, conduct=None),
            progress=_progress(quiet),
            loading=loading,
            executor=chosen,
            **_reading(*reading),
        )
    count = judged.costs.sizes["run"]
    title = f"{', '.join(model)}, {number_of(count, 'run')}, {name}"
    _report_verdict(judged, title, out, console, as_json)


def _report_verdict(
    judged: Verdict, title: str, out: Path | None, console: Console | None, as_json: bool
) -> None:
    """Write a verdict's tables and figures to a folder, or print the first tables if there is none."""
    with working(console, "drawing figures and writing tables"):
        from nearzero.report.verdict import judged_tables
        from nearzero.report.write import write_verdict

        made = judged_tables(judged, title)
        if out is not None:
            write_verdict(judged, title, out, further=_runs_table(judged))
    following = this_command("--json", more=("--out", "judged")) if out is None else ""
    lines = [*([folders_line(out)] if out is not None else []), *verdict_conclusion(judged, following)]
    finish(console, made if as_json else made[:2] if out is None else (), lines, as_json=as_json)


def _runs_table(judged: Verdict) -> list[Table]:
    """Return a table of the runs that were given by name, with revisions and hashes; none if they weren't."""
    from nearzero.report.table import text_table
    from nearzero.torch_models.named import Origin

    if "origin" not in judged.costs.coords:
        return []
    origins = map(Origin.from_json, judged.costs.origin.values.tolist())
    rows = [
        {
            "run": str(number),
            "model": origin.name,
            "revision": origin.revision,
            "files": "; ".join(f"{name} {digest}" for name, digest in origin.files.items()),
        }
        for number, origin in enumerate(origins)
    ]
    return [text_table("runs", rows)]


def _check_held_out(held_out: str, data: str, split: str) -> None:
    """Refuse held-out data that are the data themselves.

    Raises:
        InputError: both are the same file or function, or the test split of the same data set.
    """
    named = ":" in data or Path(data).suffix in (".npz", ".npy", ".safetensors")
    if held_out == data and (named or split != "train"):
        hint = (
            ""
            if named
            else "; with --split train, --data is the training split and --held-out the test split"
        )
        raise InputError(f"--held-out and --data are the same data, {data}; give others{hint}")
