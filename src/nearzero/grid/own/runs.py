"""One network of a user's own: built, trained, kept and read again.

A call of a user's function is the same whatever ran before it (`as_in_a_new_process`), so a run has the same weights
in any process and after any interruption. Weights are kept in a folder that is named by all that they depend on: the
user's code, the arguments, and the data.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.grid.own.data import OwnData
from nearzero.grid.own.names import filled, loading_of
from nearzero.grid.own.spec import SEED, OwnNetwork
from nearzero.probing.sources import ONE_AT_A_TIME, weights_digest
from nearzero.study.jobs import Job
from nearzero.support.checksums import is_recorded, read_recorded, write_recorded
from nearzero.support.files import parsing, read_bytes
from nearzero.torch_models.batches import type_name
from nearzero.torch_models.loading import load_weights
from nearzero.torch_models.loading.functions import (
    Arguments,
    as_in_a_new_process,
    call,
    function_of,
    seed_generators,
)
from nearzero.torch_models.named import Origin, open_model
from nearzero.torch_models.state import as_module

__all__ = ["POSITIONAL", "OwnRun", "TrainingJob", "users_code"]

POSITIONAL = {"build": 0, "train": 2, "data": 0}  # arguments by position: none, or the model and its data
REMEDY = "delete it and run the same command again"
TIMED = ".seconds"  # how the name of the file ends that says how long a training took


@contextmanager
def users_code(code: Mapping[str, str]) -> Iterator[None]:
    """Run a block of a user's code alone in this process, as if the process had just begun.

    Args:
        code: the SHA-256 of each of the user's files, by path.

    Raises:
        InputError: a file isn't what it was.
    """
    for path, known in code.items():
        if hashlib.sha256(read_bytes(Path(path))).hexdigest() != known:
            raise InputError(f"{path} was changed while the grid ran; run the same command again")
    # what the user's code prints mustn't get into the output of a command, which may be JSON
    with ONE_AT_A_TIME, as_in_a_new_process(code), redirect_stdout(sys.stderr):
        yield


@dataclass(frozen=True)
class OwnRun:
    """One network of the user's own, trained from one seed, as plain values.

    Attributes:
        network: the functions.
        arguments: what varies, and the constants.
        seed: of the run.
        data: of the run.
        code: the SHA-256 of each of the user's files, by path.
    """

    network: OwnNetwork
    arguments: Mapping[str, Any]
    seed: int
    data: OwnData
    code: Mapping[str, str]

    @property
    def model_name(self) -> str | None:
        """Return the name of the run's model; None if a function builds it."""
        if not self.network.is_by_name:
            return None
        names = self.network.build_names
        name = names[self.seed - self.network.first_seed] if len(names) > 1 else names[0]
        return filled(name, {**self.arguments, SEED: self.seed})

    @property
    def builder(self) -> str:
        """Return the name of what makes the untrained module, for messages."""
        return self.model_name or self.network.functions["build"]

    def function(self, key: str) -> tuple[str, Any, dict[str, Any]]:
        """Return the name of a function, the function, and the arguments that it takes by name."""
        name = self.network.functions[key]
        function = function_of(name, key)
        taken = Arguments.of(function, name, POSITIONAL[key])
        return name, function, taken.chosen({**self.arguments, SEED: self.seed})

    def build(self) -> nn.Module:
        """Return the untrained module of the seed, or the model of its name; to be called within `users_code`.

        Raises:
            InputError: there is no such model; the user's function fails, or returns no module.
        """
        return self.built()[0]

    def built(self) -> tuple[nn.Module, Origin | None]:
        """Return what `build` returns, and where it comes from if it has a name."""
        seed_generators(self.seed)
        if self.model_name is not None:
            named = open_model(self.model_name, loading_of(self.network.loading))
            return named.module, named.origin
        name, function, arguments = self.function("build")
        built = call(name, function, **arguments)
        try:
            return as_module(built), None
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    def train(self, module: nn.Module, data: Any) -> nn.Module:
        """Return the trained module; the generators go on from where `build` left them.

        Raises:
            InputError: the user's function fails, returns something else, or changes nothing.
        """
        if self.network.train is None:
            return module
        name, function, named = self.function("train")
        before = weights_digest(module)
        result = call(name, function, module, data, **named)
        if result is not None and not isinstance(result, nn.Module):
            raise InputError(
                f"{name} must return the trained module, or nothing if it trains in place; got {type_name(result)}"
            )
        trained = module if result is None else as_module(result)
        if before is not None and weights_digest(trained) == before:
            what = "returned nothing and left the weights" if result is None else "returned the weights"
            raise InputError(
                f"{name} {what} of seed {self.seed} as they were built; it must train the module in place, or return "
                "the trained one"
            )
        return trained

    @property
    def identity(self) -> str:
        """Return a digest of all that the weights depend on but the seed."""
        network = self.network
        names = {key: name for key, name in network.functions.items() if key in POSITIONAL}
        parts: list[Any] = [
            {
                key: f"{Path(name.rpartition(':')[0]).name}:{name.rpartition(':')[2]}"
                for key, name in names.items()
            },
            sorted(self.code.values()),
            dict(self.arguments),
            dict(self.data.hashes),
            network.pixels if ":" not in self.data.name else "",
        ]
        if network.is_by_name:
            parts.append([*network.build_names, network.loading])
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class TrainingJob(Job):
    """The training of one run of a network of the user's own; its file holds the weights.

    Without a function that trains, the file has only the digest of the weights that are built.

    Attributes:
        own: the run.
    """

    own: OwnRun

    @property
    def path(self) -> Path:
        """Return the path of the weights, in a folder that is named by what they depend on."""
        return self.folder / self.own.identity[:16] / f"seed-{self.own.seed:04d}.safetensors"

    @property
    def kind(self) -> str:
        """Return a text for plans: the runs of a point take about the same time."""
        return self.network

    @property
    def seconds(self) -> float | None:
        """Return how long the training took; None if it isn't done, or nothing says so."""
        kept = self.path.with_suffix(TIMED)
        try:
            return float(read_recorded(kept.parent, kept, REMEDY)) if self.done and kept.is_file() else None
        except ValueError:  # damaged
            return None

    def pilot(self, *, warm: bool = False) -> float | None:
        """Return the time of the whole job if it only builds; None if it trains, of which no part can be done."""
        if self.own.network.train is not None:
            return None
        began = time.perf_counter()
        with users_code(self.own.code):
            self.own.build()
        return time.perf_counter() - began

    @property
    def done(self) -> bool:
        """Return whether the file exists and has a checksum; `read` refuses a damaged file."""
        return is_recorded(self.path.parent, self.path)

    def do(self) -> None:
        """Train the network and write its weights, and how long this took."""
        own, began = self.own, time.monotonic()
        try:
            with users_code(own.code):
                data = None if own.network.train is None else own.data.load()["train"]
                module, origin = own.built()
                initial = weights_digest(module)
                trained = own.train(module, data)
                state = {}  # a network that isn't trained is built again
                if own.network.train is not None:
                    state = _state(trained)
                    _check_restored(trained, own, state)
                facts = {
                    "seed": own.seed,
                    "initial": initial,
                    "weights": weights_digest(trained),
                    "torch": torch.__version__,
                    "code": {Path(path).name: known for path, known in own.code.items()},
                    "arguments": dict(own.arguments),
                    **({} if origin is None else {"model": asdict(origin)}),
                }
        except InputError as error:
            raise InputError(f"{self.network}, run {self.run}: {error}") from error
        content = save_tensors(state, {"nearzero": json.dumps(facts, default=str)})
        seconds = f"{time.monotonic() - began:.3f}\n".encode()
        write_recorded(self.path.parent, self.path.with_suffix(TIMED), seconds)
        write_recorded(self.path.parent, self.path, content)

    def facts(self) -> dict[str, Any]:
        """Return what the file of the weights says about them: digests of the initial and of the trained weights.

        Raises:
            InputError: the file is damaged.
        """
        content = read_recorded(self.path.parent, self.path, REMEDY)
        with parsing(self.path, REMEDY):
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            return cast(dict[str, Any], json.loads(header["__metadata__"]["nearzero"]))

    def read(self) -> nn.Module | None:
        """Return the trained network; None if it diverged. To be called within `users_code`.

        Raises:
            InputError: the file isn't such a network.
        """
        facts, module = self.facts(), self.own.build()
        try:
            if self.own.network.train is not None:
                load_weights(module, self.path)
        except InputError as error:
            raise InputError(f"{error}; {REMEDY}") from error
        if weights_digest(module) != facts["weights"]:
            raise InputError(
                f"{self.own.builder} makes other weights than when this work began, and "
                f"{self.path.name} doesn't restore them; {REMEDY}"
            )
        return module if _is_finite(module) else None


def _is_finite(module: nn.Module) -> bool:
    weights = [*module.parameters(), *module.buffers()]
    return all(bool(value.isfinite().all()) for value in weights if value.is_floating_point())


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights and buffers of a module.

    Raises:
        InputError: something else is in its state.
    """
    state = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise InputError(
                f"the state of the trained module holds {name}, {type_name(value)}, which a file of weights can't "
                "hold; keep it in the builder"
            )
        state[name] = value.detach().cpu().contiguous().clone()
    return state


def _check_restored(trained: nn.Module, own: OwnRun, state: Mapping[str, Tensor]) -> None:
    """Refuse a trained module that its weights and the builder don't give again.

    Raises:
        InputError: names what differs.
    """
    build, again = own.builder, own.build()
    try:
        again.load_state_dict(dict(state))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(
            f"the weights of the trained module don't fit what {build} makes: {' '.join(lines[1:2] or lines)}; train "
            "that module in place, or return one of the same form"
        ) from error
    kept = dict(again.named_buffers())
    for name, value in trained.named_buffers():
        if name in state or not isinstance(value, Tensor):
            continue
        if name not in kept or not torch.equal(value.cpu(), kept[name].cpu()):
            raise InputError(
                f"the buffer {name} of the trained module isn't among its weights (persistent=False), and {build} "
                "makes another one; register it with persistent=True"
            )
