"""The networks of a grid that are a user's own: checked before anything is trained, then trained and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from nearzero.analysis.matched import HELD_OUT, Design
from nearzero.errors import InputError, did_you_mean
from nearzero.evaluators.base import HALVES
from nearzero.grid.networks import KEPT, GridMeasurement
from nearzero.grid.own.data import OwnData, first_examples, number_of_examples
from nearzero.grid.own.names import filled, is_data_name, placeholders
from nearzero.grid.own.runs import POSITIONAL, OwnRun, TrainingJob, users_code
from nearzero.grid.own.spec import DATA, SEED, OwnNetwork, shown
from nearzero.grid.spec import GridSpec, Point
from nearzero.probing.runs import layer_names, metrics_for, run_responses
from nearzero.probing.sources import weights_digest
from nearzero.study.jobs import digest, extrapolated_time, missing, run
from nearzero.study.journal import Journal
from nearzero.support.words import number_of
from nearzero.support.workers import Workers
from nearzero.torch_models.loading import object_of
from nearzero.torch_models.loading.functions import Arguments, code_files, function_of

__all__ = ["OwnMeasurement", "OwnNetworks", "code_of"]

PILOT = 256  # examples that are measured at most for an estimate of time
NOT_FINITE = "some logits aren't finite at some level"


@dataclass(frozen=True)
class OwnMeasurement(GridMeasurement):
    """The measurement of one run at all of its layers.

    Attributes:
        training: the job that trains the run.
        measured: the names of the layers, in the order of the pass.
        split, design: the data and the design of the measurement.
    """

    training: TrainingJob
    measured: tuple[str, ...]
    split: str
    design: Design

    def measure(self) -> xr.Dataset | None:
        """Return the responses of the network; None if it diverged."""
        own = self.training.own
        try:
            with users_code(own.code):
                network = self.training.read()
                if network is None:
                    return None
                responses = self._responses(network, own.data.load(), own.network.probe.examples)
        except InputError as error:
            raise InputError(f"{self.network}, run {self.run}: {error}") from error
        return _kept(responses, own.network)

    def pilot(self, *, warm: bool = False) -> float | None:
        """Return the time of the measurement, from those on some examples of the network before its training.

        It isn't known if the data can't be cut, or so few examples can't be measured.
        """
        own = self.training.own
        with users_code(own.code):
            splits, network = own.data.load(), own.build()
            try:
                examples = own.network.probe.examples or number_of_examples(splits[self.split])
                return extrapolated_time(
                    lambda count: self._responses(network, splits, count), examples, PILOT, warm=warm
                )
            except InputError:
                return None

    def _responses(self, network: nn.Module, splits: Mapping[str, Any], examples: int | None) -> xr.Dataset:
        """Return the responses of a network on the first examples; to be called within `users_code`."""
        held_out = (
            first_examples(splits["test"], examples) if HELD_OUT in self.point.spec.verdict_checks else None
        )
        return run_responses(
            network,
            first_examples(splits[self.split], examples),
            held_out,
            self.design,
            settings_of(self.training.own.network, self.measured),
            self.training.own.network.probe.backend,
        )

    def layers(self, spec: GridSpec, result: xr.Dataset) -> list[tuple[str, dict[str, str | int]]]:
        """Return the name of each layer, and its place among those that are measured."""
        names, activations = result.layer.values.tolist(), result.activation.values.tolist()
        return [
            (
                spec.name("", self.point, str(name)),
                {"activation": str(activation), "layer": number, "layers": len(names)},
            )
            for number, (name, activation) in enumerate(zip(names, activations, strict=True), 1)
        ]


def settings_of(network: OwnNetwork, layers: Sequence[str] | None) -> dict[str, Any]:
    """Return the settings of the session in which the layers are measured; to be called within `users_code`."""
    settings = dict(network.probe.settings)
    for key, name in network.probe.functions.items():
        settings[key] = object_of(name, key)
    settings["layers"] = None if layers is None else list(layers)
    settings["metrics"] = metrics_for(network.probe.measure)
    return settings


def _kept(responses: xr.Dataset, network: OwnNetwork) -> xr.Dataset:
    """Return the variables that a grid keeps, of the metric that decides too."""
    metric = network.probe.metric
    forms = ("{}", "centred_{}", "unperturbed_{}", "checked_{}", "unperturbed_checked_{}")
    wanted = dict.fromkeys((*KEPT, *(form.format(metric) for form in forms)))
    kept = responses[[name for name in wanted if name in responses]]
    if "not_finite" in responses:
        some = responses.not_finite.max(["family", "side", "target"]).transpose("layer").values > 0
        pairs = zip(kept.reason.transpose("layer").values.tolist(), some, strict=True)
        reasons = ["; ".join(filter(None, (reason, NOT_FINITE if found else ""))) for reason, found in pairs]
        kept = kept.assign(reason=("layer", reasons))
    return kept.drop_attrs().assign_attrs(halves=responses.attrs["halves"])


def code_of(network: OwnNetwork) -> dict[str, str]:
    """Return the SHA-256 of each file of the user's own that the functions are made of, by path.

    Raises:
        InputError: there is no such file.
    """
    return {str(path): known for path, known in code_files(network.functions.values()).items()}


@dataclass
class OwnNetworks:
    """The networks of a grid that are a user's own, see `nearzero.grid.networks.NetworkSource`.

    Attributes:
        spec, folder: of the grid.
        networks: the folder of the networks.
        data_dir: a folder with the files of a data set by name; None for the usual places.
        code: the SHA-256 of each of the user's files, by path.
    """

    spec: GridSpec
    folder: Path
    networks: Path
    data_dir: str | None
    code: Mapping[str, str]
    _runs: dict[tuple[str, int], OwnRun] = field(default_factory=dict)
    _data: dict[str, OwnData] = field(default_factory=dict)
    _layers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _notices: list[str] = field(default_factory=list)

    @property
    def lost(self) -> str:
        """Return why a run can be missing."""
        return "diverged"

    @property
    def network(self) -> OwnNetwork:
        """Return the functions."""
        assert self.spec.network is not None
        return self.spec.network

    @property
    def notices(self) -> list[str]:
        """Return the notices of the data, and of seeds that change nothing."""
        of_data = [data.notice for data in self._data.values() if data.notice]
        return [*dict.fromkeys([*of_data, *self._notices])]

    @property
    def hashes(self) -> dict[str, dict[str, str]]:
        """Return the hashes of all data, by their name and arguments."""
        return {key: dict(data.hashes) for key, data in self._data.items()}

    @property
    def origins(self) -> dict[str, list[Any]]:
        """Return name, revision and hashes of the model of each run, by point, if they have names."""
        if not self.network.is_by_name:
            return {}
        return {
            point.label: [job.facts()["model"] for job in self._trainings(point)]
            for point in self.spec.points
        }

    def check(self) -> None:
        """Check functions, data and layers of every point, so that nothing is trained in vain.

        Raises:
            InputError: an argument that no function takes, or that one needs; data, a network or a layer that can't
                be used.
        """
        with users_code(self.code):
            self._check_arguments()
        for point in self.spec.points:
            try:
                with users_code(self.code):
                    for number in range(point.spec.runs):
                        self._own_run(point, number)  # loads its data for the hashes
                    own = self._own_run(point, 0)
                    self._layers[point.label] = self._layers_of(own)
                    self._check_seed(point, own)
            except InputError as error:
                raise InputError(f"{point.label}: {error}") from error

    def trainings(self) -> list[TrainingJob]:
        """Return a job for the training of every run of each point."""
        return [job for point in self.spec.points for job in self._trainings(point)]

    def train(self, journal: Journal, workers: Workers) -> None:
        """Train the networks of all points that aren't trained yet.

        Raises:
            InputError: the user's functions fail, or two runs of a point have the same weights.
        """
        if left := missing(self.trainings()):
            built = self.network.train is None
            journal.say(f"{'building' if built else 'training'} {number_of(len(left), 'network')}")
            done = f"{'built' if built else 'trained'} {number_of(len(left), 'network')}"
            run(
                self.trainings(),
                journal,
                doing="building" if built else "training",
                did=done,
                workers=workers,
            )
        for point in self.spec.points:
            self._check_different(point.label, self._trainings(point))

    def jobs(self) -> list[GridMeasurement]:
        """Return a job for every run of each point."""
        return [job for place, point in enumerate(self.spec.points) for job in self._jobs(place, point)]

    def _jobs(self, place: int, point: Point) -> list[GridMeasurement]:
        jobs: list[GridMeasurement] = []
        names = self._layers[point.label]
        for training, design in zip(self._trainings(point), self.spec.designs(point, ""), strict=True):
            own = training.own
            work = digest(
                [
                    *(own.identity, own.seed, self.spec.split, asdict(design), names, HALVES),
                    own.network.probe.model_dump(mode="json"),
                    HELD_OUT in point.spec.verdict_checks,
                ]
            )
            name = f"{place:02d}-{training.run:02d}"
            fields = (point, training, names, self.spec.split, design)
            folder = self.folder.absolute()
            jobs.append(OwnMeasurement(folder, training.network, training.run, name, work, *fields))
        return jobs

    def _trainings(self, point: Point) -> list[TrainingJob]:
        name = self.spec.name("", point)
        return [
            TrainingJob(self.networks.absolute(), name, number, self._own_run(point, number))
            for number in range(point.spec.runs)
        ]

    def _own_run(self, point: Point, number: int) -> OwnRun:
        """Return a run with its data, whose hashes are known."""
        key = point.label, number
        if key not in self._runs:
            self._runs[key] = self._made_run(point, number)
        return self._runs[key]

    def _made_run(self, point: Point, number: int) -> OwnRun:
        network, seed = self.network, point.spec.seeds[number]
        arguments = dict(network.arguments)
        name = shown(str(point.value) if self.spec.vary == DATA else str(network.data))
        if self.spec.vary != DATA:
            arguments[self.spec.vary] = point.value
        if is_data_name(name):
            return self._with_named_data(name, arguments, seed, point.spec.seeds[0])
        taken: dict[str, Any] = {}
        if ":" in name:
            taken = Arguments.of(function_of(name, DATA), name).chosen({**arguments, SEED: seed})
        given = ", ".join(f"{argument}={value!r}" for argument, value in sorted(taken.items()))
        key = f"{Path(name).name}({given})" if ":" in name else name
        if key not in self._data:
            self._data[key] = OwnData(name, network.pixels, self.data_dir, taken, {}).known()
        return OwnRun(network, arguments, seed, self._data[key], self.code)

    def _with_named_data(self, name: str, arguments: Mapping[str, Any], seed: int, first: int) -> OwnRun:
        """Return a run with texts or images by name, prepared as the model of the first run asks for."""
        network = self.network
        if network.train is not None or self.spec.split == "train":
            reason = (
                "train needs other data"
                if network.train is not None
                else "split = 'train' names none of them"
            )
            raise InputError(
                f"{name} is what is measured, and {reason}; give data as file.py:function, which returns "
                '{"train": ..., "test": ...}'
            )
        name = filled(name, arguments)
        blank = OwnData(name, network.pixels, self.data_dir, {}, {}, loading=network.loading)
        run = OwnRun(network, arguments, seed, blank, self.code)
        model = "" if "preprocess" in (network.loading or {}) else replace(run, seed=first).model_name or ""
        key = f"{name} as {model} takes them" if model else name
        if key not in self._data:
            self._data[key] = replace(blank, model=model).known()
        return replace(run, data=self._data[key])

    def _check_arguments(self) -> None:
        """Refuse arguments that no function takes, and those that one needs and nothing gives."""
        functions = {key: name for key, name in self.network.functions.items() if key in POSITIONAL}
        taken = {
            key: Arguments.of(function_of(name, key), name, POSITIONAL[key])
            for key, name in functions.items()
        }
        given = [*self.network.arguments, *([] if self.spec.vary == DATA else [self.spec.vary])]
        in_names = self._placeholders()
        known = list(dict.fromkeys([*(name for each in taken.values() for name in each.names), *in_names]))
        for name in given:
            if name not in known and not any(arguments.takes_any for arguments in taken.values()):
                source = (
                    f"vary = {name!r}" if name == self.spec.vary else f"{name!r} under [network.arguments]"
                )
                hint = did_you_mean(name, known)
                takes = ", ".join(each for each in known if each != SEED) or "none"
                owners = " or ".join([*functions.values(), *(["the names in braces"] if in_names else [])])
                raise InputError(f"{source} isn't an argument of {owners}: {hint}they take {takes}")
        if unknown := [name for name in in_names if name not in (*given, SEED)]:
            raise InputError(
                f"{{{unknown[0]}}} stands in a name, and nothing gives it; {did_you_mean(unknown[0], [*given, SEED])}"
                "give it under [network.arguments]"
            )
        for key, arguments in taken.items():
            needed = [name for name in arguments.required if name not in (*given, SEED)]
            if needed:
                raise InputError(
                    f"{functions[key]} needs the argument {needed[0]!r}; give it under [network.arguments], or a "
                    "default"
                )

    def _placeholders(self) -> list[str]:
        """Return what stands in braces in the names of models and data."""
        network = self.network
        names = [*(network.build_names if network.is_by_name else ())]
        names += [network.data] if network.data is not None and network.data_by_name else []
        return list(dict.fromkeys(part for name in names for part in placeholders(name)))

    def _layers_of(self, own: OwnRun) -> tuple[str, ...]:
        """Return the names of the layers that are measured, found on the untrained network."""
        data = first_examples(own.data.load()[self.spec.split], own.network.probe.examples)
        settings = settings_of(own.network, own.network.layers)
        return tuple(layer_names(own.build(), data, settings))

    def _check_seed(self, point: Point, own: OwnRun) -> None:
        """Refuse a builder that isn't a function of the seed; give a notice if the seed changes nothing."""
        if own.model_name is not None and own.network.train is None:
            return  # a name leads to the same weights; whether those of two runs are the same is found before measuring
        first, again = weights_digest(own.build()), weights_digest(own.build())
        if first != again:
            raise InputError(
                f"{own.builder} makes other weights in every call with the same seed; draw from the "
                "global generators of PyTorch, NumPy or Python, which are seeded, or from seed"
            )
        others = [replace(own, seed=seed) for seed in point.spec.seeds[1:2]]
        if first is not None and any(weights_digest(other.build()) == first for other in others):
            if own.network.train is None:
                raise InputError(
                    f"{own.builder} makes the same weights for every seed, so that the runs are one "
                    "network; draw the weights from the global generators, or from seed"
                )
            self._notices.append(
                f"all runs of {point.label} begin with the same weights: {own.model_name or Path(own.builder).name} "
                "makes them without the seed"
            )

    def _check_different(self, label: str, jobs: Sequence[TrainingJob]) -> None:
        """Refuse two runs with the same trained weights."""
        seen: dict[str, int] = {}
        for job in jobs:
            weights = job.facts()["weights"]
            if weights is not None and weights in seen:
                raise InputError(
                    f"{label}: runs {seen[weights]} and {job.run} have the same weights, so they aren't "
                    "trainings of their own; build or train ignores the seed: draw from the global generators, which "
                    "are seeded, or from seed"
                )
            seen.setdefault(weights, job.run)
