"""Models of published packages, and modules of difficult kinds: each can be probed, or is refused with a sentence.

The outcomes are the table in docs/models.md; these tests compare it with what they see. To write the table again:

    NEARZERO_WRITE_MODELS=1 python -m pytest tests/probing/test_models.py

Weights are random, drawn so that all layers matter; nothing is downloaded. Rows of packages that aren't installed are
left out. For packages in another version than the table's only the outcome is compared.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz
from nearzero.torch_models.named.packages import imported

TABLE = Path(__file__).parents[2] / "docs" / "models.md"
WRITE = "NEARZERO_WRITE_MODELS" in os.environ
PACKAGES = ("torch", "torchvision", "timm", "transformers")
FEW = 12  # all layers of a model are probed up to this number; beyond it all activations, up to this number
MOST = 3  # layers that are probed, evenly spaced, in larger models
LEVELS = {"offset": [0.3], "scale": [0.6], "clip": [0.4]}
HEAD = """# Models that were tried

Each model was built with random weights and without anything from the net, and probed at some of its layers (at all, if
they are few) by its suffix, and again by full passes. *Works* means: both ways gave the same logits to the last bit,
at every level of every family; some perturbation changed them; and the model's parameters, buffers, training flags,
attributes and hooks, and all random states, were bitwise as before. *Refused* comes with the sentence that a user
reads.

*How* says by which way `method="auto"` had the logits: by the suffix alone, by a full pass at each level, or by the
engine for the paper's two-layer networks.

`tests/probing/test_models.py` writes this table and holds it against what it finds; its head says how. Versions:
"""
CASES: dict[str, Case] = {}
FOUND: dict[str, str] = {}  # rows of the table


@dataclass(frozen=True)
class Case:
    """Hold a function that builds a model, a batch for it, and settings of the probe."""

    name: str
    package: str
    build: Callable[[], Any]
    data: Callable[[], Any]
    how: dict[str, Any] = field(default_factory=dict)
    slow: bool = False


def case(name: str, package: str, data: Callable[[], Any], *, slow: bool = False, **how: Any):
    """Register a function that builds a model as a case."""

    def add(build):
        CASES[name] = Case(name, package, build, data, how, slow)
        return build

    return add


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torchvision():
    """Return the package, also if its compiled operators don't fit the installed PyTorch."""
    return imported("torchvision.models")


def images(count: int = 2, side: int = 32, channels: int = 3):
    return lambda: torch.randn(count, channels, side, side)


def pixel_values(side: int = 32):
    return lambda: [{"pixel_values": torch.randn(2, 3, side, side), "labels": torch.tensor([0, 1])}]


def rows(count: int = 7, width: int = 6):
    return lambda: torch.randn(count, width)


def text(labels: str = "", padding: int = 3, **more: Callable[[], Any]):
    """Return tokens as a tokenizer gives them, one text padded, with labels for each token or for each text."""

    def batch():
        tokens = torch.randint(3, 80, (3, 9))
        mask = torch.ones_like(tokens)
        mask[0, 9 - padding :] = 0
        made = {"input_ids": tokens.masked_fill(mask == 0, 0), "attention_mask": mask}
        if labels == "tokens":
            made["labels"] = tokens.masked_fill(mask == 0, -100)
        if labels == "texts":
            made["labels"] = torch.tensor([0, 1, 2])
        return [made | {name: each() for name, each in more.items()}]

    return batch


SLOW = ("densenet121", "googlenet", "inception_v3")

# --- torchvision ----------------------------------------------------------------------------------------------------

for name, how in {
    "resnet18": {},
    "mobilenet_v3_small": {},
    "densenet121": {},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    "shufflenet_v2_x0_5": {},
    "squeezenet1_1": {},
    "efficientnet_b0": {},
}.items():
    side = {"googlenet": 64, "inception_v3": 96}.get(name, 32)
    case(
        name,
        "torchvision",
        images(side=side),
        slow=name in SLOW,
    )(lambda name=name, how=how: getattr(torchvision(), name)(weights=None, **how))


@case("VisionTransformer (the class of vit_b_16)", "torchvision", images())
def _():
    return torchvision().VisionTransformer(32, 8, num_layers=3, num_heads=4, hidden_dim=32, mlp_dim=48)


@case("fcn_resnet50 (a dict, logits for each pixel)", "torchvision", images(2), slow=True)
def _():
    return torchvision().segmentation.fcn_resnet50(weights=None, weights_backbone=None, aux_loss=True)


@case("r3d_18 (video)", "torchvision", lambda: torch.randn(2, 3, 4, 16, 16), slow=True)
def _():
    return torchvision().video.r3d_18(weights=None)


@case("retinanet_resnet50_fpn (boxes)", "torchvision", images(2, 64))
def _():
    models = torchvision().detection
    return models.retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=64, max_size=64)


# --- timm -----------------------------------------------------------------------------------------------------------

for name, how in {
    "convnext_atto": {},
    "efficientnet_lite0": {},
    "regnetx_002": {},
    "mobilenetv4_conv_small_050": {},
    "swin_tiny_patch4_window7_224": {"img_size": 56, "depths": (1, 1, 1, 1)},
    "mixer_s32_224": {"img_size": 64},
    "deit_tiny_patch16_224": {"img_size": 32, "depth": 3},
    "vit_base_patch14_reg4_dinov2": {
        "img_size": 28,
        "depth": 2,
        "embed_dim": 48,
        "num_heads": 3,
        "num_classes": 5,
    },
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 3},
    "levit_128s": {"img_size": 32, "depth": (1, 1, 1)},
    "mambaout_femto": {},
    "xcit_nano_12_p16_224": {"img_size": 32, "depth": 2},
}.items():
    case(name, "timm", images(2, how.get("img_size", 32)))(
        lambda name=name, how=how: pytest.importorskip("timm").create_model(name, pretrained=False, **how)
    )


# --- transformers ---------------------------------------------------------------------------------------------------

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {
    **PLAIN,
    "vocab_size": 90,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
CONVOLVED = {
    **PLAIN,
    "vocab_size": 90,
    "conv_dim": (16, 16),
    "conv_stride": (8, 4),
    "conv_kernel": (10, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
BOTH = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 90,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
GPT2 = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "vocab_size": 90,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 90,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "feed_forward_proj": "gated-gelu",
}
CLIP = {
    "text_config": TEXT,
    "vision_config": {**PLAIN, "image_size": 32, "patch_size": 8},
    "projection_dim": 16,
}
with_images = text(pixel_values=lambda: torch.randn(3, 3, 32, 32))


def hugging_face(
    name: str, config: str, data: Callable[[], Any], settings: dict[str, Any], *, note: str = "", **how
):
    def build():
        transformers = pytest.importorskip("transformers")
        return getattr(transformers, name)(getattr(transformers, config)(**settings))

    case(f"{name}{note}", "transformers", data, **how)(build)


for name, config, data, settings in [
    ("BertForSequenceClassification", "BertConfig", text("texts"), {**TEXT, "num_labels": 3}),
    ("BertForMaskedLM", "BertConfig", text("tokens"), TEXT),
    ("BertForQuestionAnswering", "BertConfig", text(), TEXT),
    ("GPT2LMHeadModel", "GPT2Config", text("tokens"), GPT2),
    ("GPT2ForSequenceClassification", "GPT2Config", text("texts"), {**GPT2, "num_labels": 3}),
    ("T5ForConditionalGeneration", "T5Config", text("tokens"), T5),
    ("BartForConditionalGeneration", "BartConfig", text("tokens"), {**BOTH, "max_position_embeddings": 40}),
    ("LlamaForCausalLM", "LlamaConfig", text("tokens"), GROUPED),
    ("MistralForCausalLM", "MistralConfig", text("tokens"), GROUPED),
    ("Qwen2ForCausalLM", "Qwen2Config", text("tokens"), GROUPED),
    ("Gemma2ForCausalLM", "Gemma2Config", text("tokens"), {**GROUPED, "head_dim": 8}),
    ("GPTNeoXForCausalLM", "GPTNeoXConfig", text("tokens"), TEXT),
    (
        "MambaForCausalLM",
        "MambaConfig",
        text("tokens"),
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "vocab_size": 90,
            "state_size": 8,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    ("MixtralForCausalLM", "MixtralConfig", text("tokens"), {**GROUPED, "num_local_experts": 4}),
    (
        "RwkvForCausalLM",
        "RwkvConfig",
        text("tokens"),
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "vocab_size": 90,
            "attention_hidden_size": 32,
            "intermediate_size": 48,
            "rescale_every": 1,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        text("texts"),
        {
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "vocab_size": 90,
            "num_labels": 3,
        },
    ),
    ("DebertaV2ForSequenceClassification", "DebertaV2Config", text("texts"), {**TEXT, "num_labels": 3}),
    (
        "XLNetForSequenceClassification",
        "XLNetConfig",
        text("texts"),
        {
            "d_model": 32,
            "n_layer": 2,
            "n_head": 4,
            "d_inner": 48,
            "vocab_size": 90,
            "num_labels": 3,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
    (
        "ViTForImageClassification",
        "ViTConfig",
        pixel_values(),
        {
            **PLAIN,
            "image_size": 32,
            "patch_size": 8,
            "num_labels": 3,
        },
    ),
    (
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        lambda: [{"pixel_values": torch.randn(2, 3, 64, 64)}],
        {
            "depths": [1, 1, 1, 1],
            "hidden_sizes": [8, 16, 24, 32],
            "num_attention_heads": [1, 2, 4, 8],
            "decoder_hidden_size": 16,
            "num_labels": 3,
        },
    ),
    (
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        lambda: (torch.randn(3, 800), torch.tensor([0, 1, 2])),
        {**CONVOLVED, "num_labels": 3},
    ),
    (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        lambda: [{"input_features": torch.randn(3, 20, 100), "labels": torch.randint(3, 80, (3, 7))}],
        {**BOTH, "max_source_positions": 50, "max_target_positions": 40, "num_mel_bins": 20},
    ),
    ("CLIPModel", "CLIPConfig", with_images, CLIP),
]:
    hugging_face(name, config, data, settings)
hugging_face(
    "MixtralForCausalLM",
    "MixtralConfig",
    text("tokens", padding=0),
    {**GROUPED, "num_local_experts": 4},
    note=", texts of one length",
)
hugging_face(
    "OlmoeForCausalLM",
    "OlmoeConfig",
    text("tokens"),
    {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
)
hugging_face(
    "BertForSequenceClassification",
    "BertConfig",
    text("texts"),
    {**TEXT, "num_labels": 3, "return_dict": False},
    note=", a tuple (loss, logits)",
)


def cache():
    return pytest.importorskip("transformers").DynamicCache()


hugging_face(
    "GPT2LMHeadModel",
    "GPT2Config",
    text("tokens", past_key_values=cache),
    GPT2,
    note=", a cache in the batch",
)


@case("GPT2LMHeadModel in an AveragedModel", "transformers", text("tokens"))
def _():
    transformers = pytest.importorskip("transformers")
    return torch.optim.swa_utils.AveragedModel(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2)))


hugging_face(
    "CLIPModel",
    "CLIPConfig",
    with_images,
    CLIP,
    note=", output=lambda out: out.logits_per_image",
    output=lambda out: out.logits_per_image,
)


# --- modules of difficult kinds -------------------------------------------------------------------------------------


class FeaturesFirst(nn.Module):
    """A model that returns (features, logits), of different sizes."""

    def __init__(self):
        super().__init__()
        self.hidden, self.act, self.head = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        features = self.act(self.hidden(x))
        return features, self.head(features)


case("a tuple (features, logits)", "torch", rows())(FeaturesFirst)
case("a tuple (features, logits), output=1", "torch", rows(), output=1)(FeaturesFirst)


class Functional(nn.Module):
    """ReLU as a function."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))))


class Thrice(nn.Module):
    """One ReLU at three places."""

    def __init__(self, in_place=False):
        super().__init__()
        self.linear, self.act = nn.ModuleList(nn.Linear(6, 6) for _ in range(3)), nn.ReLU(inplace=in_place)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        for each in self.linear:
            x = self.act(each(x))
        return self.last(x)


class Recurrent(nn.Module):
    """An LSTM, and classes from its last state."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(20, 8), nn.LSTM(8, 8, num_layers=2, batch_first=True)
        self.hidden, self.act, self.last = nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.act(self.hidden(self.lstm(self.embed(x))[0][:, -1])))


def mlp(in_place=False):
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.ReLU(in_place),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(),
        nn.GELU(),
        nn.Linear(8, 3),
    )


case("a functional ReLU", "torch", rows())(Functional)
case("one ReLU used three times", "torch", rows())(Thrice)
case("one in-place ReLU used three times", "torch", rows())(lambda: Thrice(True))
case("an in-place ReLU", "torch", rows())(lambda: mlp(True))
case("an LSTM classifier", "torch", lambda: torch.randint(0, 20, (5, 6)))(Recurrent)
case("an LSTM classifier, at the LSTM", "torch", lambda: torch.randint(0, 20, (5, 6)), layers="lstm[0]")(
    Recurrent
)
case("TransformerEncoder", "torch", lambda: torch.randn(3, 5, 8))(
    lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
)
case("float16", "torch", rows())(lambda: mlp().half())
case("bfloat16", "torch", rows())(lambda: mlp().bfloat16())
case("float64", "torch", rows())(lambda: mlp().double())
case("torch.compile", "torch", rows())(lambda: torch.compile(mlp(), backend="eager"))
case("torch.fx.GraphModule", "torch", rows())(lambda: torch.fx.symbolic_trace(Functional()))
case("weight and spectral normalization", "torch", rows())(lambda: normalized(mlp()))
case("a part that is TorchScript", "torch", rows())(lambda: scripted_part(mlp()))
case("TorchScript", "torch", rows())(lambda: torch.jit.script(mlp()))
case("torch.export.ExportedProgram", "torch", rows())(
    lambda: torch.export.export(Functional().eval(), (torch.randn(4, 6),))
)
case("weights on the meta device", "torch", rows())(lambda: mlp().to("meta"))
case("lazy layers", "torch", rows())(lambda: nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3)))
case("a state dict", "torch", rows())(lambda: mlp().state_dict())
case("Linear, ReLU, Linear: a network of the paper's", "torch", rows(), metrics="agreement")(
    lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
)


def normalized(model):
    torch.nn.utils.parametrizations.weight_norm(model[0])
    torch.nn.utils.parametrizations.spectral_norm(model[2])
    return model


def scripted_part(model):
    model[2] = torch.jit.script(model[2])
    return model


# --- the tests ------------------------------------------------------------------------------------------------------


def enliven(model: Any) -> Any:
    """Give a model weights under which signals neither vanish nor explode; its own weights may be zeros."""
    if not isinstance(model, nn.Module):
        return model
    with torch.no_grad():
        for name, each in model.named_parameters():
            if each.device.type == "meta" or nn.parameter.is_lazy(each) or not each.is_floating_point():
                continue
            if each.ndim > 1:
                fan = each[0].numel() if "embed" not in name else 1
                each.normal_(0.0, (1.5 / fan) ** 0.5)
            elif not bool((each != 0).any()):
                each.normal_(0.0, 0.1)
    return model


def state(model: Any) -> Any:
    """Return everything that a probe must leave as it was."""
    if not isinstance(model, nn.Module):
        return None
    values = [
        (name, id(each), kept(each)) for name, each in (*model.named_parameters(), *model.named_buffers())
    ]
    modules = [
        (
            each.training,
            sorted(each.__dict__),
            [len(value) for name, value in each.__dict__.items() if "_hooks" in name],
        )
        for each in model.modules()
        if not isinstance(each, torch.jit.ScriptModule)
    ]
    generators = torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    return values, modules, generators, torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()


def kept(tensor: torch.Tensor) -> Bits:
    without = tensor.device.type == "meta" or torch.nn.parameter.is_lazy(tensor)
    return Bits(None if without else tensor.detach().clone().reshape(-1).view(torch.uint8))


@dataclass(eq=False)
class Bits:
    """Hold the values of a tensor, which are equal only if all bits are."""

    values: torch.Tensor | None

    def __eq__(self, other):
        if self.values is None or other.values is None:
            return self.values is other.values
        return torch.equal(self.values, other.values)


def logit(place: int) -> Callable[..., torch.Tensor]:
    return lambda logits, target: logits[:, place]


METRICS = {"first": logit(0), "last": logit(-1), "agreement": "agreement"}


def probed(model: Any, data: Any, known: Case) -> tuple[str, ...]:
    """Return as texts how many layers are found, how many are probed, how the logits are computed, and the outcome."""
    options = {name: value for name, value in known.how.items() if name in ("prepare", "output")}
    layers = nz.layers(model, data, **options)
    every = [layer.name for layer in layers]
    active = [layer.name for layer in layers if layer.kind in ("activation", "function")]
    spread = [every[len(every) * index // MOST] for index in range(MOST)]
    chosen = every if len(every) <= FEW else [*spread, *active] if len(active) <= FEW else spread
    how = {"layers": chosen, "metrics": METRICS, "levels": LEVELS, "keep_items": True, **known.how}
    try:
        results = [nz.probe(model, data, method=each, **how) for each in ("auto", "full")]
    except nz.InputError:  # a layer asked for by name; of the default ones it is left out
        if "layers" in known.how:
            raise
        how["layers"] = None
        results = [nz.probe(model, data, method=each, **how) for each in ("auto", "full")]
    left_out = [row.what for row in results[0].assumptions if row.value == "left out"]
    auto, full = (result.response for result in results)
    for name in full.attrs["metrics"]:
        mine, theirs = auto[f"{name}_items"].values, full[f"{name}_items"].values
        assert mine.tobytes() == theirs.tobytes(), name
        assert np.isfinite(theirs).any()
        assert auto[f"unperturbed_{name}"] == full[f"unperturbed_{name}"]
    first = full[full.attrs["metrics"][0]]
    assert (first != full[f"unperturbed_{first.name}"]).where(
        first.notnull()
    ).any() or first.name == "agreement"
    reasons = zip(auto.method.values, auto.reason.values, strict=True)
    ways = [f"{way} ({why})" if why else way for way, why in reasons]
    outcome = "works" if how["layers"] else f"works by default; layers left out: {len(left_out)}"
    return str(len(every)), str(len(full.layer)), ", ".join(dict.fromkeys(ways)), outcome


@pytest.fixture(autouse=True)
def _boxes(monkeypatch):
    """Non-maximum suppression in plain PyTorch, where torchvision's compiled operators aren't there."""
    if installed("torchvision") is None:
        return
    torchvision()
    from torchvision import extension

    if not extension._has_ops():
        monkeypatch.setattr(extension, "_has_ops", lambda: True)
        monkeypatch.setattr(
            "torchvision.ops.boxes.nms", lambda boxes, scores, iou: scores.argsort(descending=True)
        )


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if each.slow else name for name, each in CASES.items()],
)
def test_a_model_works_or_is_refused_with_a_sentence(name):
    known = CASES[name]
    if installed(known.package) is None:
        pytest.skip(f"{known.package} isn't installed")
    torch.manual_seed(0)
    model, data = enliven(known.build()), known.data()
    before = state(model)
    try:
        found = probed(model, data, known)
    except nz.InputError as error:
        found = ("", "", "", f"refused: {error}")
    assert state(model) == before
    FOUND[name] = row(known, found)
    assert "\n" not in FOUND[name]
    if not WRITE:
        assert (
            documented(name) == FOUND[name]
            if same_version(known.package)
            else documented(name)[-10:] == FOUND[name][-10:]
        )


def row(known: Case, found: tuple[str, ...]) -> str:
    return f"| {' | '.join((known.name, known.package, *(each.replace('|', '/') for each in found)))} |"


def table() -> list[str]:
    return TABLE.read_text().splitlines()


def documented(name: str) -> str:
    return next((line for line in table() if line.startswith(f"| {name} |")), f"docs/models.md has no {name}")


def same_version(package: str) -> bool:
    return f"{package} {installed(package)}".split("+")[0] in "\n".join(table())


def test_the_table_has_these_models_and_no_others():
    if WRITE:
        versions = ", ".join(f"{name} {installed(name)}".split("+")[0] for name in PACKAGES)
        head = [
            "| model | package | layers found | probed | how | outcome |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines = [f"{HEAD}{versions}.", "", *head, *(FOUND[name] for name in CASES)]
        TABLE.write_text("\n".join(lines) + "\n")
    listed = [line.split(" | ")[0].removeprefix("| ") for line in table() if line.startswith("| ")][2:]
    assert listed == list(CASES)
