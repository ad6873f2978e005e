"""Models and data as their libraries save them, small and random, in folders and in the layouts of the caches."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nearzero.torch_models.named.packages import imported

COMMIT, OLDER = "a" * 40, "b" * 40
TEXT = "The cat sat on the mat. The dog ran to the cat, and the cat ran away from the dog. " * 6


def tokenizer(**options: Any) -> Any:
    """Return a byte-level tokenizer with 300 tokens at most."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<end>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", **options)


def gpt2(folder: Path, seed: int = 0, **config: Any) -> Path:
    """Save a GPT-2 with its tokenizer, as `save_pretrained` does."""
    transformers = imported("transformers")
    torch.manual_seed(seed)
    sizes = {"n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
    made = tokenizer()
    settings = transformers.GPT2Config(
        **{"vocab_size": len(made), "eos_token_id": 0, "bos_token_id": 0, **sizes, **config}
    )
    transformers.GPT2LMHeadModel(settings).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def bert(
    folder: Path, names: list[str], head: str = "BertForSequenceClassification", **settings: Any
) -> Path:
    """Save a BERT with classes of some names, or another head, with its tokenizer."""
    transformers = imported("transformers")
    torch.manual_seed(0)
    made = tokenizer(pad_token="<pad>", model_max_length=16)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    labels = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }
    config = transformers.BertConfig(
        vocab_size=len(made), max_position_embeddings=32, pad_token_id=1, **sizes, **labels, **settings
    )
    getattr(transformers, head)(config).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def llama(
    folder: Path, head: str = "LlamaForSequenceClassification", made: Any = None, **config: Any
) -> Path:
    """Save a Llama with another head, with its tokenizer; large weights make its predictions differ."""
    transformers = imported("transformers")
    torch.manual_seed(0)
    made = made or tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    settings = {
        "eos_token_id": 0,
        "bos_token_id": 0,
        "pad_token_id": None,
        "initializer_range": 0.5,
        **config,
    }
    model = getattr(transformers, head)(transformers.LlamaConfig(vocab_size=len(made), **sizes, **settings))
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def vit(folder: Path, names: list[str]) -> Path:
    """Save a Vision Transformer with classes of some names, with its image processor."""
    transformers = imported("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    labels = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: number for number, name in enumerate(names)},
    }
    config = transformers.ViTConfig(image_size=16, patch_size=8, **sizes, **labels)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def images(folder: Path, names: list[str], count: int = 3, side: int = 20) -> Path:
    """Write images, some of them grey, in a subfolder for each class."""
    draw = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shape = (side, side + number, 3) if number else (side, side)
            Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(folder / name / f"{number}.png")
    return folder


def cached(
    cache: Path, name: str, folder: Path, *, commit: str = COMMIT, kind: str = "model", ref: str = "main"
) -> Path:
    """Put a folder into a cache as the hub's client does: blobs, snapshots of commits, and refs to them."""
    place = cache / f"{kind}s--{name.replace('/', '--')}"
    snapshot = place / "snapshots" / commit
    for file in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        target = snapshot / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        blob = place / "blobs" / f"{commit[:8]}{abs(hash(file.relative_to(folder)))}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        target.symlink_to(blob)
    if ref:
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / ref).write_text(commit)
    return snapshot


def use_caches(monkeypatch: pytest.MonkeyPatch, folder: Path, *, offline: bool = True) -> Path:
    """Let all libraries use empty caches below a folder, without a network; return that of the hub."""
    constants, config = imported("huggingface_hub.constants"), imported("datasets.config")
    cache = folder / "hub"
    cache.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", folder / "datasets")
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    return cache
