"""Unmodified models of other packages: a ResNet-18 of torchvision and a ConvNeXt of timm.

    python examples/published_models.py           # the figures: studies/published_models/*/layers.png
    python examples/published_models.py --quick   # the same on fewer and smaller images, in seconds

Weights and images are random, so there is nothing to download. The figures show the procedure; they aren't findings.
Labels aren't needed. Without them the metrics are the KL divergence of the unperturbed from the perturbed output, and
the agreement with the unperturbed predictions. A ReLU that a block uses twice gets two names, `layer1.0.relu@1` and
`layer1.0.relu@2`.

For trained models, pass `weights="DEFAULT"` to `resnet18` or `pretrained=True` to `create_model`, and prepare the
images as these weights need them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import timm
import torch
from torchvision.models import resnet18

import nearzero as nz


def main(argv: list[str] | None = None) -> dict[str, nz.ProbeResult]:
    """Probe both models, print summaries and save the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("studies/published_models"), help="a folder for the results"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller images, and fewer levels")
    options = parser.parse_args(argv)
    examples, side, levels = (4, 32, 4) if options.quick else (8, 64, 16)

    torch.manual_seed(0)
    images = torch.randn(examples, 3, side, side)
    models = {
        "resnet18": resnet18(),
        # By default a block's output is scaled by 1e-6, so no change in a block would be visible.
        "convnext": timm.create_model("convnext_atto", ls_init_value=1.0),
    }
    results = {}
    for name, model in models.items():
        result = nz.probe(model, images, levels=levels, metrics=["kl_divergence", "agreement"])
        print(result.headline)
        print(pd.DataFrame(result.summary()).to_string(index=False))
        print(f"saved in {result.save(options.out / name)}\n")
        results[name] = result
    return results


if __name__ == "__main__":
    main()
