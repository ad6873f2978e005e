"""Data sets of `datasets` by name: a repository on the hub, or files in its place."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nearzero.errors import InputError, did_you_mean
from nearzero.support.files import read_bytes
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.named.hub import find_repository, is_local, split_revision, without_network
from nearzero.torch_models.named.options import NONE, Loading
from nearzero.torch_models.named.packages import first_line, imported
from nearzero.torch_models.named.sources import Kind, Origin, RawData, Rows

__all__ = ["open_data"]

SPLITS = ("test", "validation")  # in the order in which they are taken, if no split is named
FORMATS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
COLUMNS = {"text": ("text", "sentence", "content"), "image": ("image", "img")}
SEPARATORS = (",", ";", "\t", "|")  # of the columns of a .csv file
LONGEST_LINE = 100_000  # characters of its first line that are read
LABELS = ("label", "labels", "target")
PARTS = re.compile(r":(?![^\[]*\])")  # colons, but not those of a slice such as test[:100]
LISTED = re.compile(r"\['.*\]")  # in a message of datasets: the names that there are
SAVED = ("state.json", "dataset_dict.json")  # in a folder that save_to_disk has written


def open_data(name: str, kind: Kind, loading: Loading, needs_labels: bool) -> RawData:
    """Return the texts or images of a data set, with their labels.

    Args:
        name: `org/name`, `org/name:configuration`, `org/name:split` or `org/name:configuration:split`, where a
            revision may follow the name (`org/name@revision:split`), and the path of a folder or file may replace it.
        kind: "text" or "image".
        loading: the user's settings.
        needs_labels: whether labels are looked for.

    Raises:
        InputError: there is no such data set, configuration, split or column, or it needs code of its own.
    """
    datasets = imported("datasets")
    path, *rest = PARTS.split(name)
    if not path or len(rest) > 2:
        raise InputError(f"a data set is named hf:name:configuration:split; got {'hf:' + name!r}")
    with _quiet(datasets):
        found, revision, rows = _opened(datasets, path, rest)
    _check_separated(found)
    column = _column(found, kind, loading.column, rows)
    labels: Sequence[Any] | None = None
    names: tuple[str, ...] = ()
    if needs_labels and loading.labels != NONE:
        labels, names = _labels(datasets, found, loading.labels, rows)
    origin = Origin(f"hf:{name}", revision)
    return RawData(kind, _DataColumn(found, column), origin, labels, names, rows)


class _DataColumn(Sequence[Any]):
    """A column of a data set, whose values are decoded when they are needed."""

    def __init__(self, data: Any, name: str) -> None:
        self.data, self.name = data.select_columns(name), name

    def __len__(self) -> int:
        return len(self.data)

    def contents(self) -> Iterator[bytes]:
        """Yield the bytes of each image, as the data keep them."""
        feature = type(self.data.features[self.name])
        for number, row in enumerate(self.data.cast_column(self.name, feature(decode=False))):
            kept = row[self.name]
            if kept is None:
                raise self._empty(number)
            yield kept["bytes"] if kept["bytes"] is not None else read_bytes(Path(kept["path"]))

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return _DataColumn(self.data.select(range(len(self.data))[number]), self.name)
        value = self.data[number][self.name]
        if value is None:
            raise self._empty(number)
        return value

    def _empty(self, number: int) -> InputError:
        return InputError(f"row {number} of column {self.name!r} is empty")


def _opened(datasets: Any, path: str, rest: list[str]) -> tuple[Any, str, Rows]:
    """Return one split of a data set, its revision, and what was inferred."""
    plain, revision = split_revision(path)
    if is_local(plain):
        with without_network():
            return _local(datasets, path, rest)
    try:
        repository = find_repository(path, "dataset")
    except InputError:
        with without_network():  # `datasets` has a cache of its own beside that of the hub
            if not _is_prepared(datasets, plain, revision):
                raise
            return _split_of(datasets, plain, rest, [(plain, None)])
    with repository.reading():
        places: list[tuple[str, str | None]] = [(plain, repository.commit)]
        if not repository.is_online:
            prepared = _is_prepared(datasets, plain, revision and repository.commit)
            places = [*([(plain, None)] if prepared else []), (str(repository.folder), None)]
        found, _, rows = _split_of(datasets, plain, rest, places)
        return found, repository.commit, rows


def _local(datasets: Any, path: str, rest: list[str]) -> tuple[Any, str, Rows]:
    """Return one split of a data set in a file or a folder."""
    folder = find_repository(path, "dataset").snapshot()
    if folder.is_file():
        found, rows = _from_file(datasets, folder, rest)
        return found, "", rows
    if any((folder / each).is_file() for each in SAVED):
        found, rows = _from_disk(datasets, folder, rest)
        return found, "", rows
    return _split_of(datasets, path, rest, [(str(folder), None)])


def _is_prepared(datasets: Any, name: str, revision: str | None) -> bool:
    """Return whether the cache of `datasets` itself has a data set, at a revision if one is asked for."""
    naming = imported("datasets.naming")
    *owner, short = name.split("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "___".join(
        [*owner, naming.camelcase_to_snakecase(short)]
    )
    return any(revision in (None, path.name) for path in folder.glob("*/*/*") if path.is_dir())


def _split_of(
    datasets: Any, shown: str, rest: list[str], places: list[tuple[str, str | None]]
) -> tuple[Any, str, Rows]:
    """Return the split that was asked for, from the first place that has it; its hash there, and what was inferred.

    Args:
        datasets: the library.
        shown: the name of the data set.
        rest: configuration and split as given: both, one of them, or none.
        places: names or paths with a revision each.

    Raises:
        InputError: none has it.
    """
    problems = []
    for place, revision in places:
        try:
            builder, split = _builder(datasets, shown, rest, place, revision)
            try:
                builder.download_and_prepare()
            except Exception as error:  # a builder may raise anything
                raise InputError(f"{shown} can't be read: {first_line(error.__cause__ or error)}") from error
            rows = [
                Assumption(
                    "configuration of the data",
                    builder.config.name,
                    "the name" if builder.config.name in rest else "the only one, or the default",
                    "data=",
                )
            ]
            return _taken(builder.as_dataset, builder.info.splits, shown, split, rows), builder.hash, rows
        except InputError as error:
            problems.append(error)
    raise problems[-1]


class _UnknownError(InputError):
    """A data set has no such configuration.

    Attributes:
        known: the configurations that it has.
    """

    def __init__(self, message: str, known: list[str]) -> None:
        super().__init__(message)
        self.known = known


def _builder(
    datasets: Any, shown: str, rest: list[str], place: str, revision: str | None
) -> tuple[Any, str | None]:
    """Return the builder of a configuration, and the split if one was asked for."""
    if len(rest) != 1:
        return _configured(datasets, shown, place, revision, rest[0] if rest else None), rest[
            1
        ] if rest else None
    try:
        return _configured(datasets, shown, place, revision, rest[0]), None
    except _UnknownError as unknown:
        try:
            return _configured(datasets, shown, place, revision, None), rest[0]
        except _UnknownError:
            raise unknown from None


def _configured(datasets: Any, shown: str, place: str, revision: str | None, config: str | None) -> Any:
    """Return the builder of one configuration; the only or the default one if None.

    Raises:
        _UnknownError: there is no such configuration, or several and none was named.
        InputError: it can't be loaded.
    """
    try:
        return datasets.load_dataset_builder(place, config, revision=revision)
    except ValueError as error:
        known = _listed(str(error))
        if config is None and not known:
            raise InputError(f"{shown} can't be loaded: {first_line(error)}") from error
        problem = "several configurations" if config is None else f"no configuration {config!r}"
        raise _UnknownError(
            f"{shown} has {problem}: {did_you_mean(config, known) if config else ''}name one of {', '.join(known)}",
            known,
        ) from error
    except Exception as error:  # errors of many types
        if "scripts are no longer supported" in str(error):
            raise InputError(
                f"{shown} is loaded by a script of its own, which isn't run; use data in plain files, such as parquet"
            ) from error
        raise InputError(f"{shown} can't be loaded: {first_line(error)}") from error


def _listed(message: str) -> list[str]:
    """Return the names that a message of `datasets` lists; none if it lists none."""
    found = LISTED.search(message.replace("\n", " "))
    try:
        return [str(each) for each in ast.literal_eval(found.group())] if found else []
    except (SyntaxError, ValueError):  # brackets of another kind
        return []


def _taken(take: Any, known: Any, shown: str, split: str | None, rows: Rows) -> Any:
    """Return a split by its name, or the one that is taken if none is named."""
    names = list(known or ())
    source = "the name"
    if split is None:
        usual = [name for name in SPLITS if name in names]
        if not usual and len(names) != 1:
            raise InputError(
                f"{shown} has the splits {', '.join(names)}; name one: hf:name:configuration:split"
            )
        split = (usual or names)[0]
        source = "the default" if usual else "the only one"
    unknown = [part for part in re.split(r"\[[^\]]*\]|\+", split) if part and part not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise InputError(f"{shown} has no split {unknown[0]!r}: {hint}there are {', '.join(names)}")
    rows.append(Assumption("split of the data", split, source, "data="))
    try:
        return take(split=split)
    except Exception as error:  # such as of a slice that can't be read
        raise InputError(f"split {split!r} of {shown} can't be read: {first_line(error)}") from error


def _from_file(datasets: Any, path: Path, rest: list[str]) -> tuple[Any, Rows]:
    """Return the rows of a file in one of the usual formats, and what was inferred."""
    if path.suffix not in FORMATS:
        raise InputError(f"files of data are {', '.join(FORMATS)}; got {path.name}")
    if rest:
        raise InputError(f"a file has neither configuration nor split; got {':'.join(rest)}")
    options, rows = dict[str, Any](), list[Assumption]()
    try:
        if path.suffix == ".csv" and (separator := _separator(path)) != ",":
            options["sep"] = separator
            rows = [Assumption("separator of the columns", repr(separator), "the first line", "data=")]
        return datasets.load_dataset(
            FORMATS[path.suffix], data_files=str(path), split="train", **options
        ), rows
    except InputError:
        raise
    except Exception as error:  # of damaged files, any
        raise InputError(f"{path} can't be read: {first_line(error.__cause__ or error)}") from error


def _separator(path: Path) -> str:
    """Return what separates the columns of a file: a comma, unless its first line has another separator and none.

    Raises:
        InputError: the first line has several others.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        first = file.readline(LONGEST_LINE)
    parted = [each for each in SEPARATORS if len(next(csv.reader([first], delimiter=each), ())) > 1]
    if "," in parted or not parted:
        return ","
    if len(parted) > 1:
        raise InputError(
            f"the columns of {path} are separated by {' or '.join(map(repr, parted))}, and it isn't known which; "
            "separate them by commas"
        )
    return parted[0]


def _check_separated(data: Any) -> None:
    """Refuse columns that were read as one, of a folder with .csv files that aren't separated by commas.

    Raises:
        InputError: as described.
    """
    names = data.column_names
    if data.info.builder_name == "csv" and len(names) == 1 and any(each in names[0] for each in SEPARATORS):
        raise InputError(
            f"the data have one column, {names[0]!r}: their files aren't separated by commas; name one file, or "
            "separate the columns by commas"
        )


def _from_disk(datasets: Any, folder: Path, rest: list[str]) -> tuple[Any, Rows]:
    """Return a split that `save_to_disk` has written."""
    rows: Rows = []
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # of damaged files, any
        raise InputError(f"{folder} can't be read: {first_line(error)}") from error
    if len(rest) > 1:
        raise InputError(f"{folder} was saved by save_to_disk and has no configurations; got {rest[0]!r}")
    split = rest[0] if rest else None
    if split is not None and "[" in split:
        raise InputError(
            f"{folder} was saved by save_to_disk and has no slices; got {split!r}; leave it to examples"
        )
    if hasattr(found, "keys"):
        return _taken(lambda split: found[split], found, str(folder), split, rows), rows
    if split is not None:
        raise InputError(f"{folder} holds one split without a name; got {split!r}")
    return found, rows


def _column(data: Any, kind: Kind, given: str | None, rows: Rows) -> str:
    """Return the column with the texts or images.

    Raises:
        InputError: there is none, or several, or the one that was given is of another type.
    """
    fitting = [name for name, feature in data.features.items() if _kind(feature) == kind]
    columns = ", ".join(data.column_names)
    if given is not None:
        if given not in data.column_names:
            hint = did_you_mean(given, data.column_names)
            raise InputError(f"there is no column {given!r}: {hint}the data have {columns}")
        if given not in fitting:
            raise InputError(
                f"column {given!r} holds {data.features[given]}, and not {kind}s; the data have {columns}"
            )
        rows.append(Assumption(f"column of the {kind}s", given, "given", "Loading(column=)"))
        return given
    usual = [name for name in COLUMNS[kind] if name in fitting]
    if not usual and len(fitting) != 1:
        if fitting:
            raise InputError(
                f"the data have several columns of {kind}s ({', '.join(fitting)}): name one by column; they have "
                f"{columns}"
            )
        held = ", ".join(f"{name} ({_shown(feature)})" for name, feature in data.features.items())
        raise InputError(f"the data have no column of {kind}s; they have {held}")
    source = "its name" if usual else f"the only one of {kind}s"
    name = (usual or fitting)[0]
    rows.append(Assumption(f"column of the {kind}s", name, source, "Loading(column=)"))
    return name


def _kind(feature: Any) -> str | None:
    """Return whether a column holds texts or images; None for others."""
    if type(feature).__name__ == "Image":
        return "image"
    return (
        "text"
        if getattr(feature, "dtype", None) in ("string", "large_string") and _is_value(feature)
        else None
    )


def _shown(feature: Any) -> str:
    """Return the type of a column in a word."""
    return str(feature.dtype) if _is_value(feature) else type(feature).__name__


def _is_value(feature: Any) -> bool:
    return type(feature).__name__ == "Value"


def _labels(datasets: Any, data: Any, given: str | None, rows: Rows) -> tuple[Any, tuple[str, ...]]:
    """Return the column of labels and the names of the classes; None if there is no such column.

    Raises:
        InputError: there are several, or the one that was given isn't there.
    """
    named = [name for name, feature in data.features.items() if type(feature).__name__ == "ClassLabel"]
    if given is not None:
        if given not in data.column_names:
            hint = did_you_mean(given, data.column_names)
            raise InputError(
                f"there is no column {given!r}: {hint}the data have {', '.join(data.column_names)}"
            )
        name, source = given, "given"
    else:
        usual = [name for name in LABELS if name in data.column_names]
        if not usual and len(named) > 1:
            raise InputError(
                f"the data have several columns of classes ({', '.join(named)}); name one by labels"
            )
        if not usual and not named:
            rows.append(
                Assumption("column of the labels", "none", "no column is named so", "Loading(labels=)")
            )
            return None, ()
        name, source = (usual or named)[0], "its name" if usual else "the only one of classes"
    rows.append(Assumption("column of the labels", name, source, "Loading(labels=)"))
    if name in named:
        return _DataColumn(data, name), tuple(data.features[name].names)
    if _kind(data.features[name]) != "text":
        return _DataColumn(data, name), ()
    # those of all the data, though only the first may be taken
    return _DataColumn(data, name), tuple(sorted(each for each in data.unique(name) if each is not None))


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Keep `datasets` from showing bars and remarks within the block."""
    settings, level = datasets.utils.logging, datasets.utils.logging.get_verbosity()
    bars = not datasets.are_progress_bars_disabled()
    settings.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
