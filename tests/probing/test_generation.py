"""Greedy generation under a perturbation, against loops written by hand, with and without a cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from language_models import tiny
from torch import nn

import nearzero as nz

IDS = torch.randint(2, 97, (6, 11), generator=torch.Generator().manual_seed(1))
PROMPT = (5, 9, 23)
NEW = 10
LAYERS = {
    "gpt2": "transformer.h.0.mlp.act",
    "llama": "model.layers.0.mlp.act_fn",
    "gpt_neox": "gpt_neox.layers.1.mlp.act",
    "gemma2": "model.layers.1.mlp.act_fn",
    "phi3": "model.layers.0.mlp.activation_fn",
    "mixtral": "model.layers.0.self_attn.o_proj",
    "t5": "decoder.block.0.layer.2.DenseReluDense.act",
}


class Tokenizer:
    """A tokenizer with a first token of its own, as many have."""

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [1, *(2 + ord(letter) % 95 for letter in text)]}

    def decode(self, ids: list[int]) -> str:
        return "".join(f"<{number}>" for number in ids)


class Counting(nn.Module):
    """The next token is the last one plus 1, which no other generation of text gives; `draw` draws it instead."""

    def __init__(self, draw: bool = False) -> None:
        super().__init__()
        self.act, self.draw = nn.ReLU(), draw

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return -(torch.arange(10.0) - self.act(ids[..., None] + 1.0)).abs()

    def generate(self, ids: torch.Tensor, max_new_tokens: int) -> torch.Tensor:
        for _ in range(max_new_tokens):
            logits = self(ids)[:, -1]
            token = torch.multinomial(logits.softmax(-1), 1) if self.draw else logits.argmax(-1, keepdim=True)
            ids = torch.cat([ids, token], 1)
        return ids


class TwiceOnThePrompt(Counting):
    """A model that calls its activation twice in the first pass, and once in the others."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits = super().forward(ids)
        return logits + 0 * self.act(ids[..., None].float()) if ids.shape[1] < 3 else logits


def by_hand(
    model: nn.Module, layer: str, perturbation: nz.Perturbation, *, encoder_decoder: bool
) -> tuple[int, ...]:
    """Return the tokens of a loop of full passes with a plain hook, without a cache."""
    scale, offset, clip, low = (
        torch.from_numpy(np.array(getattr(perturbation, name), np.float32))
        for name in ("scale", "offset", "clip", "low")
    )

    def change(x: torch.Tensor) -> torch.Tensor:
        return torch.minimum(torch.maximum(x * scale + offset, low), clip)

    module = model.get_submodule(layer)
    if layer.endswith("proj"):
        handle = module.register_forward_hook(lambda _, args, output: change(output))
    else:
        handle = module.register_forward_pre_hook(lambda _, args: (change(args[0]),))
    ids, decoded = torch.tensor([PROMPT]), torch.tensor([[0]])
    with torch.no_grad():
        for _ in range(NEW):
            if encoder_decoder:
                logits = model(input_ids=ids, decoder_input_ids=decoded).logits
                decoded = torch.cat([decoded, logits[:, -1:].argmax(-1)], 1)
            else:
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    handle.remove()
    return tuple((decoded if encoder_decoder else ids[:, len(PROMPT) :]).flatten().tolist())


@pytest.mark.parametrize("name", LAYERS)
def test_the_tokens_are_those_of_a_loop_with_a_hook(packages, name):
    model, layer, of_two = tiny(name), LAYERS[name], name == "t5"
    data = [{"input_ids": IDS, "labels": IDS}] if of_two else [IDS]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = nz.generate(model, layer, "offset", PROMPT, level=0.7, ranges_from=data, max_new_tokens=NEW)
    assert result.perturbed_ids == by_hand(model, layer, result.perturbation, encoder_decoder=of_two)
    assert result.unperturbed_ids == by_hand(model, layer, nz.Perturbation(), encoder_decoder=of_two)
    for cache in (False, True):
        again = nz.generate(model, layer, result.perturbation, PROMPT, max_new_tokens=NEW, use_cache=cache)
        assert again.perturbed_ids == result.perturbed_ids
        assert again.unperturbed_ids == result.unperturbed_ids
    same = nz.generate(model, layer, nz.Perturbation(), PROMPT, max_new_tokens=NEW)
    assert same.perturbed_ids == same.unperturbed_ids == result.unperturbed_ids
    assert same.first_change is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_every_step_is_perturbed():
    result = nz.generate(Counting(), "act", nz.Perturbation(clip=4.0), torch.tensor([1, 2]), max_new_tokens=4)
    assert (result.unperturbed_ids, result.perturbed_ids) == ((3, 4, 5, 6), (3, 4, 4, 4))
    assert (result.passes, result.reached, result.first_change) == (4, 4, 2)
    assert result.facts["family"] == "clip 4, of the pre-activation"


def test_a_wrapper_that_generates_by_a_part_of_its_own(packages):
    inner = tiny("llama")

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.inner(ids).logits

        def generate(self, ids: torch.Tensor, **settings) -> torch.Tensor:
            return self.inner.generate(ids, **settings)

    layer, change = LAYERS["llama"], nz.Perturbation(offset=1.0)
    plain, wrapped = (
        nz.generate(model, name, change, PROMPT, max_new_tokens=NEW)
        for model, name in ((inner, layer), (Wrapper(), f"inner.{layer}"))
    )
    assert wrapped.perturbed_ids == plain.perturbed_ids != plain.unperturbed_ids


def test_ranges_and_level_are_those_of_the_probe(packages):
    model, layer = tiny("gpt2"), LAYERS["gpt2"]
    seen = []
    handle = model.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    low, high = seen[0][:, :-1].flatten(0, 1).aminmax(dim=0)  # the last token predicts none
    result = nz.generate(
        model, layer, nz.Shift(range="pre"), PROMPT, level=-0.25, ranges_from=[IDS], max_new_tokens=2
    )
    np.testing.assert_allclose(result.perturbation.offset, -0.25 * (high - low).double().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(result.unit_range.maximum, high.numpy())
    assert (result.layer, result.family, result.level) == (layer, "shift", -0.25)


def test_texts_by_a_tokenizer(packages):
    model = tiny("llama")
    change = nz.Perturbation(offset=1.0)
    result = nz.generate(model, LAYERS["llama"], change, "a\n", tokenizer=Tokenizer(), max_new_tokens=2)
    assert result.prompt_ids == (1, 2 + ord("a") % 95, 2 + ord("\n") % 95)
    assert result.perturbed == "".join(f"<{number}>" for number in result.perturbed_ids)
    assert result.lines[0] == 'prompt: "a\\n"'
    html = result._repr_html_()
    assert LAYERS["llama"] in html
    assert "&lt;" in html
    assert "<script" not in html
    assert str(result).splitlines()[-1] == result.conclusion


def test_some_units_alone(packages):
    model, layer = tiny("llama"), LAYERS["llama"]
    result = nz.generate(model, layer, nz.Perturbation(offset=40.0), PROMPT, units=[3, 5], max_new_tokens=NEW)
    offset = np.zeros(48)
    offset[[3, 5]] = 40.0
    assert result.units == 2
    assert result.perturbed_ids == by_hand(
        model, layer, nz.Perturbation(offset=offset), encoder_decoder=False
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perturbation": "clip"}, "family clip needs level"),
        ({"perturbation": "clip", "level": 0.5}, "needs unit ranges: give ranges_from"),
        ({"level": 0.5}, "level= belongs to a family"),
        ({"perturbation": 3}, "perturbation must be an nz.Perturbation"),
        ({"perturbation": nz.Perturbation(offset=np.zeros(3))}, "3 values, but the layer has 1 unit"),
        ({"prompt": "text"}, "needs tokenizer="),
        ({"prompt": [[1], [2]]}, "give one prompt at a time"),
        ({"prompt": [0.5]}, "at least one token id"),
        ({"prompt": []}, "at least one token id"),
        ({"prompt": object()}, "must be a text, token ids, or a mapping"),
        ({"layer": "ac"}, "there is no layer 'ac': did you mean 'act'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
        ({"use_cache": True}, "generate must take use_cache="),
        ({"settings": {"do_sample": True}}, "generated greedily"),
        ({"model": nn.Sequential(nn.ReLU())}, "has no method generate"),
        ({"model": Counting(draw=True)}, "draws random numbers"),
        ({"model": TwiceOnThePrompt(), "layer": "act@1"}, "so it isn't known where it is"),
    ],
)
def test_what_is_refused(change, message):
    given = {"model": Counting(), "layer": "act", "perturbation": nz.Perturbation(clip=4.0), "prompt": [1, 2]}
    given |= {"max_new_tokens": 8, **change}
    with pytest.raises(nz.InputError, match=re.escape(message)):
        nz.generate(**given)


CODE = """
import torch
from torch import nn

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, ids):
        return -(torch.arange(10.0) - self.act(ids[..., None] + 1.0)).abs()

    def generate(self, ids, max_new_tokens):
        for _ in range(max_new_tokens):
            ids = torch.cat([ids, self(ids)[:, -1].argmax(-1, keepdim=True)], 1)
        return ids

class Tokenizer:
    def __call__(self, text):
        return {"input_ids": [int(letter) for letter in text]}

    def decode(self, ids):
        return "".join(map(str, ids))

def data():
    return [torch.arange(10).view(2, 5)]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "counting.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMAND = ("generate", "counting.py:Counting", "--data", "counting.py:data", "--layer", "act")
CLIP = ("--family", "clip", "--level", "0.3", "--max-new-tokens", "4")


def test_the_command_prints_both_texts_layer_and_level(folder, capsys):
    texts = ("--prompt", "12", "--tokenizer", "counting.py:Tokenizer")
    code, printed, _ = run(capsys, *COMMAND, *CLIP, *texts)
    assert code == 0
    lines = printed.splitlines()
    assert 'unperturbed: "3456"' in lines
    assert 'perturbed: "3444"' in lines  # clipped at 1 + 0.3 (10 - 1) = 3.7, nearest to 4
    assert re.search(r"^layer +act \(activation relu\), 1 unit *$", printed, re.MULTILINE)
    assert re.search(r"^level +0.3", printed, re.MULTILINE)


def test_the_command_prints_json(folder, capsys):
    content = json.loads(run(capsys, *COMMAND, *CLIP, "--prompt", "1,2", "--json")[1])
    texts = {row["which"]: row["tokens"] for row in content["tables"]["texts"]["rows"]}
    assert texts == {"prompt": "1 2", "unperturbed": "3 4 5 6", "perturbed": "3 4 4 4"}
    made = {row["what"]: row["value"] for row in content["tables"]["made_by"]["rows"]}
    assert made["level"] == "0.3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompt", "one"), "without --tokenizer the prompt must be token ids"),
        (("--prompt", "12", "--tokenizer", "nowhere"), "there is no folder nowhere"),
        (("--prompt", "12", "--tokenizer", "."), "holds no tokenizer"),
        (("--prompt", "12", "--tokenizer", "hf:gpt2"), "a model by name has its own"),
        (("--prompt", "12", "--tokenizer", "counting.py:data"), "not a tokenizer"),
    ],
)
def test_what_the_command_refuses(folder, capsys, options, message):
    code, out, err = run(capsys, *COMMAND, *CLIP, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_the_page_on_language_models_runs_as_it_is(packages, capsys):
    page = (Path(__file__).parents[2] / "docs" / "language_models.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "language_models.md", "exec"), names)
    printed = capsys.readouterr().out
    shown = re.findall(r"print\(result.headline\)  # (.*), \.\.\.", page)
    assert shown
    assert shown[0] in printed
    assert "model.layers.0.mlp.down_proj:input input 48" in printed
    assert printed.splitlines()[-1] == "16"
