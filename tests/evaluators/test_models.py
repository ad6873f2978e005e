"""Every analysis on a convolutional network, a Vision Transformer and a GPT-2, compared with plain passes with a hook.

The models are in float64. For each model there is a case with a function that returns the logits of items with a hook
at the layer. It is written without nearzero: units last, the rows of each example one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import nearzero as nz
from nearzero.evaluators.base import halves

EXAMPLES = 24
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Hold a model, data as `nz.probe` takes them, a layer, and a function that runs the model without nearzero.

    Attributes:
        path: the path of the activation's module.
        axis: the dimension of its units.
        run: from the numbers of examples to (logits (n, K), targets (n,)) of items.
    """

    model: nn.Module
    data: Any
    layer: str
    path: str
    axis: int
    run: Callable[[np.ndarray], tuple[Tensor, Tensor]]
    tokens: int = 1  # items per example

    def logits(self, rows: np.ndarray, change: Change | None = None, *, post: bool = False) -> np.ndarray:
        """Return the logits (n, K), with z or act(z) changed; the change sees the units last."""

        def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            assert change is not None
            return (change(args[0].movedim(self.axis, -1)).movedim(-1, self.axis), *args[1:])

        def after(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            assert change is not None
            return change(output.movedim(self.axis, -1)).movedim(-1, self.axis)

        module, handle = self.model.get_submodule(self.path), None
        if change is not None:
            handle = module.register_forward_hook(after) if post else module.register_forward_pre_hook(before)
        try:
            with torch.no_grad():
                return self.run(rows)[0].numpy()
        finally:
            if handle is not None:
                handle.remove()

    def values(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return z and act(z), (examples, rows per example, U), of rows that count: those of tokens with a next one."""
        seen: list[Tensor] = []
        for post in (False, True):
            self.logits(rows, lambda values: seen.append(values.clone()) or values, post=post)  # type: ignore[func-returns-value]
        z, a = (each.reshape(len(rows), -1, each.shape[-1]).numpy() for each in seen)
        return (z, a) if self.tokens == 1 else (z[:, : self.tokens], a[:, : self.tokens])

    def targets(self, rows: np.ndarray) -> np.ndarray:
        return self.run(rows)[1].numpy()


def convolutional() -> Case:
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    model = model.double().eval()
    x, y = torch.randn(EXAMPLES, 1, 8, 8, dtype=torch.float64), torch.randint(10, (EXAMPLES,))
    return Case(model, (x, y), "1", "1", 1, lambda rows: (model(x[rows]), y[rows]))


def vision_transformer() -> Case:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=20,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=10,
    )
    model = transformers.ViTForImageClassification(config).double().eval()
    x, y = torch.randn(EXAMPLES, 1, 8, 8, dtype=torch.float64), torch.randint(10, (EXAMPLES,))
    (path,) = [name for name, each in model.named_modules() if "1" in name.split(".") and is_gelu(each)]
    return Case(model, (x, y), path, path, 2, lambda rows: (model(pixel_values=x[rows]).logits, y[rows]))


def language_model() -> Case:
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    ids = torch.randint(40, (EXAMPLES, 9))

    def run(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        logits = model(input_ids=ids[rows]).logits[:, :-1]
        return logits.flatten(0, 1), ids[rows, 1:].flatten()

    batches = [{"input_ids": each, "labels": each} for each in ids.split(10)]
    path = "transformer.h.0.mlp.act"
    return Case(model, batches, path, path, 2, run, tokens=8)


def is_gelu(module: nn.Module) -> bool:
    return "gelu" in type(module).__name__.lower()


CASES = {"convolutional": convolutional, "ViT": vision_transformer, "GPT-2": language_model}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, packages: None) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = CASES[request.param]()
        with torch.no_grad():  # so that predictions differ between items, and change
            for each in made.model.parameters():
                each.mul_(3.0 if each.ndim > 1 else 1.0)
    return made


def ranges_of(values: tuple[np.ndarray, np.ndarray]) -> nz.Ranges:
    pre, post = (
        nz.UnitRange(each.min(axis=(0, 1)), each.max(axis=(0, 1)), side)
        for each, side in zip(values, ("pre", "post"), strict=True)
    )
    return nz.Ranges(pre, post)


def changing(perturbation: nz.Perturbation) -> Change:
    return lambda values: torch.from_numpy(perturbation(values.numpy()))


DESIGN = nz.Design(
    families=("shift", "gains", "cap", "noise"),
    targets=(0.2,),
    draws=1,
    seed=2,
    conduct=nz.Conduct(offset="shift"),
)
ALL = np.arange(EXAMPLES)


def test_ranges_and_sweep(case: Case) -> None:
    ranges, conduct = ranges_of(case.values(ALL)), nz.Conduct(offset="shift")
    result = nz.unit_ranges(case.model, case.data, layer=case.layer)
    for side in ("pre", "post"):
        np.testing.assert_allclose(result.on(side).minimum, ranges.on(side).minimum, rtol=1e-12)
        np.testing.assert_allclose(result.on(side).maximum, ranges.on(side).maximum, rtol=1e-12)
    plain, targets = case.logits(ALL).argmax(1), case.targets(ALL)
    for family, level in (("offset", 0.3), ("scale", 0.2), ("clip", 0.1), ("cap", 0.4)):
        swept = nz.sweep(
            case.model, case.data, family=family, levels=[level], conduct=conduct, layer=case.layer
        )
        assert swept.attrs["backend"] == "model"
        each = nz.make_family(family, conduct).at(level, ranges)
        predicted = case.logits(ALL, changing(each), post=each.side == "post").argmax(1)
        assert float(swept.accuracy[0]) == np.mean(predicted == targets)
        assert float(swept.agreement[0]) == np.mean(predicted == plain)
    assert float(swept.unperturbed_accuracy) == np.mean(plain == targets)


def test_matched_displacement(case: Case) -> None:
    """Displacement in all its measures, responses and centred responses, by their definitions, on the two halves."""
    result = nz.matched(case.model, case.data, layer=case.layer, design=DESIGN).squeeze("target")
    assert result.attrs["backend"] == "model"
    reference, responding = halves(EXAMPLES, DESIGN.seed)
    assert result.attrs["examples"] == len(responding)
    (z, a), (_, here) = case.values(reference), case.values(responding)
    ranges = ranges_of((z, a))
    live, targets = ranges.live, case.targets(responding)
    plain = {True: case.logits(reference), False: case.logits(responding)}
    spread = np.square(plain[False] - plain[False].mean(axis=0)).sum()
    flat = a.reshape(-1, a.shape[-1])[:, live]
    for family, side in (("shift", "below"), ("shift", "above"), ("gains", "above"), ("cap", "below")):
        row = result.sel(family=family, side=side)
        if np.isnan(row.level):
            continue
        each = nz.make_family(family, DESIGN.conduct, DESIGN.draw_seed).at(float(row.level), ranges)
        post, change = each.side == "post", changing(each)
        changed = [changed_activations(case, rows, each) for rows in (reference, responding)]
        d = np.sqrt(np.square(changed[0] - a)[..., live].sum() / np.square(a)[..., live].sum())
        assert d == pytest.approx(0.2, rel=1e-4)
        assert float(row.displacement) == pytest.approx(d, rel=1e-9)
        moved, whole = (changed[1] - here)[..., live], here[..., live]
        by_example = np.sqrt(np.square(moved).sum(axis=(1, 2)) / np.square(whole).sum(axis=(1, 2)))
        assert float(row.median_displacement) == pytest.approx(np.median(by_example), rel=1e-9)
        there, after = case.logits(reference, change, post=post), case.logits(responding, change, post=post)
        shift = (there - plain[True]).mean(axis=0)
        for name, logits in (("", after), ("centred_", after - shift)):
            assert float(row[f"{name}accuracy"]) == np.mean(logits.argmax(1) == targets)
            assert float(row[f"{name}agreement"]) == np.mean(logits.argmax(1) == plain[False].argmax(1))
            ratio = np.square(logits - plain[False]).sum() / spread
            assert float(row[f"{name}logit_displacement"]) == pytest.approx(np.sqrt(ratio), rel=1e-9)
        # on the reference half, all of whose examples are among the first 2,048
        assert float(row.whitened_displacement) == pytest.approx(
            whitened(flat, (changed[0] - a)[..., live].reshape(-1, live.sum())), rel=1e-4
        )
    noise = result.sel(family="noise", side="above")
    assert float(noise.displacement) == pytest.approx(0.2, rel=1e-4)
    assert float(noise.displacement_here) == pytest.approx(0.2, rel=0.3)


def changed_activations(case: Case, rows: np.ndarray, each: nz.Perturbation) -> np.ndarray:
    """Return a' by the module itself, (examples, rows per example, U)."""
    z, a = case.values(rows)
    if each.side == "post":
        return each(a)
    module = case.model.get_submodule(case.path)
    return module(torch.from_numpy(each(z))).numpy()


def whitened(reference: np.ndarray, moved: np.ndarray) -> float:
    """Return the whitened displacement, with Ledoit and Wolf's covariance by scikit-learn."""
    from sklearn.covariance import LedoitWolf

    inverse = np.linalg.inv(LedoitWolf().fit(reference).covariance_)
    about = reference - reference.mean(axis=0)
    whole = np.einsum("nu,uv,nv->", about, inverse, about) / len(about)
    return float(np.sqrt(np.einsum("nu,uv,nv->", moved, inverse, moved) / len(moved) / whole))


def test_near_against_far(case: Case) -> None:
    """Replace the values of each part by their mean, unit by unit, with a hook after the activation."""
    result = nz.near_and_far(
        case.model, case.data, layer=case.layer, fractions=[0.3], targets=[0.05], replacements="mean"
    ).squeeze()
    assert result.attrs["backend"] == "model"
    z, a = (each.reshape(-1, each.shape[-1]) for each in case.values(ALL))
    live, targets = ranges_of(case.values(ALL)).live, case.targets(ALL)
    size = max(1, int(0.3 * len(z) + 0.5))
    for part in ("near", "far"):
        replaced = a.copy()
        for unit in np.flatnonzero(live):
            order = np.lexsort((np.arange(len(z)), np.abs(z[:, unit].astype(np.float32))))
            rows = order[:size] if part == "near" else order[-size:]
            replaced[rows, unit] = a[rows, unit].astype(np.float32).mean(dtype=np.float64)
        d = np.sqrt(np.square(replaced - a)[:, live].sum() / np.square(a)[:, live].sum())
        here = result.sel(part=part)
        assert float(here.displacement) == pytest.approx(d, rel=1e-5)
        for t, prefix in ((1.0, ""), (0.05 / d, "matched_")):
            if t > 1:
                assert np.isnan(here.matched_accuracy)
                continue
            values = torch.from_numpy(a + t * (replaced - a))
            logits = case.logits(ALL, lambda old, new=values: with_rows(old, new), post=True)
            assert float(here[f"{prefix}accuracy"]) == pytest.approx(
                np.mean(logits.argmax(1) == targets), abs=1.1 / len(targets)
            )


def with_rows(old: Tensor, new: Tensor) -> Tensor:
    """Return values with others in the first rows of each example."""
    rows = old.reshape(EXAMPLES, -1, old.shape[-1]).clone()
    new = new.view(EXAMPLES, -1, old.shape[-1])
    rows[:, : new.shape[1]] = new
    return rows.view(old.shape)


@pytest.mark.parametrize("family", ["shift", "cap"])
def test_critical_levels(case: Case, family: str) -> None:
    """The predictions on both sides of each change are those of a plain pass, and no change was missed."""
    conduct = nz.Conduct(offset="shift")
    result = nz.critical_levels(
        case.model, case.data, layer=case.layer, family=family, conduct=conduct, low=0.0, high=0.5, grid=21
    )
    assert not result.exact
    assert len(result) == EXAMPLES * case.tokens
    ranges, made = ranges_of(case.values(ALL)), nz.make_family(family, conduct)

    def predicted(level: float) -> np.ndarray:
        each = made.at(level, ranges)
        return case.logits(ALL, changing(each), post=each.side == "post").argmax(1)

    np.testing.assert_array_equal(result.unperturbed, case.logits(ALL).argmax(1))
    inner = np.setdiff1d(np.arange(len(result.starts)), result.first[:-1])
    assert len(inner) > 5
    for place in inner[:: max(1, len(inner) // 12)]:
        item = int(np.searchsorted(result.first, place, side="right") - 1)
        before, after = (predicted(result.starts[place] + step)[item] for step in (-1e-9, 1e-9))
        assert (before, after) == (result.classes[place - 1], result.classes[place])
    for level in np.linspace(0, 0.5, 11):
        np.testing.assert_array_equal(result.predict(level), predicted(level))


def test_scale_audit(case: Case) -> None:
    levels = np.array([0.1, 0.5, 1.0, 3.0])
    result = nz.scale_audit(case.model, case.data, layer=case.layer, levels=levels)
    ranges, targets = ranges_of(case.values(ALL)), case.targets(ALL)
    for level in levels:
        each = nz.Scale().at(level, ranges)
        accuracy = np.mean(case.logits(ALL, changing(each)).argmax(1) == targets)
        assert float(result.curves.measured_accuracy.sel(level=level)) == accuracy
    assert result.homogeneous == (result.activation == "relu")
    assert result.form == "free"  # two layers with biases, or a normalisation of a sum with other paths


def test_a_verdict_over_runs(case: Case) -> None:
    """The costs are computed from the responses in the same way for all models."""
    design = nz.Design(
        families=("signed_shift", "gains", "cap"), targets=(0.1,), draws=1, conduct=DESIGN.conduct
    )
    runs = [
        nz.matched(
            case.model, case.data, layer=case.layer, design=nz.Design(**vars(design) | {"first_draw": run})
        )
        for run in range(6)
    ]
    judged = nz.verdict(runs, nz.Rules(targets=(0.1,)))
    for each in judged.comparisons:
        costs = [
            100
            * (
                float(run.unperturbed_accuracy)
                - run.accuracy.sel(family=each.intensity, target=0.1).mean("side")
            )
            for run in runs
        ]
        if each.n:
            assert each.intensity_cost == pytest.approx(float(np.mean(costs)))


def test_noise_depends_on_the_example_and_not_on_batches(case: Case) -> None:
    if not isinstance(case.data, list):
        small = list(zip(*(each.split(5) for each in case.data), strict=True))
    else:
        ids = torch.cat([each["input_ids"] for each in case.data])
        small = [{"input_ids": each, "labels": each} for each in ids.split(7)]
    one, other = (
        nz.matched(case.model, data, layer=case.layer, design=DESIGN).sel(family="noise", side="above")
        for data in (case.data, small)
    )
    for name in ("level", "displacement_here", "accuracy", "centred_agreement"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9)
