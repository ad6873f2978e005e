"""Models of timm and torchvision by name, and folders of images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from local_models import COMMIT, OLDER, cached, images, use_caches, vit
from PIL import Image
from safetensors.torch import save_file

import nearzero as nz
from nearzero.torch_models.named.packages import imported

NAMES = ["cat", "dog", "mat"]
SIDE = 64


def logit(logits, target):
    """Return the logit of the target, a metric whose items compare bit for bit."""
    return logits.gather(1, target[:, None])[:, 0]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    return use_caches(monkeypatch, tmp_path / "caches")


@pytest.fixture
def timm_folder(tmp_path) -> Path:
    """Return a folder as timm saves it for the hub, with classes that have names."""
    timm, hub = imported("timm"), imported("timm.models")
    torch.manual_seed(0)
    model = timm.create_model(
        "resnet10t", num_classes=3, pretrained_cfg_overlay={"input_size": (3, SIDE, SIDE)}
    )
    folder = tmp_path / "resnet"
    hub.save_for_hf(model, str(folder), model_config={"label_names": NAMES}, safe_serialization=True)
    return folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    return images(tmp_path / "images", NAMES, count=2, side=80)


def opened(folder: Path) -> tuple[list[Image.Image], torch.Tensor]:
    """Return the images of a folder in the order of their names, with the number of their subfolder."""
    paths = sorted(folder.glob("*/*.png"))
    names = sorted({path.parent.name for path in paths})
    return [Image.open(path).convert("RGB") for path in paths], torch.tensor(
        [names.index(path.parent.name) for path in paths]
    )


def first_relu(model: torch.nn.Module) -> tuple[str, torch.nn.Module]:
    return next((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.ReLU))


def check_by_hand(result: nz.ProbeResult, model, transform, folder: Path, level: float) -> None:
    """Compare the logits of a probe's only layer, scaled, with those of a loop over the library's own pipeline."""
    found, labels = opened(folder)
    batch = torch.stack([transform(image) for image in found])
    _, activation = first_relu(model)
    with torch.no_grad():
        plain = model(batch)
        activation.register_forward_pre_hook(lambda module, given: (given[0] * level,))
        perturbed = model(batch)
    assert result.response.unperturbed_logit_items.values.tolist() == logit(plain, labels).tolist()
    assert result.response.logit_items.values.ravel().tolist() == logit(perturbed, labels).tolist()


def probed(name: str, data: Path, layer: str, **options) -> nz.ProbeResult:
    settings = {"families": "scale", "levels": [2.0], "metrics": {"logit": logit}, "keep_items": True}
    return nz.probe(name, str(data), layer, **settings, **options)


def test_timm_equals_a_loop_by_hand_bit_for_bit(timm_folder, pictures, cache) -> None:
    timm, data = imported("timm"), imported("timm.data")
    model = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    name, _ = first_relu(model)
    result = probed(f"timm:{timm_folder}", pictures, name)
    transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
    assert transform(Image.new("RGB", (99, 80))).shape == (3, SIDE, SIDE)
    check_by_hand(result, model, transform, pictures, 2.0)
    expected = hashlib.sha256((timm_folder / "model.safetensors").read_bytes()).hexdigest()
    assert result.origins["model"].files == {"model.safetensors": expected}
    assert result.class_names == tuple(NAMES)


def test_untrained_models_are_those_that_their_library_makes(timm_folder, pictures, cache) -> None:
    """From PyTorch's generator, without any file of weights; the preprocessing stays that of the name."""
    timm, models = imported("timm"), imported("torchvision.models")
    folder = vit(timm_folder.parent / "vit", NAMES)
    transformers = imported("transformers")
    config = transformers.AutoConfig.from_pretrained(str(folder))
    makers = {
        f"timm:{timm_folder}": lambda: timm.create_model(f"local-dir:{timm_folder}"),
        "timm:resnet10t": lambda: timm.create_model("resnet10t"),
        "torchvision:squeezenet1_1": models.squeezenet1_1,
        f"hf:{folder}": lambda: transformers.ViTForImageClassification(config),
    }
    for name, maker in makers.items():
        torch.manual_seed(3)
        expected = maker()
        torch.manual_seed(3)
        model = nz.open_model(name, nz.Loading(untrained=True))
        assert not model.module.training
        assert not model.origin.files
        assert "new and random" in {row.what: row.value for row in model.rows}["weights"]
        for one, other in zip(expected.parameters(), model.module.parameters(), strict=True):
            assert torch.equal(one, other)
        assert model.preparation is not None
    for name, message in (
        ("timm:resnet10t@v1", "untrained weights have no revision"),
        ("torchvision:resnet18:./w.pth", "untrained=True has no effect here: ./w.pth holds weights"),
        ("torch.nn:Identity", "untrained=True has no effect here: torch.nn:Identity is built by a function"),
    ):
        with pytest.raises(nz.InputError, match=message):
            nz.open_model(name, nz.Loading(untrained=True))


def test_timm_from_the_cache_of_the_hub(timm_folder, pictures, cache) -> None:
    layer = "act1"
    expected = probed(f"timm:{timm_folder}", pictures, layer).response.logit_items
    cached(cache, "org/resnet", timm_folder)
    cached(cache, "org/resnet", timm_folder, commit=OLDER, ref="v1.0")
    for name, commit in (("org/resnet", COMMIT), ("org/resnet@v1.0", OLDER)):
        result = probed(f"timm:{name}", pictures, layer)
        assert result.response.logit_items.equals(expected)
        assert result.origins["model"].revision == commit
    with pytest.raises(nz.InputError, match=r"has no revision 'v1.1': did you mean 'v1.0'"):
        probed("timm:org/resnet@v1.1", pictures, layer)


@pytest.mark.parametrize("saved", ["model.safetensors", "pytorch_model.bin"])
def test_timm_by_the_name_of_weights(pictures, cache, tmp_path, saved) -> None:
    timm = imported("timm")
    torch.manual_seed(1)
    model = timm.create_model("resnet10t").eval()
    folder = tmp_path / "weights"
    folder.mkdir()
    save = save_file if saved.endswith("safetensors") else torch.save
    save(model.state_dict(), folder / saved)
    cached(cache, "timm/resnet10t.c3_in1k", folder)
    loading = nz.Loading(classes="order")
    for name in ("resnet10t", f"resnet10t.c3_in1k@{COMMIT}"):
        result = probed(f"timm:{name}", pictures, "act1", loading=loading)
        images_of, labels = opened(pictures)
        data = imported("timm.data")
        transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
        with torch.no_grad():
            plain = model(torch.stack([transform(image) for image in images_of]))
        assert result.response.unperturbed_logit_items.values.tolist() == logit(plain, labels).tolist()
        assert result.origins["model"].revision == COMMIT
        assert list(result.origins["model"].files) == [saved]
        assert len(result.class_names) == 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet10t.c3_in1", "timm has no model 'resnet10t.c3_in1': did you mean 'resnet10t.c3_in1k'?"),
        ("resnet10", "timm has no model 'resnet10': did you mean 'resnet10t'?"),
        ("resnet10t.c3_in1k", "the hub is switched off (HF_HUB_OFFLINE), and the cache has no model"),
        ("./resent", "there is no file or folder ./resent; did you mean './resnet'?"),
        ("./resnet@v1", "a folder has no revisions"),
    ],
)
def test_wrong_names_of_timm_get_one_line(timm_folder, pictures, cache, monkeypatch, name, message) -> None:
    monkeypatch.chdir(timm_folder.parent)
    with pytest.raises(nz.InputError) as caught:
        nz.probe(f"timm:{name}", str(pictures))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def torchvision_weights(cache: Path, seed: int) -> Path:
    """Save weights of a ResNet-18 as torchvision caches those that it downloads; return the file."""
    models = imported("torchvision.models")
    torch.manual_seed(seed)
    path = (
        cache.parent / "torch" / "hub" / "checkpoints" / Path(models.ResNet18_Weights.IMAGENET1K_V1.url).name
    )
    path.parent.mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), path)
    return path


def test_torchvision_equals_a_loop_by_hand_bit_for_bit(pictures, cache) -> None:
    path = torchvision_weights(cache, 0)
    models = imported("torchvision.models")
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    model = models.resnet18(weights=weights).eval()
    loading = nz.Loading(classes="order")
    for name in ("resnet18:IMAGENET1K_V1", "resnet18"):
        result = probed(f"torchvision:{name}", pictures, "relu", loading=loading)
        assert result.origins["model"].revision == "IMAGENET1K_V1"
        assert result.origins["model"].files == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        assert result.class_names[:2] == ("tench", "goldfish")
        rows = {row.what: row.value for row in result.assumptions}
        assert rows["weights of the cache"] == f"{path.name} isn't the published file"
    check_by_hand(result, model, weights.transforms(), pictures, 2.0)


def test_torchvision_with_weights_of_ones_own(pictures, cache, tmp_path) -> None:
    models = imported("torchvision.models")
    torch.manual_seed(2)
    model = models.resnet18().eval()
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    result = probed(
        f"torchvision:resnet18:{tmp_path / 'own.safetensors'}",
        pictures,
        "relu",
        loading=nz.Loading(classes="order"),
    )
    check_by_hand(result, model, models.ResNet18_Weights.DEFAULT.transforms(), pictures, 2.0)
    assert list(result.origins["model"].files) == ["own.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", "torchvision has no model 'resnet81': did you mean 'resnet18'?"),
        ("resnet18:IMAGENET1K_V2", "resnet18 has no weights 'IMAGENET1K_V2': did you mean 'IMAGENET1K_V1'?"),
        ("resnet18:./none.pth", "there is no file none.pth"),
    ],
)
def test_wrong_names_of_torchvision_get_one_line(
    pictures, cache, monkeypatch, tmp_path, name, message
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(nz.InputError) as caught:
        nz.probe(f"torchvision:{name}", str(pictures))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pickles_of_torchvision_are_refused(pictures, cache) -> None:
    path = torchvision_weights(cache, 0)
    torch.save({"model": Path("x")}, path)
    with pytest.raises(
        nz.InputError, match=r"the weights ResNet18_Weights.IMAGENET1K_V1 can't be loaded: UnpicklingError"
    ):
        nz.probe("torchvision:resnet18:IMAGENET1K_V1", str(pictures))


def test_weights_that_cannot_be_fetched_are_one_line(pictures, cache, monkeypatch) -> None:
    models = imported("torchvision.models")
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(weights.value, "url", "http://127.0.0.1:9/resnet18-f37072fd.pth")
    with pytest.raises(nz.InputError, match="can't be fetched, and aren't in the cache"):
        nz.probe("torchvision:resnet18", str(pictures))


def test_a_folder_of_images_for_transformers(cache, tmp_path) -> None:
    folder, data = vit(tmp_path / "vit", NAMES), images(tmp_path / "images", ["Mat", "cat"])
    transformers = imported("transformers")
    result = probed(f"hf:{folder}", data, "vit*act*")
    processor = transformers.AutoImageProcessor.from_pretrained(str(folder))
    model = transformers.AutoModelForImageClassification.from_pretrained(str(folder)).eval()
    found, _ = opened(data)
    labels = torch.tensor([2] * 3 + [0] * 3)
    with torch.no_grad():
        batch = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in found])
        plain = model(batch).logits
    assert result.response.unperturbed_logit_items.values.tolist() == logit(plain, labels).tolist()
    assert result.response.target.values.tolist() == labels.tolist()


def test_images_without_classes_have_no_targets(timm_folder, pictures, cache) -> None:
    result = nz.probe(f"timm:{timm_folder}", str(pictures / "cat"), "act1", levels=2)
    assert list(result.response.attrs["metrics"]) == ["agreement", "kl_divergence"]
    assert result.response.attrs["items"] == 2


def test_classes_that_the_model_does_not_have(timm_folder, cache, tmp_path) -> None:
    data = images(tmp_path / "others", ["cat", "dgo"])
    with pytest.raises(nz.InputError, match="which of the model's dgo is: did you mean 'dog'"):
        nz.probe(f"timm:{timm_folder}", str(data), "act1")
    result = nz.probe(
        f"timm:{timm_folder}",
        str(data),
        "act1",
        levels=2,
        keep_items=True,
        loading=nz.Loading(classes={"cat": 2, "dgo": "dog"}),
    )
    assert result.response.target.values.tolist() == [2, 2, 2, 1, 1, 1]


def test_a_damaged_image_is_named(timm_folder, pictures, cache) -> None:
    (pictures / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(nz.InputError, match=r"dog/1\.png can't be read as an image"):
        nz.probe(f"timm:{timm_folder}", str(pictures), "act1", levels=2)


@pytest.mark.parametrize(
    ("kind", "suffix"), [(np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif")]
)
def test_values_beyond_8_bits_are_refused(timm_folder, pictures, cache, kind, suffix) -> None:
    """PIL would make 255 of each of them."""
    path = pictures / "dog" / f"deep.{suffix}"
    Image.fromarray(np.full((20, 20), 60_000, kind)).save(path)
    with pytest.raises(nz.InputError, match=rf"dog/deep\.{suffix} has more than 8 bits for a colour"):
        nz.probe(f"timm:{timm_folder}", str(pictures), "act1", levels=2)


def test_channels_and_sizes_that_make_no_batch(cache, tmp_path) -> None:
    transformers = imported("transformers")
    data = images(tmp_path / "images", ["cat", "dog"])
    folder = vit(tmp_path / "vit", ["cat", "dog"])
    transformers.ViTImageProcessor(do_resize=False).save_pretrained(folder)
    with pytest.raises(nz.InputError, match=r"images of several sizes, \(3, 20, 20\) and \(3, 20, 21\)"):
        nz.probe(f"hf:{folder}", str(data), levels=2)
    config = transformers.ViTConfig.from_pretrained(folder, num_channels=2)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    with pytest.raises(nz.InputError, match="the model takes images of 2 channels"):
        nz.probe(f"hf:{folder}", str(data), levels=2)


def test_images_beside_folders_of_classes_are_refused(timm_folder, pictures, cache) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(pictures / "beside.png")
    with pytest.raises(nz.InputError, match="beside the folders of classes"):
        nz.probe(f"timm:{timm_folder}", str(pictures), "act1")


def test_a_model_without_preprocessing_asks_for_one(timm_folder, pictures, cache) -> None:
    module = imported("timm").create_model(f"local-dir:{timm_folder}", pretrained=True)
    with pytest.raises(nz.InputError, match=r"it isn't known how .* becomes the input of this model"):
        nz.probe(module, str(pictures), "act1")
    expected = probed(f"timm:{timm_folder}", pictures, "act1").response.logit_items
    given = nz.Loading(preprocess=f"timm:{timm_folder}")
    assert probed(module, pictures, "act1", loading=given).response.logit_items.equals(expected)
    data = imported("timm.data")
    transform = data.create_transform(**data.resolve_model_data_config(module), is_training=False)
    own = nz.Loading(preprocess=transform)
    assert probed(module, pictures, "act1", loading=own).response.logit_items.equals(expected)
