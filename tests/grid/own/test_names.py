"""Grids whose networks are models by name: a checkpoint for each seed, untrained weights, and what is refused."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from local_models import TEXT, gpt2, images, vit

import nearzero as nz
from nearzero.torch_models.named.packages import imported

pytestmark = pytest.mark.usefixtures("one_torch_thread", "packages")

LAYER = "transformer.h.0.mlp.act"
RULES = """
[study]
verdict_targets = [0.3]
verdict_draws = 1
verdict_checks = []
"""
SPEC = f"""
title = "Checkpoints"
vary = "size"
values = ["small"]

[network]
build = "hf:./gpt2-{{size}}-seed{{seed}}"
data = "text.txt"
layers = ["{LAYER}"]
runs = 2
first_seed = 1

[network.loading]
block = 12
{RULES}"""
IMAGES = f"""
title = "Untrained"
vary = "dtype"
values = ["float32"]

[network]
build = "hf:./vit"
data = "images"
layers = ["vit*act*"]
runs = 2

[network.loading]
untrained = true
{RULES}"""
TRAIN = """
import torch


def data():
    draws = torch.Generator().manual_seed(0)
    batches = {"pixel_values": torch.randn(8, 3, 16, 16, generator=draws), "labels": torch.arange(8) % 2}
    return {"train": batches, "test": [batches]}


def train(model, data, rate=0.5):
    torch.optim.SGD(model.parameters(), lr=rate).step(lambda: None)
    with torch.no_grad():
        model.classifier.bias += torch.randn(2) * rate
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two trainings of a language model, a Vision Transformer, a text and images."""
    for seed in (1, 2):
        gpt2(tmp_path / f"gpt2-small-seed{seed}", seed=seed)
    vit(tmp_path / "vit", ["cat", "dog"])
    images(tmp_path / "images", ["cat", "dog"])
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def made(folder: Path, spec: str, out: str = "grid") -> nz.Grid:
    (folder / "spec.toml").write_text(spec)
    return nz.Grid.create(folder / out, folder / "spec.toml").run()


def test_a_checkpoint_of_each_seed_equals_judge_runs(folder: Path) -> None:
    grid = made(folder, SPEC)
    models = [f"hf:{folder}/gpt2-small-seed{seed}" for seed in (1, 2)]
    for run, model in enumerate(models):
        design = grid.spec.designs(grid.spec.points[0], "")[run]
        alone = nz.judge_runs(
            [model],
            str(folder / "text.txt"),
            LAYER,
            rules=grid.spec.rules,
            design=design,
            loading=nz.Loading(block=12),
        )
        kept = grid.verdict().costs.sel(network=f"small, {LAYER}", run=run)
        own = alone.costs.sel(network=LAYER).isel(run=0)
        np.testing.assert_array_equal(kept.values, own.sel(family=kept.family.values).values)
    origins = json.loads(grid.responses.attrs["models"])["small"]
    assert [origin["name"] for origin in origins] == models
    assert origins == [
        json.loads(nz.open_model(model).origin.to_json()) for model in models
    ]  # with the SHA-256 of the weights


def test_the_folder_of_a_grid_names_local_models_and_data_relative_to_itself(folder: Path) -> None:
    grid = made(folder, SPEC)
    network = tomllib.loads((grid.folder / "grid.toml").read_text())["network"]
    assert network["build"] == "hf:../gpt2-{size}-seed{seed}"
    assert network["data"] == "../text.txt"
    assert str(folder) not in (grid.folder / "grid.toml").read_text()
    assert nz.Grid.open(grid.folder).run().responses.identical(grid.responses)
    (hashes,) = grid.provenance["data"].values()
    assert hashes["text.txt"] == hashlib.sha256(TEXT.encode()).hexdigest()


def test_other_data_of_the_same_name_are_refused(folder: Path) -> None:
    grid = made(folder, SPEC)
    (grid.folder / "responses.nc").unlink()
    (folder / "text.txt").write_text(TEXT + "And more. ")
    with pytest.raises(nz.InputError, match="was begun with other data"):
        made(folder, SPEC)


def test_untrained_weights_are_of_the_seed(folder: Path) -> None:
    """By the generator of the run's seed, which transformers draws from."""
    spec = IMAGES.replace('vary = "dtype"\nvalues = ["float32"]', 'vary = "kind"\nvalues = ["vit"]').replace(
        "hf:./vit", "hf:./{kind}"
    )
    grid = made(folder, spec)
    transformers = imported("transformers")
    model = transformers.AutoModelForImageClassification
    processor = transformers.AutoImageProcessor.from_pretrained(str(folder / "vit"))
    data = nz.open_data(str(folder / "images"), nz.open_model(f"hf:{folder}/vit")).batches
    assert processor.size["height"] == 16
    for run in range(2):
        torch.manual_seed(run)
        module = model.from_config(transformers.AutoConfig.from_pretrained(str(folder / "vit")))
        design = grid.spec.designs(grid.spec.points[0], "")[run]
        alone = nz.judge_runs([module], data, "vit*act*", rules=grid.spec.rules, design=design)
        kept = grid.verdict().costs.isel(network=0).sel(run=run)
        own = alone.costs.isel(network=0, run=0).sel(family=kept.family.values)
        np.testing.assert_array_equal(kept.values, own.values)


def test_a_model_by_name_is_trained_further(folder: Path) -> None:
    """From the same weights in each run, which a notice says."""
    spec = IMAGES.replace('vary = "dtype"\nvalues = ["float32"]', 'vary = "rate"\nvalues = [0.5]')
    spec = spec.replace('data = "images"', 'data = "train.py:data"\ntrain = "train.py:train"')
    grid = made(folder, spec.replace("untrained = true", 'dtype = "float64"'))
    assert grid.responses.sizes["run"] == 2
    assert any("begin with the same weights" in notice for notice in grid.notices)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-seed{seed}", "-seed1", "is one model, the same for all runs; put {seed} into the name"),
        ("{size}", "{sise}", "'size' isn't an argument of the names in braces: did you mean 'sise'?"),
        (
            "runs = 2",
            "runs = 2\n[network.arguments]\nsise = 3",
            "'sise' under [network.arguments] isn't an argument",
        ),
        ("{seed}", "{seed", "the braces in 'hf:"),
        ("{seed}", "{0}", "braces hold seed or the name of an argument"),
        ("block = 12", "blok = 12", "unknown key 'blok' in [network.loading]: did you mean 'block'?"),
        ("block = 12", "block = 12.5", "block must be a whole number"),
        ("first_seed = 1", "first_seed = 3", "did you mean"),
        ("text.txt", "digits", "block=12 has no effect here: data = 'digits' are no texts or images by name"),
        (
            'data = "text.txt"',
            'data = "text.txt"\ntrain = "train.py:train"',
            "is what is measured, and train needs other",
        ),
        ('vary = "size"', 'split = "train"\nvary = "size"', "split = 'train' names none of them"),
        (
            'build = "hf:./gpt2-{size}-seed{seed}"',
            'build = ["hf:./gpt2-{size}-seed1"]',
            "build lists 1 names, one for each run",
        ),
        (
            'build = "hf:./gpt2-{size}-seed{seed}"',
            'build = ["hf:./gpt2-{size}-seed1", "x:y"]',
            "build lists names of models",
        ),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, old: str, new: str, message: str) -> None:
    assert old in SPEC
    with pytest.raises(nz.InputError) as caught:
        made(folder, SPEC.replace(old, new))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_with_the_same_weights_are_refused(folder: Path) -> None:
    gpt2(folder / "gpt2-small-seed2", seed=1)
    with pytest.raises(nz.InputError, match="runs 0 and 1 have the same weights"):
        made(folder, SPEC)
