"""The command line: parse, call, print. No science.

Whatever a user can cause ends as one line on standard error and exit code 2; the heavy imports wait until a
command needs them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from nearzero.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["app", "main"]

INTERRUPTED = "interrupted; the same command goes on where it was"

app = typer.Typer(
    name="nearzero",
    help="Do hidden units measure distance or intensity? Perturb them, and see.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Fetch, list and verify data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

StudyFolder = Annotated[Path, typer.Argument(metavar="STUDY", help="A study's folder.", show_default=False)]
DataDir = Annotated[
    Optional[str],  # noqa: UP045 (typer reads the annotation)
    typer.Option(help="A folder with the data files; also NEARZERO_DATA.", show_default=False),
]
Settings = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Any key of the spec; may be repeated.", show_default=False
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def _console(quiet: bool = False) -> Console | None:
    from rich.console import Console

    if quiet:
        return None
    width = int(os.environ["COLUMNS"]) if os.environ.get("COLUMNS", "").isdigit() else None
    # tables need some 110 columns; what isn't a terminal (a file, a pipe) has no width of its own
    return Console(width=width or (None if sys.stdout.isatty() else 120))


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    from nearzero.study.spec import parse_setting

    return dict(parse_setting(pair) for pair in pairs or [])


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Do hidden units measure distance or intensity? Perturb them, and see."""
    if version:
        from importlib.metadata import version as version_of

        print(f"nearzero {version_of('nearzero')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def reproduce(
    preset: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="quick (a minute or two) or paper (hours).", show_default="quick"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder.", show_default="studies/PRESET")
    ] = None,
    runs: Annotated[Optional[int], typer.Option(help="Runs of each network.", show_default="20")] = None,  # noqa: UP045
    device: Annotated[
        str | None, typer.Option(help="Where to train: cpu, cuda, mps.", show_default="cpu")
    ] = None,
    data_dir: DataDir = None,
    spec: Annotated[
        Path | None, typer.Option(help="A spec file; the other options go over it.", show_default=False)
    ] = None,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Train, sweep and report: the whole paper, beside the published numbers.

    Interrupted at any point, the same command goes on where it was.
    """
    from nearzero.study import reproduce as reproduce_study
    from nearzero.study.spec import read_settings

    given = (read_settings(spec) if spec is not None else {}) | _settings(settings)
    console = _console(quiet)
    study = reproduce_study(
        preset, out, runs=runs, device=device, data_dir=data_dir, settings=given, console=console
    )
    _say_where(study.folder, console)


@app.command()
def train(study: StudyFolder, data_dir: DataDir = None, quiet: Quiet = False) -> None:
    """Train the networks of a study that aren't trained yet."""
    _open(study).train(data_dir=data_dir, console=_console(quiet))


@app.command()
def sweep(study: StudyFolder, data_dir: DataDir = None, quiet: Quiet = False) -> None:
    """Sweep the networks of a study that aren't swept yet."""
    _open(study).sweep(data_dir=data_dir, console=_console(quiet))


@app.command()
def report(study: StudyFolder, quiet: Quiet = False) -> None:
    """Write the tables and figures of a study, and print the tables."""
    console = _console(quiet)
    _open(study).report(console=console)
    _say_where(study, console)


@app.command()
def show(study: StudyFolder) -> None:
    """Print what a study is and its tables; nothing is written."""
    from nearzero.report import print_tables

    opened = _open(study)
    console = _console()
    assert console is not None
    console.print(opened.title, style="bold", highlight=False)
    for key, value in opened.summary().items():
        console.print(f"  {key:<14} {value}", highlight=False, markup=False)
    print_tables(opened, console)


@app.command()
def new(
    study: StudyFolder,
    preset: Annotated[str, typer.Option(help="quick or paper.")] = "quick",
    settings: Settings = None,
) -> None:
    """Begin a study: make its folder and its spec, for `nearzero train`, `sweep` and `report`."""
    from nearzero.study import Study

    Study.create(study, preset, _settings(settings))
    console = _console()
    assert console is not None
    console.print(f"{study / 'spec.toml'} is written; `nearzero train {study}` comes next", highlight=False)


# --- any model ----------------------------------------------------------------------------------------------

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="package.module:function or file.py:function that builds it.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Its weights: safetensors, or a state dict that PyTorch saved.", show_default=False),
]
DataName = Annotated[
    str,
    typer.Option(
        "--data",
        help="A data set (mnist), a folder of IDX files, arrays x and y (.npz, .safetensors), or module:function.",
        show_default=False,
    ),
]
PixelOption = Annotated[str, typer.Option("--pixels", help="Of images: raw (0 to 255), unit or normalized.")]
SplitOption = Annotated[str, typer.Option("--split", help="Of a data set: test or train.")]


def _model_and_data(
    model: str, weights: Path | None, data: str, pixels: str, split: str, data_dir: str | None
) -> tuple[Any, Any]:
    from nearzero.probing.loading import build_model, load_data, load_weights

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
    """List what can be probed in a model: name, kind, shape, activation, units."""
    from rich.table import Table

    from nearzero.probing import layers as find

    table = Table("layer", "kind", "type", "shape", "units", "on", "activation", box=None, pad_edge=False)
    for each in find(*_model_and_data(model, weights, data, pixels, split, data_dir)):
        shape = "x".join(("N", *map(str, each.shape[1:])))
        row = (each.name, each.kind, each.type, shape, str(each.units), f"dim {each.unit_axis}")
        table.add_row(*row, each.activation or "none")
    console = _console()
    assert console is not None
    console.print(table)


@app.command()
def probe(
    model: ModelName,
    data: DataName,
    layer: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="A name or glob; may be repeated.", show_default="all activations"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the result.", show_default=False)] = None,
    weights: Weights = None,
    family: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="May be repeated.", show_default="offset, scale, clip"),
    ] = None,
    levels: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="How many of each family's levels.", show_default="all, 100 to 125"),
    ] = None,
    metric: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="May be repeated.", show_default="accuracy, agreement"),
    ] = None,
    pixels: PixelOption = "raw",
    split: SplitOption = "test",
    data_dir: DataDir = None,
    batch_size: Annotated[Optional[int], typer.Option(help="Examples at a time.", show_default="256")] = None,  # noqa: UP045
    device: Annotated[str, typer.Option(help="Where to run the model: cpu, cuda, mps.")] = "cpu",
    memory: Annotated[
        str | None, typer.Option(help='What it may take, "2 GB" say.', show_default="NEARZERO_MEMORY or 3 GB")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Perturb layers of a model, one at a time, at every level, and see what it predicts."""
    from rich.table import Table

    from nearzero.files import make_folder
    from nearzero.probing import probe as run

    if out is not None:
        make_folder(out)  # better now than after the work
    built, source = _model_and_data(model, weights, data, pixels, split, data_dir)
    console = _console(quiet)
    with _counting(console, "probing") as count:
        result = run(
            _on_device(built, device), source, layer, families=family or ("offset", "scale", "clip"),
            levels=levels, metrics=metric, batch_size=batch_size, memory=memory, advanced=count,
        )  # fmt: skip
    if out is not None:
        result.save(out)
    if console is None:
        return
    console.print(result.headline, highlight=False, markup=False)
    rows = result.summary()
    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    for note in result.notes:
        console.print(note, highlight=False, markup=False)
    if out is not None:
        console.print(f"\nThe responses, their table and the figure are in {out}.", highlight=False)


@contextmanager
def _counting(console: Console | None, what: str) -> Iterator[Callable[[int], None]]:
    """A line that says how many examples are done, on a terminal; elsewhere nothing."""
    if console is None or not console.is_terminal:
        yield lambda examples: None
        return
    done = 0
    with console.status(what) as status:

        def count(examples: int) -> None:
            nonlocal done
            done += examples
            status.update(f"{what}: {done:,} examples")

        yield count


def _on_device(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build without CUDA
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device} isn't available here ({reason}); use --device cpu") from error


def _open(folder: Path) -> Any:
    from nearzero.study import Study

    return Study.open(folder)


def _say_where(folder: Path, console: Console | None) -> None:
    if console is not None:
        console.print(
            f"\nTables are in {folder / 'tables'}, figures in {folder / 'figures'}.", highlight=False
        )


# --- data ---------------------------------------------------------------------------------------------------


@data_app.command("fetch")
def data_fetch(
    names: Annotated[Optional[list[str]], typer.Argument(metavar="[NAME]...", show_default="mnist")] = None,  # noqa: UP045
    data_dir: DataDir = None,
) -> None:
    """Put the files of data sets into the cache, checked."""
    from nearzero.datasets import fetch

    console = _console()
    assert console is not None
    for name in names or ["mnist"]:
        for file in fetch(name, data_dir=data_dir, report=console.print):
            console.print(f"{name}: {file.name} from {file.source}", highlight=False)


@data_app.command("list")
def data_list() -> None:
    """List the data sets that nearzero knows."""
    from rich.table import Table

    from nearzero.datasets import entries

    table = Table("name", "what it is", box=None, pad_edge=False)
    for entry in entries():
        table.add_row(entry.name, entry.description)
    console = _console()
    assert console is not None
    console.print(table)


@data_app.command("verify")
def data_verify(
    name: Annotated[
        str | None, typer.Argument(help="One data set; all, unless given.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Check every file against its SHA-256; exit code 2 if one is wrong."""
    from rich.table import Table

    from nearzero.datasets import verify

    rows = verify(name, data_dir=data_dir)
    table = Table("data set", "file", "status", "detail", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row.dataset, row.file, row.status, row.detail)
    console = _console()
    assert console is not None
    console.print(table)
    if any(row.status in ("wrong hash", "unreadable") for row in rows):
        raise typer.Exit(2)


def main() -> None:
    """Run the command line; what a user can cause ends in one line and exit code 2, Ctrl-C in one and 130."""
    interrupted = []

    def interrupt(*_: object) -> None:
        interrupted.append(True)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        _fail(INTERRUPTED, 130)
    except Exception as error:
        # a library may turn an interruption that hits it into an error of its own
        _fail(*((INTERRUPTED, 130) if interrupted else _explain(error)))
    finally:
        signal.signal(signal.SIGINT, before)


def _explain(error: Exception) -> tuple[str, int]:
    """The line and the exit code for an error."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, typer.Abort):
        return INTERRUPTED, 130
    if hasattr(error, "format_message"):  # the command line's own: an unknown option, a missing argument
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        return f"{error.format_message()} Try `nearzero --help`.", 2
    if isinstance(error, OSError):
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error}", 2
    if isinstance(error, MemoryError):
        return "memory is used up; use fewer runs, fewer units or a smaller data set", 2
    if os.environ.get("NEARZERO_DEBUG"):
        raise error
    return (
        f"a bug in nearzero ({type(error).__name__}: {error}); please report it, with what NEARZERO_DEBUG=1 shows",
        1,
    )


def _fail(line: str, code: int) -> None:
    print("nearzero: " + " ".join(line.split()), file=sys.stderr)
    sys.exit(code)
