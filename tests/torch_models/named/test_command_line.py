"""The commands for models and data by name, and what an installation without the libraries says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from local_models import TEXT, gpt2, images, use_caches, vit

import nearzero as nz
from nearzero.torch_models.named.packages import imported

NAMES = ["cat", "dog", "mat"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Enter a folder with a language model, an image model, a text and images."""
    use_caches(monkeypatch, tmp_path / "caches")
    monkeypatch.chdir(tmp_path)
    gpt2(tmp_path / "gpt2")
    vit(tmp_path / "vit", NAMES)
    (tmp_path / "text.txt").write_text(TEXT)
    images(tmp_path / "images", NAMES)
    return tmp_path


def rows_of(out: str) -> list[dict]:
    return json.loads(out)["tables"]["responses"]["rows"]


def test_a_text_is_probed_in_one_line_and_equals_a_loop_by_hand(folder, capsys) -> None:
    layer = "transformer.h.1.mlp.act"
    arguments = ("--layer", layer, "--family", "scale", "--levels", 3, "--metric", "accuracy", "--json")
    code, out, _ = run(capsys, "probe", "hf:./gpt2", "text.txt", *arguments)
    assert code == 0
    transformers = imported("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained("./gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    tokens = tokenizer(TEXT)["input_ids"]
    blocks = [tokens[start : start + 24] for start in range(0, len(tokens), 24)]
    batch = tokenizer.pad({"input_ids": blocks}, return_tensors="pt")
    counts, following = batch["attention_mask"][:, 1:] == 1, batch["input_ids"][:, 1:]
    for row in rows_of(out):
        model = transformers.AutoModelForCausalLM.from_pretrained("./gpt2").eval()
        hook = lambda module, given, level=row["level"]: (given[0] * level,)  # noqa: E731
        model.transformer.h[1].mlp.act.register_forward_pre_hook(hook)
        with torch.no_grad():
            predicted = model(**batch).logits[:, :-1].argmax(-1)
        expected = (predicted == following)[counts].double().mean().item()
        assert row["accuracy"] == expected


def test_images_are_probed_in_one_line_and_equal_a_loop_by_hand(folder, capsys) -> None:
    code, out, _ = run(
        capsys,
        "probe",
        "hf:./vit",
        "images",
        "--metric",
        "cross_entropy",
        "--levels",
        2,
        "--json",
        "--out",
        "r",
    )
    assert code == 0
    assert json.loads(out)["conclusions"][1].startswith("weights: hf:./vit, model.safetensors (SHA-256 ")
    kept = nz.ProbeResult.open("r")
    transformers = imported("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained("./vit")
    model = transformers.AutoModelForImageClassification.from_pretrained("./vit").eval()
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in sorted(Path("images").glob("*/*.png"))]
    batch = torch.cat([processor(each, return_tensors="pt")["pixel_values"] for each in pictures])
    labels = torch.arange(3).repeat_interleave(3)
    with torch.no_grad():
        logits = model(batch).logits
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().mean().item()
    assert float(kept.response.unperturbed_cross_entropy) == expected
    assert kept.class_names == tuple(NAMES)
    assert kept.origins["data"].name == "images"
    page = kept.to_html()
    assert kept.origins["model"].files["model.safetensors"][:12] in page


def test_the_page_shows_the_names_of_the_classes(folder, capsys) -> None:
    assert run(capsys, "probe", "hf:./vit", "images", "--levels", 2, "--keep-items", "--out", "r")[0] == 0
    assert run(capsys, "page", "r")[0] == 0
    assert '"cat"' in Path("r/page.html").read_text()


def test_layers_of_a_model_by_name(folder, capsys) -> None:
    code, out, _ = run(capsys, "layers", "hf:./gpt2", "text.txt")
    assert code == 0
    assert "transformer.h.0.mlp.act" in out
    assert "next: nearzero probe hf:./gpt2 text.txt" in out


def test_settings_of_names(folder, capsys) -> None:
    settings = ("--load", "block=8", "--load", "examples=3", "--load", "dtype=float64")
    code, out, _ = run(capsys, "probe", "hf:./gpt2", "--data", "text.txt", *settings, "--levels", 2, "--json")
    assert code == 0
    assumed = {row["assumed"]: row["as"] for row in json.loads(out)["tables"]["assumptions"]["rows"]}
    assert assumed["blocks"].startswith("3 of 8 tokens")
    assert assumed["precision of the weights"] == "float64"
    code, out, _ = run(
        capsys,
        "probe",
        "hf:./vit",
        "images",
        "--load",
        "classes=cat=2,dog=mat,mat=0",
        "--levels",
        2,
        "--keep-items",
        "--out",
        "r",
    )
    assert code == 0
    assert nz.ProbeResult.open("r").response.target.values.tolist() == [2] * 6 + [0] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hf:./gpt2",), "the data are missing: name them after the model, or by --data"),
        (("hf:./gpt2", "text.txt", "--data", "text.txt"), "the data are named twice"),
        (("hf:./gpt2", "text.txt", "--load", "blok=8"), "did you mean 'block'? the keys are auto_class"),
        (("hf:./gpt2", "text.txt", "--load", "block"), "--load takes KEY=VALUE"),
        (
            ("hf:./gpt2", "text.txt", "--load", "block=x"),
            "block must be a whole number, at least 2 or 'texts'; got 'x'",
        ),
        (("hf:./gpt2", "images"), "images holds images, and the model takes texts"),
        (("hf:./vit", "text.txt"), "text.txt holds texts, and the model takes images"),
        (("hf:./gpt3", "text.txt"), "there is no file or folder ./gpt3; did you mean './gpt2'?"),
        (("hf:./images", "text.txt"), "holds no model of transformers: there is no config.json"),
        (("hf:./gpt2", "timm:resnet18"), "timm: names models and no data"),
        (("hf:./gpt2", "txt.txt"), "unknown data set 'txt.txt'. Known: mnist,"),
        (("hf:./gpt2", "txt.txt"), "; did you mean 'text.txt'?"),
        (("hf:./vit", "imagess"), "; did you mean 'images'?"),
        (("org/name", "text.txt"), "got 'org/name'; did you mean hf:org/name?"),
        (("huggingface:org/name", "text.txt"), "; the prefixes of libraries are hf:, timm:, torchvision:"),
        (
            ("hf:./gpt2", "text.txt", "--load", "auto_class=AutoModelForMaskedLM"),
            "AutoModelForMaskedLM has no class for gpt2, a model of the type 'gpt2'; leave auto_class out, or choose",
        ),
        (
            ("hf:./gpt2", "text.txt", "--load", "untrained=maybe"),
            "untrained must be true or false; got 'maybe'",
        ),
        (
            ("hf:./gpt2", "text.txt", "--metric", "perplexty"),
            "did you mean 'perplexity'? known are accuracy,",
        ),
    ],
)
def test_wrong_words_are_one_line(folder, capsys, arguments, message) -> None:
    code, out, err = run(capsys, "probe", *arguments, "--out", "result")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("result").exists()


def test_other_weights_in_a_model_by_name(folder, capsys) -> None:
    gpt2(folder / "other", seed=1)
    command = ("probe", "hf:./gpt2", "text.txt", "--levels", 2, "--layer", "transformer.h.0.mlp.act", "--out")
    assert run(capsys, *command, "one", "--weights", "other/model.safetensors")[0] == 0
    assert run(capsys, "probe", "hf:./other", *command[2:], "two")[0] == 0
    one, two = nz.ProbeResult.open("one"), nz.ProbeResult.open("two")
    assert one.response.accuracy.equals(two.response.accuracy)
    assert one.origins["model"].name == "hf:./gpt2 with other/model.safetensors"
    assert one.origins["model"].files == two.origins["model"].files


@pytest.mark.parametrize("package", ["transformers", "datasets", "timm", "torchvision"])
def test_a_missing_library_is_one_line(folder, capsys, monkeypatch, package) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    model = {"timm": "timm:resnet18", "torchvision": "torchvision:resnet18"}.get(package, "hf:./gpt2")
    data = "hf:./images" if package == "datasets" else "text.txt"
    code, out, err = run(capsys, "probe", model, data)
    extra = {"transformers": "hf", "datasets": "hf"}.get(package, package)
    assert (code, out) == (2, "")
    assert f"pip install 'nearzero[{extra}]'" in err
    assert len(err.strip().splitlines()) == 1


def test_the_libraries_are_imported_when_they_are_needed() -> None:
    code = (
        "import sys, nearzero as nz, nearzero.probing, nearzero.torch_models.named\n"
        "libraries = 'transformers datasets timm torchvision huggingface_hub'.split()\n"
        "print([name for name in libraries if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_runs_by_name(folder, capsys) -> None:
    names = [f"hf:{gpt2(Path(f'run{seed}'), seed=seed, n_layer=1)}" for seed in range(2)]
    command = (
        "judge-runs",
        *names,
        "--data",
        "text.txt",
        "--layer",
        "transformer.h.0.mlp.act",
        "--load",
        "examples=8",
    )
    code, _, err = run(capsys, *command, "--out", "judged")
    assert code == 0, err
    rows = Path("judged/tables/runs.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == names
    found = nz.judge_runs(names, "text.txt", "transformer.h.0.mlp.act", loading=nz.Loading(examples=8))
    modules = [nz.open_model(name) for name in names]
    again = nz.judge_runs(
        modules,
        nz.open_data("text.txt", modules[0], nz.Loading(examples=8)).batches,
        "transformer.h.0.mlp.act",
    )
    assert found.costs.equals(again.costs)
    assert [nz.Origin.from_json(text).name for text in found.costs.origin.values.tolist()] == names
    code, _, err = run(capsys, *command[:2], "--data", "text.txt")
    assert code == 2
    assert "a verdict needs several runs" in err
