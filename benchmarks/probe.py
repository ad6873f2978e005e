"""The time of probing any layer, against a full forward pass for each level in the same process.

A convolutional network of ten hidden layers (nine convolutions and a linear layer, each with a ReLU) is
probed at each of them. The baseline is plain PyTorch: for every level a pass of the whole model with a
forward hook at the layer; the time of making the perturbations isn't counted. By default it does so at some
evenly spaced levels of each family, and its time is scaled to all levels, since every pass takes the same
time. The time of nearzero is that of the whole call.

    python benchmarks/probe.py [--rounds 2] [--examples 32] [--levels-timed 13] [--published] [--levels]

A GPT-2 of six layers and a ResNet-18 with random weights are probed at all of their activations, at sixteen
levels, all in one call. This is compared with a hook per level, and with the *suffix bound*: for each batch,
layer and level the recorded operations alone, on values computed before. The rest of a probe's time (ranges,
recordings, the check against the full pass, perturbations, metrics) is listed by task. With --published
nothing else is timed, and no data set is needed.

With --levels, the recorded operations alone are timed level by level, and for several levels at once by
`torch.vmap`, which the probe doesn't do.

With --experiments, only the share of a default probe is measured that goes into the experiments: all that is
inferred about a model and its data before the first number, and the comparison of the replay with full passes.
A multilayer perceptron on 1,000 digits is probed whole. A ResNet-18 on 1,000 images would take many hours, so
that the time of its levels is scaled from a few images and levels, and the rest of its time is left out, which
makes the share greater than it is; with --whole it is probed whole too.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

import nearzero as nz
import timing
from nearzero.evaluators.plan import Request
from nearzero.evaluators.scores import Scorer
from nearzero.evaluators.session import open_session
from nearzero.perturbations.ranges import Ranges, UnitRange
from nearzero.support.threads import thread_count
from nearzero.torch_models.forward import SharedPasses
from nearzero.torch_models.hooks import LayerHook, hooked
from nearzero.torch_models.named.packages import imported
from nearzero.torch_models.replay import OpRecorder, Suffix
from nearzero.training.engine import Examples

LEVELS = {name: nz.make_family(name, nz.Conduct()).levels for name in ("offset", "scale", "clip")}
ALL_LEVELS = sum(len(levels) for levels in LEVELS.values())
CHANNELS = (8, 8, 16, 16, 16, 32, 32, 32, 32)
POOLED = (2, 5, 9)  # the convolutions that are followed by pooling
AT_ONCE = 16
SHIFTS = np.linspace(0.05, 0.8, 16)
IMAGES, FEW_IMAGES = 1000, 16
FEW_LEVELS = (1, 3)  # of each family; their difference gives the time of a level
TRAINING_STEPS = 100  # of 64 images, a few seconds: enough for the predictions of a trained network


def arguments() -> argparse.Namespace:
    parser = timing.options_for(__doc__.splitlines()[0], rounds=2)
    parser.add_argument("--examples", type=int, default=32, help="how many, in one batch (32)")
    parser.add_argument("--levels-timed", type=int, default=13, help="of a family, in plain PyTorch (13)")
    parser.add_argument("--published", action="store_true", help="time the GPT-2 and the ResNet-18 alone")
    parser.add_argument(
        "--levels", action="store_true", help="time several levels at once in the suffix, too"
    )
    parser.add_argument(
        "--experiments", action="store_true", help="the share of the experiments in a default probe alone"
    )
    parser.add_argument("--whole", action="store_true", help="with --experiments: the whole probe, for hours")
    return parser.parse_args()


def images(examples: Examples, first: int, count: int) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(examples.pixels.values[first : first + count]).float() / 255
    return pixels.view(-1, 1, 28, 28), torch.from_numpy(examples.labels[first : first + count])


def convnet() -> nn.Sequential:
    """Return a network of ten hidden layers, untrained."""
    parts: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), start=1):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if number in POOLED else []
    parts += [nn.Flatten(), nn.Linear(9 * CHANNELS[-1], 128), nn.ReLU(), nn.Linear(128, 10)]
    for part in parts:
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight)
    return nn.Sequential(*parts).eval()


def train(model: nn.Module, examples: Examples) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for step in range(TRAINING_STEPS):
        x, y = images(examples, 64 * step, 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


# --- against a full pass per level ----------------------------------------------------------------------------------


class Plain:
    """Full passes of a model, with a hook before one of its activations.

    Args:
        model, act: the model, and the activation in it.
        x, y: inputs and labels.
        count: the number of levels of each family, evenly spaced.
    """

    def __init__(self, model: nn.Module, act: nn.Module, x: Tensor, y: Tensor, count: int) -> None:
        self.model, self.act, self.x, self.y = model, act, x, y
        seen: list[Tensor] = []
        self.logits(lambda _, args: seen.append(args[0]))
        z = seen[0]
        ranges = Ranges(unit_range(z, "pre"), unit_range(act(z), "post"))
        shape = (-1, *[1] * (z.ndim - 2))
        self.levels = {name: evenly(levels, count) for name, levels in LEVELS.items()}
        self.hooks = [
            # the paper's families have no lower bound
            Perturb(*(torch.from_numpy(each).view(shape) for each in at.per_unit(z.shape[1])[:3]))
            for name, levels in self.levels.items()
            for at in (nz.make_family(name, nz.Conduct()).at(level, ranges) for level in levels)
        ]

    @torch.no_grad()
    def logits(self, hook: Callable[..., object]) -> Tensor:
        handle = self.act.register_forward_pre_hook(hook)
        try:
            return self.model(self.x)  # type: ignore[no-any-return]
        finally:
            handle.remove()

    def accuracies(self) -> list[float]:
        return [(self.logits(hook).argmax(1) == self.y).float().mean().item() for hook in self.hooks]

    def predictions(self) -> Tensor:
        """Return the predictions, (levels of all families, examples)."""
        return torch.stack([self.logits(hook).argmax(1) for hook in self.hooks])


@dataclass(frozen=True)
class Perturb:
    """A hook that perturbs the input of an activation."""

    scale: Tensor
    offset: Tensor
    clip: Tensor

    def __call__(self, _: nn.Module, args: tuple[Tensor]) -> Tensor:
        return torch.minimum(self.scale * args[0] + self.offset, self.clip)


def unit_range(values: Tensor, side: nz.Side) -> UnitRange:
    rows = values.transpose(0, 1).flatten(1).double().numpy()
    return UnitRange(rows.min(axis=1), rows.max(axis=1), side)


def evenly(levels: np.ndarray, count: int) -> np.ndarray:
    places = np.linspace(0, len(levels) - 1, min(count, len(levels)))
    return np.asarray(levels[places.round().astype(int)])


def prediction(logits: Tensor, _: Tensor) -> Tensor:
    return logits.argmax(1)


def differences(layer: str, plain: Plain) -> int:
    """Return the number of the probe's predictions that differ from plain PyTorch's, at common levels."""
    result = nz.probe(
        plain.model, [(plain.x, plain.y)], layer, levels=plain.levels, metrics=prediction, keep_items=True
    )
    curves = result.response.prediction_items.sel(layer=layer)
    probed = np.concatenate([curves.sel(family=name, level=each) for name, each in plain.levels.items()])
    return int((probed != plain.predictions().numpy()).sum())


def against_plain(options: argparse.Namespace, trained: nn.Sequential, test: Examples) -> None:
    """Print a line for each layer, and one for the sum over all layers."""
    x, y = images(test, 0, options.examples)
    layers = {str(place): act for place, act in enumerate(trained) if isinstance(act, nn.ReLU)}
    plain = {layer: Plain(trained, act, x, y, options.levels_timed) for layer, act in layers.items()}
    cases: dict[tuple[str, str], Callable[[], object]] = {}
    for layer, each in plain.items():
        cases["plain", layer] = each.accuracies
        cases["nearzero", layer] = partial(nz.probe, trained, [(x, y)], layer)
    times = timing.best(cases, options.rounds)
    levels = len(next(iter(plain.values())).hooks)
    scaled = {layer: times["plain", layer] * ALL_LEVELS / levels for layer in layers}
    each_pass = min(scaled.values()) / ALL_LEVELS
    print(
        f"ten-layer convolutional network, {len(x)} images, {ALL_LEVELS} levels, layer by layer: against a full pass "
        f"of {1e3 * each_pass:.1f} ms per level, timed at {levels} levels"
    )
    for number, layer in enumerate(layers, start=1):
        timing.print_row(f"hidden layer {number}", times["nearzero", layer], scaled[layer])
    timing.print_row("all layers", sum(times["nearzero", layer] for layer in layers), sum(scaled.values()))
    different = sum(differences(layer, each) for layer, each in plain.items())
    print(f"  {levels * len(x) * len(layers):,} predictions compared: {different} differ", flush=True)


# --- against a hook per level and the suffix bound, on published architectures ----------------------------------------


@dataclass(frozen=True, eq=False)
class Published:
    """A model with random weights and data for it, probed at all activations with its usual metrics."""

    name: str
    model: nn.Module
    data: list[Any]
    metrics: tuple[str, str]

    @cached_property
    def layers(self) -> list[nz.Layer]:
        return [each for each in nz.layers(self.model, self.data) if each.kind in ("activation", "function")]

    def probe(self) -> None:
        nz.probe(self.model, self.data, families="offset", levels=SHIFTS, metrics=self.metrics)

    @torch.no_grad()
    def hooks(self) -> None:
        """Run a full pass for each batch, layer and level, and compute the metrics in plain PyTorch."""
        for batch in self.data:
            logits, target = self.logits(batch)
            before = logits.argmax(-1), logits.log_softmax(-1)
            for layer in self.layers:
                for shift in SHIFTS:
                    with hooked(self.model, [LayerHook(layer, "pre", partial(torch.add, float(shift)))]):
                        scores = self.scores(self.logits(batch)[0], target, *before)
                    [each.item() for each in scores]

    def logits(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return logits (n, K) and targets (n,), of images, or of all tokens but the last of each text."""
        if isinstance(batch, dict):
            logits = self.model(batch["input_ids"]).logits[:, :-1]
            return logits.reshape(-1, logits.shape[-1]), batch["input_ids"][:, 1:].reshape(-1)
        return self.model(batch[0]), batch[1]

    def scores(
        self, logits: Tensor, target: Tensor, predicted: Tensor, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        if "accuracy" in self.metrics:
            return (logits.argmax(-1) == target).float().mean(), F.cross_entropy(logits, target)
        after = logits.log_softmax(-1)
        divergence = F.kl_div(after, before, reduction="none", log_target=True).sum(-1).mean()
        return (logits.argmax(-1) == predicted).float().mean(), divergence

    @torch.no_grad()
    def bound(self) -> float:
        """Return the seconds of the recorded operations, over all batches, layers and levels."""
        seconds = 0.0
        for batch in self.data:
            recorder = OpRecorder()
            hooks = [
                LayerHook(each, "pre", partial(recorder.cut, in_place=each.in_place, name=each))
                for each in self.layers
            ]
            with recorder.running(), hooked(self.model, hooks):
                logits, _ = self.logits(batch)
            suffixes = recorder.suffixes(logits)
            del logits
            for layer in self.layers:
                suffix = suffixes.pop(layer)
                values = [suffix.value + shift for shift in SHIFTS.tolist()]
                start = time.perf_counter()
                while values:
                    changed = values.pop()
                    suffix.run(lambda _, changed=changed: changed)  # type: ignore[misc]
                seconds += time.perf_counter() - start
        return seconds


def published() -> Iterator[Published]:
    """Yield the two models, if their packages are installed."""
    try:
        models = imported("torchvision.models")
        from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore[import-untyped]
    except (ImportError, nz.InputError) as error:
        print(f"the published architectures are left out: {error}")
        return
    # a third of the smallest GPT-2's width and vocabulary
    config = GPT2Config(
        vocab_size=16384, n_positions=64, n_embd=256, n_layer=6, n_head=4, bos_token_id=0, eos_token_id=0
    )
    tokens = torch.randint(0, config.vocab_size, (3, 8, 32))
    texts = [{"input_ids": each} for each in tokens]
    yield Published("GPT-2", GPT2LMHeadModel(config).eval(), texts, ("agreement", "kl_divergence"))
    batches = [(torch.randn(16, 3, 64, 64), torch.randint(0, 1000, (16,))) for _ in range(2)]
    yield Published("ResNet-18", models.resnet18().eval(), batches, ("accuracy", "cross_entropy"))


def against_bound(rounds: int) -> None:
    """Print a line for each model, from alternating rounds of probe, hooks and bound, and shares of time."""
    print(f"all activations in one call, {len(SHIFTS)} levels, {torch.get_num_threads()} threads")
    for case in published():
        case.probe()
        probe, hooks, bound = (
            min(each)
            for each in zip(
                *[
                    (timing.seconds(case.probe), timing.seconds(case.hooks), case.bound())
                    for _ in range(rounds)
                ],
                strict=True,
            )
        )
        name = f"{case.name}, {len(case.layers)} layers"
        timing.print_row(
            name, probe, hooks, f"than a hook per level; {bound / probe:.0%} is the suffix bound"
        )
        print("    " + ", ".join(f"{part} {share:.1%}" for part, share in where(case).items()), flush=True)


def where(case: Published) -> dict[str, float]:
    """Return the shares of a probe's time by task."""
    measure, session = (sys.modules[f"nearzero.{name}"] for name in ("probing.measure", "evaluators.session"))
    spent: Counter[str] = Counter()
    inner = [0.0]

    def timed(owner: Any, name: str, part: str) -> Any:
        function = getattr(owner, name)

        @wraps(function)
        def run(*args: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            inner.append(0.0)
            try:
                return function(*args, **keywords)
            finally:
                whole = time.perf_counter() - start
                spent[part] += whole - inner.pop()
                inner[-1] += whole

        return mock.patch.object(owner, name, run)

    with (
        timed(Published, "probe", "other"),
        timed(Suffix, "run", "suffixes"),
        timed(Scorer, "score", "metrics"),
        timed(SharedPasses, "_compare", "full passes of the check"),
        timed(OpRecorder, "suffixes", "cutting"),
        timed(measure, "layer_ranges", "ranges"),
        timed(session, "discover", "finding layers"),
    ):
        case.probe()
    return {part: seconds / spent.total() for part, seconds in spent.most_common()}


# --- the experiments before the first number --------------------------------------------------------------------------


class Images(Dataset[tuple[Tensor, int]]):
    """Images of noise and their classes, made when they are read."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        pixels = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(number))
        return pixels, number % 1000


def resnet18() -> nn.Module:
    """Return torchvision's ResNet-18 with random weights, or timm's."""
    try:
        return imported("torchvision.models").resnet18().eval()  # type: ignore[no-any-return]
    except nz.InputError:
        import timm

        return timm.create_model("resnet18").eval()  # type: ignore[no-any-return]


def shares_of_experiments(options: argparse.Namespace) -> None:
    """Print the share of the experiments in a default probe, of a small model and of a large one."""
    print("the experiments of a default probe")
    _, test = timing.begin(options)
    hidden = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    perceptron = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10)).eval()
    print_share("perceptron", perceptron, images(test, 0, IMAGES), options.rounds)
    data = Images()
    few = None if options.whole else Subset(data, range(FEW_IMAGES))
    print_share("ResNet-18", resnet18(), data, options.rounds, few)


def print_share(name: str, model: nn.Module, data: Any, rounds: int, few: Any = None) -> None:
    """Print the share of the experiments in a default probe.

    Args:
        name: of the model.
        model, data: as the probe takes them.
        rounds: of opening the model and the data; in the first of a process, modules are imported.
        few: data from which the time of all levels is scaled; None to probe the data whole.
    """
    layers = 0

    def open_only() -> None:
        nonlocal layers
        with open_session(model, data, Request()) as session:
            layers = len(session.layers)

    opening = timing.best({"open": open_only}, rounds)["open"]
    if few is None:
        whole, comparing = timed_probe(model, data)
        source = "measured"
    else:
        probes = [timed_probe(model, few, levels) for levels in FEW_LEVELS]
        (one, comparing), (several, _) = probes
        each = (several - one) / (FEW_LEVELS[1] - FEW_LEVELS[0]) / len(LEVELS) / len(few)
        whole = opening + comparing + each * ALL_LEVELS * IMAGES
        source = (
            f"at least, {1e3 * each:.0f} ms for each image and level at all layers, from {len(few)} images at "
            f"{FEW_LEVELS[0]} and {FEW_LEVELS[1]} levels of each family"
        )
    print(f"  {name}, {IMAGES:,} images, {layers} layers, {ALL_LEVELS} levels")
    print(f"    before the first number   {opening:>10.2f} s")
    print(f"    replay against full pass  {comparing:>10.2f} s")
    print(f"    whole probe               {whole:>10,.2f} s ({source})")
    print(f"    share of the experiments  {(opening + comparing) / whole:>10.3%}", flush=True)


def timed_probe(model: nn.Module, data: Any, levels: int | None = None) -> tuple[float, float]:
    """Return the seconds of a probe, and those of the comparison of the replay with full passes within it."""
    compare, comparing = SharedPasses._compare, []

    def timed(*args: Any) -> Any:
        start = time.perf_counter()
        result = compare(*args)
        comparing.append(time.perf_counter() - start)
        return result

    with mock.patch.object(SharedPasses, "_compare", timed):
        whole = timing.seconds(lambda: nz.probe(model, data, levels=levels, progress=False))
    return whole, sum(comparing)


# --- several levels at once in the suffix -----------------------------------------------------------------------------


class Transformer(nn.Module):
    """A transformer of four blocks on sixteen patches of an image."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(
            64, 4, 128, activation=nn.GELU(), batch_first=True, norm_first=True
        )
        self.patches, self.head = nn.Linear(49, 64), nn.Linear(64, 10)
        self.blocks = nn.TransformerEncoder(block, 4, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unfold(2, 7, 7).unfold(3, 7, 7).flatten(1, 3).flatten(2)
        return self.head(self.blocks(self.patches(tokens)).mean(1))  # type: ignore[no-any-return]


def networks() -> Iterator[tuple[str, nn.Module, tuple[int, ...], list[str]]]:
    """Yield name, model, shape of an example, and some early and late activations."""
    hidden = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    yield "MLP", nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10)), (1, 28, 28), ["2", "4"]
    model = convnet()
    acts = [str(place) for place, each in enumerate(model) if isinstance(each, nn.ReLU)]
    yield "convolutional", model, (1, 28, 28), [acts[0], acts[5], acts[8], acts[9]]
    yield (
        "transformer",
        Transformer(),
        (1, 28, 28),
        [f"blocks.layers.{block}.activation" for block in (0, 2, 3)],
    )
    try:
        model = imported("torchvision.models").resnet18()
    except nz.InputError:
        return
    for each in model.modules():
        if isinstance(each, nn.ReLU):
            each.inplace = False  # vmap can't write values of several levels into a tensor of one
    yield "ResNet-18", model, (3, 96, 96), ["layer3.1.bn1", "layer4.1.bn1"]


@torch.no_grad()
def record(model: nn.Module, act: nn.Module, x: Tensor) -> Suffix:
    recorder = OpRecorder()
    handle = act.register_forward_pre_hook(lambda _, args: recorder.cut(args[0], in_place=False))
    with recorder.running():
        logits = model(x)
    handle.remove()
    suffix = recorder.suffixes(logits)[None]
    for step in suffix.steps:  # with several levels the memory layout differs, and not every view is possible
        if step.function is torch.ops.aten.view.default:
            object.__setattr__(step, "function", torch.ops.aten.reshape.default)
    return suffix


def levels_at_once(rounds: int) -> None:
    """Print the time per level, one by one and all at once, and whether the logits are the same bits."""
    print(f"several levels at once in the suffix: {AT_ONCE} levels, time of each")
    print(f"  {'':<42}{'examples':>8}{'one by one':>14}{'at once':>14}{'':>11}logits")
    torch.backends.mha.set_fastpath_enabled(False)  # it skips the modules in an attention block
    for name, model, shape, acts in networks():
        model.eval()
        for act in acts:
            for examples in (1, 8, 32, 128):
                suffix = record(model, model.get_submodule(act), torch.rand(examples, *shape))
                compare(f"{name}, {act}", suffix, examples, rounds)


@torch.no_grad()
def compare(name: str, suffix: Suffix, examples: int, rounds: int) -> None:
    scales = torch.linspace(0.5, 1.5, AT_ONCE)

    def one_by_one() -> Tensor:
        return torch.stack([suffix.run(partial(torch.mul, scale)) for scale in scales])

    def at_once() -> Tensor:
        values = scales.view(-1, *[1] * suffix.value.ndim) * suffix.value
        return torch.vmap(lambda each: suffix.run(lambda _: each))(values)

    one, several = one_by_one(), at_once()
    same = "same bits" if torch.equal(one, several) else f"{float((one - several).abs().max()):.0e} apart"
    times = timing.best({"one": one_by_one, "several": at_once}, rounds)
    columns = "".join(f"{1e3 * times[each] / AT_ONCE:>11.3f} ms" for each in ("one", "several"))
    print(f"  {name:<42}{examples:>8}{columns}{times['one'] / times['several']:>8.2f} x  {same}", flush=True)


def main() -> None:
    options = arguments()
    torch.manual_seed(0)
    torch.set_num_threads(thread_count())
    if options.experiments:
        shares_of_experiments(options)
        timing.print_memory()
        return
    if not options.published:
        training, test = timing.begin(options)
        model = convnet()
        train(model, training)
        against_plain(options, model, test)
    against_bound(options.rounds)
    if options.levels:
        levels_at_once(options.rounds)
    timing.print_memory()


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "There is a performance drop")  # operations that vmap runs one by one
    main()
