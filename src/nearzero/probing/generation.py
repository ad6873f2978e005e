"""Generate text under a perturbation, beside the text without it: an illustration, and not a metric."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nearzero.errors import InputError
from nearzero.evaluators.plan import LayerPlan, Request, make_plan
from nearzero.evaluators.responses import changes_of
from nearzero.evaluators.session import Session, open_session
from nearzero.perturbations.families import Conduct, Family, make_family
from nearzero.perturbations.given import Fixed
from nearzero.perturbations.perturbation import Perturbation
from nearzero.perturbations.ranges import UnitRange
from nearzero.support.users import running
from nearzero.support.words import number_of
from nearzero.torch_models.batches import Prepare, summary
from nearzero.torch_models.hooks import LayerHook, hooked_in_all
from nearzero.torch_models.layer import Basis, Layer, Units
from nearzero.torch_models.ranges import layer_ranges
from nearzero.torch_models.state import Model, RandomStates, as_module, seed_all

__all__ = ["Generation", "generate"]

GREEDY = {"do_sample": False, "num_beams": 1}
IDS = "input_ids"
NEUTRAL = {"scale": 1.0, "offset": 0.0, "low": -np.inf, "clip": np.inf}
UNREAD: Any = {"class_axis": "none", "output_kind": "logits"}  # of an output that only `generate` reads


@dataclass(frozen=True, eq=False, kw_only=True)
class Generation:
    """Hold the text that a model generates under a perturbation, and the text without it.

    Attributes:
        model: the name of the model's class.
        layer, activation: the name of the layer, and of its activation; None if none follows.
        family: the name of the family; "perturbation" for a perturbation that was given as such.
        level: the level; None for a perturbation that was given as such.
        formula: the family with its options, or the perturbation, as text.
        perturbation: the perturbation that the level and the unit ranges make.
        units: how many units or directions are perturbed.
        unit_range: the unit ranges that the family was given; None for a perturbation that was given as such.
        prompt, unperturbed, perturbed: the texts; None without a tokenizer. The prompt isn't repeated in the others.
        prompt_ids, unperturbed_ids, perturbed_ids: the tokens of each.
        passes: the number of forward passes of the perturbed generation.
        reached: how many of these reached the layer.

    Example:
        >>> import nearzero as nz
        >>> result = nz.Generation(
        ...     model="LlamaForCausalLM", layer="model.layers.0.mlp.act_fn", activation="silu", family="clip",
        ...     level=0.5, formula="Clip()", perturbation=nz.Perturbation(clip=0.1), units=48, unit_range=None,
        ...     prompt="2 + 2 =", unperturbed=" 4.", perturbed=" 5.", prompt_ids=(7, 9, 7, 8),
        ...     unperturbed_ids=(4, 1), perturbed_ids=(5, 1), passes=2, reached=2,
        ... )
        >>> print(result.conclusion)
        model.layers.0.mlp.act_fn under clip 0.5: new token 1 is the first to differ; one prompt is an illustration
    """

    model: str
    layer: str
    activation: str | None
    family: str
    level: float | None
    formula: str
    perturbation: Perturbation
    units: int
    unit_range: UnitRange | None
    prompt: str | None
    unperturbed: str | None
    perturbed: str | None
    prompt_ids: tuple[int, ...]
    unperturbed_ids: tuple[int, ...]
    perturbed_ids: tuple[int, ...]
    passes: int
    reached: int

    @property
    def first_change(self) -> int | None:
        """Return the place of the first new token that differs, counted from 0; None if all are equal."""
        plain, changed = self.unperturbed_ids, self.perturbed_ids
        places = range(max(len(plain), len(changed)))
        return next(
            (place for place in places if plain[place : place + 1] != changed[place : place + 1]), None
        )

    @property
    def facts(self) -> dict[str, str]:
        """Return what made the perturbed text, as texts by name: layer, family, level, ranges, passes."""
        level = "" if self.level is None else f"{self.level:g}"
        facts = {
            "model": self.model,
            "layer": f"{self.layer} (activation {self.activation or 'none'}), {number_of(self.units, 'unit')}",
            "family": f"{self.family}: {self.formula}" if level else self.formula,
            "level": level,
            "unit ranges": "" if self.unit_range is None else _range_text(self.unit_range),
            "forward passes": f"{self.passes:,}, of which {self.reached:,} reach the layer",
        }
        return {name: text for name, text in facts.items() if text}

    @property
    def rows(self) -> list[dict[str, str]]:
        """Return a row for the prompt, the unperturbed and the perturbed text: which it is, its tokens, the text."""
        named = {
            "prompt": (self.prompt, self.prompt_ids),
            "unperturbed": (self.unperturbed, self.unperturbed_ids),
            "perturbed": (self.perturbed, self.perturbed_ids),
        }
        return [
            {"which": name, "tokens": " ".join(map(str, ids)), "text": text or ""}
            for name, (text, ids) in named.items()
        ]

    @property
    def lines(self) -> list[str]:
        """Return a line for each text: in quotes, with line breaks and control characters escaped; or its tokens."""
        if self.perturbed is None:
            return [f"{row['which']}: {row['tokens']}" for row in self.rows]
        return [f"{row['which']}: {json.dumps(row['text'], ensure_ascii=False)}" for row in self.rows]

    @property
    def conclusion(self) -> str:
        """Return one line that says from which token on the two texts differ."""
        made = self.family if self.level is None else f"{self.family} {self.level:g}"
        place, count = self.first_change, len(self.unperturbed_ids)
        found = (
            f"all {count} new tokens are equal"
            if place is None
            else f"new token {place + 1} is the first to differ"
        )
        return f"{self.layer} under {made}: {found}; one prompt is an illustration"

    def __str__(self) -> str:
        facts = [f"{name}: {text}" for name, text in self.facts.items()]
        return "\n".join([*facts, *self.lines, self.conclusion])

    def _repr_html_(self) -> str:
        """Return what notebooks display: the two texts, and what made them."""
        from nearzero.report.notebook import generation_html

        return generation_html(self.facts, self.lines, self.conclusion)


def generate(
    model: object,
    layer: str | Layer,
    perturbation: str | Family | Perturbation,
    prompt: Any,
    *,
    level: float | None = None,
    ranges_from: Any = None,
    tokenizer: Any = None,
    max_new_tokens: int = 40,
    use_cache: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    quantiles: tuple[float, float] | None = None,
    conduct: Conduct | None = None,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    unit_axis: int | None = None,
    causal: bool | None = None,
    units: Units = None,
    basis: Basis = None,
    prepare: Prepare | None = None,
    batch_size: int | None = None,
    memory: int | str | None = None,
) -> Generation:
    """Generate greedily with one layer perturbed in every forward pass, and without a perturbation.

    The model's own `generate` chooses the token with the greatest logit at each step. The perturbation acts on every
    token of every pass, those of the prompt and those that were generated, as in `nearzero.probe`. Two texts of one
    prompt illustrate what a perturbation does; they aren't a metric.

    Args:
        model: a `torch.nn.Module` with a method `generate` from token ids (1, S) to token ids, as all language models
            of transformers have. Its state is then restored, bit for bit.
        layer: the layer, as for `nearzero.probe`.
        perturbation: a perturbation; or a family, by its name or as a value, which needs `level` and `ranges_from`.
        prompt: a text, if there is a tokenizer; token ids, (S,) or (1, S); or a mapping of inputs, as tokenizers return
            it, with one example each.
        level: the level of the family.
        ranges_from: the data from which the unit ranges are taken, as for `nearzero.probe`.
        tokenizer: a function from a text to a mapping with "input_ids", with a method `decode` from ids to a text, as
            tokenizers of transformers are. It adds the special tokens that it adds by default.
        max_new_tokens: the greatest number of tokens that are generated.
        use_cache: whether keys and values of earlier tokens are kept; as the model does if None.
        settings: further arguments of the model's `generate`.
        quantiles, conduct, activation, unit_axis, causal, units, basis, prepare, batch_size, memory: as for
            `nearzero.probe`.

    Raises:
        InputError: a model that can't generate greedily, a layer, data or settings that can't be used; the message
            says what to do.

    Example:
        >>> import nearzero as nz
        >>> import torch
        >>> class Counting(torch.nn.Module):  # the next token is the greatest so far plus 1, of ten tokens
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.act = torch.nn.ReLU()
        ...     def forward(self, ids):
        ...         return -(torch.arange(10.0) - self.act(ids[..., None] + 1.0)).abs()
        ...     def generate(self, ids, max_new_tokens):
        ...         for _ in range(max_new_tokens):
        ...             ids = torch.cat([ids, self(ids)[:, -1].argmax(-1, keepdim=True)], 1)
        ...         return ids
        >>> result = nz.generate(Counting(), "act", nz.Perturbation(clip=4.0), [1, 2], max_new_tokens=4)
        >>> result.unperturbed_ids, result.perturbed_ids
        ((3, 4, 5, 6), (3, 4, 4, 4))
    """
    given = isinstance(perturbation, Perturbation)
    _check_level(perturbation, level, ranges_from)
    request = Request(
        layers=layer,
        families=perturbation,
        levels=None if level is None else [level],
        quantiles=quantiles,
        conduct=conduct,
        activation=activation,
        unit_axis=unit_axis,
        prepare=None if given else prepare,
        batch_size=None if given else batch_size,
        causal=causal,
        units=units,
        basis=basis,
        memory=memory,
        **UNREAD,
    )
    module = as_module(model)
    arguments = _arguments(module, max_new_tokens, use_cache, settings)
    inputs = _read_prompt(prompt, tokenizer)
    data = [_as_batch(module, inputs)] if given else ranges_from
    with open_session(module, data, request) as session:
        return _both(session, inputs, arguments, prompt, tokenizer)


def _both(
    session: Session, inputs: Mapping[str, Tensor], arguments: Mapping[str, Any], prompt: Any, tokenizer: Any
) -> Generation:
    """Return the texts without and with the perturbation.

    Raises:
        InputError: no pass reaches the layer.
    """
    plan, calls = _planned(session, session.request)
    unperturbed = _greedy(session.model, inputs, arguments)
    with hooked_in_all(session.model.module, _perturbing(plan, session), calls) as counter:
        perturbed, _ = _generated(session.model, inputs, arguments)
    if not counter.reached:
        raise InputError(f"no pass of the generation reaches layer {plan.layer.name!r}; name another layer")
    prompt_ids = tuple(inputs[IDS].flatten().tolist()) if IDS in inputs else ()
    read = partial(_decoded, tokenizer)
    family, level, formula = _made_of(plan, session.request)
    side = getattr(session.request.chosen[family], "range", plan.conduct.range)
    (made,) = plan.perturbations
    assert isinstance(made, Perturbation)
    return Generation(
        model=type(session.model.module).__name__,
        layer=plan.layer.name,
        activation=plan.layer.activation,
        family=family,
        level=level,
        formula=formula,
        perturbation=made,
        units=plan.layer.units,
        unit_range=None if level is None else plan.ranges.on(side),
        prompt=prompt if isinstance(prompt, str) else read(prompt_ids),
        unperturbed=read(unperturbed),
        perturbed=read(perturbed),
        prompt_ids=prompt_ids,
        unperturbed_ids=unperturbed,
        perturbed_ids=perturbed,
        passes=counter.passes,
        reached=counter.reached,
    )


def _made_of(plan: LayerPlan, request: Request) -> tuple[str, float | None, str]:
    """Return the name of the family, the level (None for a perturbation that was given), and the formula."""
    ((name, chosen),) = request.chosen.items()
    family = make_family(chosen, plan.conduct) if isinstance(chosen, str) else chosen
    if not isinstance(family, Fixed):
        return name, float(plan.grids[name][0]), repr(family)
    parameters, texts = family.perturbation, []
    for each, neutral in NEUTRAL.items():
        value = np.asarray(getattr(parameters, each))
        if value.ndim:
            texts.append(f"{each} {value.min():.4g} to {value.max():.4g} by unit")
        elif value != neutral:
            texts.append(f"{each} {float(value):g}")
    return name, None, f"{', '.join(texts) or 'the identity'}, of the {parameters.side}-activation"


def _check_level(perturbation: object, level: object, ranges_from: object) -> None:
    """Refuse a family without a level or unit ranges, and a perturbation with either.

    Raises:
        InputError: as described.
    """
    if isinstance(perturbation, Perturbation):
        for name, value in {"level": level, "ranges_from": ranges_from}.items():
            if value is not None:
                raise InputError(
                    f"{name}= belongs to a family; the perturbation is given as such, so leave it out"
                )
        return
    if not isinstance(perturbation, (str, Family)):
        raise InputError(
            "perturbation must be an nz.Perturbation, or a family: its name or a value such as nz.Shift(); got "
            f"{type(perturbation).__name__}"
        )
    name = perturbation if isinstance(perturbation, str) else perturbation.name
    if isinstance(level, bool) or not isinstance(level, (int, float)):
        raise InputError(f"family {name} needs level=..., one number; got {level!r}")
    if ranges_from is None:
        raise InputError(f"family {name} needs unit ranges: give ranges_from=..., data as for nz.probe")


def _planned(session: Session, request: Request) -> tuple[LayerPlan, int]:
    """Return the one perturbation of the one layer, and how many calls of its module a pass has.

    Raises:
        InputError: several layers, or a layer that can't be perturbed so.
    """
    if len(session.layers) != 1:
        names = ", ".join(layer.name for layer in session.layers[:8])
        raise InputError(
            f"one layer is perturbed in a generation; {request.layers!r} names {len(session.layers)}: {names}"
        )
    (layer,) = session.layers
    (ranges,) = layer_ranges(session.model, [layer], session.source, session.budget, request.quantiles)
    plan = make_plan(layer, ranges, request.chosen, request.levels, request.conduct)
    (perturbation,) = plan.perturbations
    place, _ = layer.place(perturbation.side)
    return plan, len({found.call for found in session.discovery.places if found.path == place.path})


def _perturbing(plan: LayerPlan, session: Session) -> LayerHook:
    """Return the hook that perturbs the layer."""
    (perturbation,) = plan.perturbations

    def change(values: Tensor) -> Tensor | None:
        if perturbation.is_identity:
            return None
        return next(changes_of([perturbation], values, plan.layer, session.discovery.batch, 0))(values)

    return LayerHook(plan.layer, perturbation.side, change)


# --- the prompt ---


def _read_prompt(prompt: Any, tokenizer: Any) -> dict[str, Tensor]:
    """Return the model's inputs for a prompt, (1, S) each.

    Raises:
        InputError: a text without a tokenizer, something else than token ids, or several prompts.
    """
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InputError("the prompt is a text, which needs tokenizer=...; without one, give token ids")
        with running("the tokenizer fails on the prompt"):
            read = tokenizer(prompt)
            inputs = {name: torch.as_tensor(read[name]) for name in (IDS, "attention_mask") if name in read}
        if IDS not in inputs:
            raise InputError(f"the tokenizer must return a mapping with {IDS!r}; got {summary(read)}")
    elif isinstance(prompt, Mapping):
        inputs = {name: torch.as_tensor(value) for name, value in prompt.items()}
    else:
        try:
            inputs = {IDS: torch.as_tensor(prompt)}
        except (TypeError, ValueError, RuntimeError):
            raise InputError(
                f"the prompt must be a text, token ids, or a mapping of inputs; got {type(prompt).__name__}"
            ) from None
    inputs = {name: value[None] if value.ndim == 1 else value for name, value in inputs.items()}
    ids = inputs.get(IDS)
    if ids is not None and (ids.ndim != 2 or ids.is_floating_point() or not ids.numel()):
        raise InputError(f"the prompt must have at least one token id, (S,) or (1, S); got {summary(ids)}")
    if not inputs or any(len(value) != 1 for value in inputs.values()):
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items()) or "none"
        raise InputError(f"give one prompt at a time; got inputs {shapes}")
    return inputs


def _as_batch(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """Return the prompt as a batch on which the layers are found; with labels where a decoder reads these."""
    if set(inputs) == {IDS}:
        config = getattr(module, "config", None)
        return (
            {**inputs, "labels": inputs[IDS]} if getattr(config, "is_encoder_decoder", False) else inputs[IDS]
        )
    return dict(inputs)


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str | None:
    """Return the text of tokens; None without a tokenizer."""
    if tokenizer is None:
        return None
    with running("the tokenizer can't decode the tokens"):
        return str(tokenizer.decode(list(ids)))


# --- the model's own generate ---


def _arguments(
    module: nn.Module, max_new_tokens: object, use_cache: bool | None, settings: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the arguments of the model's `generate`, besides the prompt: greedy, as far as it takes settings.

    Raises:
        InputError: it has no `generate`, doesn't take what it must, or the settings ask for something else than greedy.
    """
    if not callable(getattr(module, "generate", None)):
        raise InputError(
            f"{type(module).__name__} has no method generate(ids, max_new_tokens=...); give a language model of "
            "transformers, or a module with such a method"
        )
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be a whole number, at least 1; got {max_new_tokens!r}")
    settings = dict(settings or {})
    for name, greedy in GREEDY.items():
        if settings.get(name, greedy) != greedy:
            raise InputError(
                f"texts are generated greedily; settings have {name}={settings[name]!r}; leave it out"
            )
    try:
        taken = inspect.signature(module.generate).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):
        taken = {}  # type: ignore[assignment]
    takes_any = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
    wanted: dict[str, Any] = {"max_new_tokens": max_new_tokens}
    if use_cache is not None:
        wanted["use_cache"] = use_cache
    for name in wanted:
        if not takes_any and name not in taken:
            raise InputError(
                f"{type(module).__name__}.generate must take {name}=...; it takes {', '.join(taken)}"
            )
    own = {name: value for name, value in GREEDY.items() if takes_any or name in taken}
    return {**own, **wanted, **settings}


def _greedy(model: Model, inputs: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the new tokens of one generation.

    Raises:
        InputError: `generate` fails, returns something else than token ids, or isn't greedy.
    """
    ids, drew = _generated(model, inputs, arguments)
    if drew and _generated(model, inputs, arguments, seed=1)[0] != ids:
        raise InputError(
            f"{type(model.module).__name__}.generate draws random numbers, and other ones give other tokens; give "
            "settings={...} by which it takes the token with the greatest logit, such as {'top_k': 1}"
        )
    return ids


def _generated(
    model: Model, inputs: Mapping[str, Tensor], arguments: Mapping[str, Any], seed: int = 0
) -> tuple[tuple[int, ...], bool]:
    """Return the new tokens, and whether random numbers were drawn."""
    model.before.restore_all()
    seed_all(seed)
    states = RandomStates()
    inputs = {name: value.to(model.device, copy=True) for name, value in inputs.items()}
    named = {name: value for name, value in inputs.items() if name != IDS}
    first = (inputs[IDS],) if IDS in inputs else ()
    generator: Any = model.module
    with running("the model's generate fails on the prompt"), model.before.same_hooks():
        output = generator.generate(*first, **named, **arguments)
    output = getattr(output, "sequences", output)
    if not isinstance(output, Tensor) or output.is_floating_point() or output.shape[:-1] not in ((), (1,)):
        raise InputError(f"generate must return the token ids of one text, (1, T); got {summary(output)}")
    tokens = tuple(output.flatten().tolist())
    prompt = tuple(inputs[IDS].flatten().tolist()) if IDS in inputs and not model.takes_labels else ()
    new = tokens[len(prompt) :] if tokens[: len(prompt)] == prompt else tokens
    return new, bool(states.moved(torch_too=True))


# --- texts ---


def _range_text(unit_range: UnitRange) -> str:
    low, high = unit_range.minimum, unit_range.maximum
    return (
        f"of the {unit_range.side}-activation; minima from {low.min():.4g} to {low.max():.4g}, maxima from "
        f"{high.min():.4g} to {high.max():.4g}"
    )
