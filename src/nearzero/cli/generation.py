"""The command that generates text with a perturbed layer."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nearzero.cli.common import AsJson, DataDir, Quiet, app, console_for, examples, option, working
from nearzero.cli.models import (
    BatchSize,
    Causal,
    Device,
    Load,
    Memory,
    ModelName,
    PixelOption,
    Quantiles,
    SplitOption,
    UnitAxis,
    Units,
    Weights,
    loading_of,
    opened_model,
    quantiles_of,
    units_of,
    users_errors,
)
from nearzero.cli.output import finish
from nearzero.errors import InputError

if TYPE_CHECKING:
    from nearzero.torch_models.named.sources import Preparation

__all__ = ()  # the function is registered with the app


@app.command(
    epilog=examples(
        "nearzero generate lm.py:model --tokenizer lm.py:tokenizer --data lm.py:texts --layer blocks.0.act "
        '--family clip --level 0.5 --prompt "Once upon a time"',
        "nearzero generate lm.py:model --data lm.py:texts --layer blocks.0.act --family shift --level 0.1 "
        "--prompt 5,9,23 --json",
    )
)
def generate(
    model: ModelName,
    data: Annotated[str, option("The data from which the unit ranges are taken, as for nearzero probe.")],
    layer: Annotated[str, option("The layer, as nearzero layers lists it.")],
    family: Annotated[str, option("The family of the perturbation.")],
    level: Annotated[float, option("Its level.")],
    prompt: Annotated[str, option("A text; or token ids such as 5,9,23 if there is no tokenizer.")],
    tokenizer: Annotated[
        str | None,
        option("A folder that transformers saved, or module:function.", "the model's own", metavar="NAME"),
    ] = None,
    load: Load = None,
    max_new_tokens: Annotated[int, option("The greatest number of new tokens.", True)] = 40,
    cache: Annotated[
        bool | None, option("Whether keys and values are kept.", "as the model does", "--cache/--no-cache")
    ] = None,
    weights: Weights = None,
    pixels: PixelOption = "raw",
    split: SplitOption = "test",
    data_dir: DataDir = None,
    causal: Causal = None,
    unit_axis: UnitAxis = None,
    units: Units = None,
    quantiles: Quantiles = None,
    batch_size: BatchSize = None,
    device: Device = "cpu",
    memory: Memory = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Generate text greedily with a perturbed layer, and print it beside the text without the perturbation.

    The perturbation acts in every forward pass. One prompt is an illustration, not a measurement.
    """
    console = console_for(quiet, as_json)
    with users_errors(model, data):
        with working(console, "loading PyTorch and the model"):
            from nearzero.probing import generate as generate_texts
            from nearzero.torch_models.loading import load_tokenizer
            from nearzero.torch_models.named import open_data

            loading = loading_of(load, pixels, split, data_dir)
            built, told = opened_model(model, weights, loading, device)
            source = open_data(data, built, loading, batch_size=batch_size).batches
            reader = _own_tokenizer(built.preparation) if tokenizer is None else load_tokenizer(tokenizer)
        with working(console, "generating"):
            result = generate_texts(
                built.module,
                layer,
                family,
                prompt if reader is not None else _token_ids(prompt),
                level=level,
                ranges_from=source,
                tokenizer=reader,
                max_new_tokens=max_new_tokens,
                use_cache=cache,
                causal=causal,
                unit_axis=unit_axis,
                units=units_of(units),
                quantiles=quantiles_of(quantiles),
                batch_size=batch_size,
                memory=memory,
            )
    from nearzero.report.table import text_table

    facts = text_table("made_by", [{"what": what, "value": value} for what, value in result.facts.items()])
    following = _probe_command(model, data, layer, family, weights, load)
    lines = [*result.lines, *told.splitlines(), f"{result.conclusion}; next: {following}"]
    finish(console, [facts], lines, as_json=as_json, for_scripts=[text_table("texts", result.rows)])


def _own_tokenizer(made: Preparation | None) -> Any:
    """Return the tokenizer that came with a model; None if none did."""
    return made.function if made is not None and made.kind == "text" else None


def _probe_command(
    model: str, data: str, layer: str, family: str, weights: Path | None, load: list[str] | None
) -> str:
    """Return the command that measures the layer whose perturbation the texts illustrate."""
    words = [model, "--data", data, "--layer", layer, "--family", family]
    words += [] if weights is None else ["--weights", str(weights)]
    words += [word for pair in load or () for word in ("--load", pair)]
    return shlex.join(["nearzero", "probe", *words, "--out", "probed"])


def _token_ids(text: str) -> list[int]:
    """Return token ids from "5,9,23".

    Raises:
        InputError: the text is none of these.
    """
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise InputError(
            f"without --tokenizer the prompt must be token ids, such as 5,9,23; got {text!r}; --tokenizer reads texts"
        ) from None
