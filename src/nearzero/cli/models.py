"""Commands for any PyTorch model: list its layers, and probe them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from nearzero.cli.common import (
    DataDir,
    Quiet,
    app,
    argument,
    console_for,
    counting,
    option,
    print_rows,
    result_folder,
    the_console,
)

__all__ = ()  # the functions are registered with the app

ModelName = Annotated[
    str, argument("MODEL", "package.module:function or file.py:function that builds the model.")
]
Weights = Annotated[
    Path | None, option("The model's weights: safetensors, or a state dict that PyTorch saved.")
]
DataName = Annotated[
    str,
    option(
        "A data set (mnist), a folder of IDX files, arrays x and y (.npz, .safetensors), or module:function."
    ),
]
PixelOption = Annotated[str, option("Of images: raw (0 to 255), unit or normalized.", True)]
SplitOption = Annotated[str, option("Of a data set: test or train.", True)]


def _model_and_data(
    model: str, weights: Path | None, data: str, pixels: str, split: str, data_dir: str | None
) -> tuple[Any, Any]:
    """Return the model with its weights, and the data."""
    from nearzero.torch_models.loading import build_model, load_data, load_weights

    built = build_model(model)
    if weights is not None:
        load_weights(built, weights)
    return built, load_data(data, pixels=pixels, split=split, data_dir=data_dir)  # type: ignore[arg-type]


@app.command()
def layers(
    model: ModelName,
    data: DataName,
    weights: Weights = None,
    pixels: PixelOption = "raw",
    split: SplitOption = "test",
    data_dir: DataDir = None,
) -> None:
    """List the layers of a model that can be probed: name, kind, shape, activation, units."""
    from nearzero.probing import layers as find_layers

    rows = []
    for layer in find_layers(*_model_and_data(model, weights, data, pixels, split, data_dir)):
        shape = "x".join(("N", *map(str, layer.shape[1:])))
        row = (layer.name, layer.kind, layer.type, shape, str(layer.units), f"dim {layer.unit_axis}")
        rows.append((*row, layer.activation or "none"))
    print_rows(the_console(), ("layer", "kind", "type", "shape", "units", "on", "activation"), rows)


@app.command()
def probe(
    model: ModelName,
    data: DataName,
    layer: Annotated[list[str] | None, option("A name or glob; may be repeated.", "all activations")] = None,
    out: Annotated[Path | None, option("A folder for the result.")] = None,
    weights: Weights = None,
    family: Annotated[list[str] | None, option("May be repeated.", "offset, scale, clip")] = None,
    levels: Annotated[int | None, option("The number of levels of each family.", "all, 100 to 125")] = None,
    metric: Annotated[list[str] | None, option("May be repeated.", "accuracy, agreement")] = None,
    pixels: PixelOption = "raw",
    split: SplitOption = "test",
    data_dir: DataDir = None,
    batch_size: Annotated[int | None, option("Examples at a time.", "256")] = None,
    device: Annotated[str, option("The device for the model: cpu, cuda, mps.", True)] = "cpu",
    memory: Annotated[
        str | None, option('The memory that it may use, for example "2 GB".', "NEARZERO_MEMORY or 3 GB")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Perturb layers of a model, one at a time, at every level, and measure its predictions."""
    from nearzero.probing import probe as probe_model
    from nearzero.study.steps import reaching

    console = console_for(quiet)
    with result_folder(out), counting(console, "probing", "examples") as count:
        built, source = _model_and_data(model, weights, data, pixels, split, data_dir)
        with reaching(device):
            built = built.to(device)
        families = family or ("offset", "scale", "clip")
        options: dict[str, Any] = {"levels": levels, "metrics": metric, "batch_size": batch_size}
        result = probe_model(
            built, source, layer, families=families, memory=memory, advanced=count, **options
        )
    if out is not None:
        result.save(out)
    if console is None:
        return
    console.print(result.headline, highlight=False, markup=False)
    rows = result.summary()
    print_rows(console, rows[0], [row.values() for row in rows])
    for note in result.notes:
        console.print(note, highlight=False, markup=False)
    if out is not None:
        console.print(f"\nThe responses, their table and the figure are in {out}.", highlight=False)
