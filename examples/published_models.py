"""Models of other packages, a ResNet-18 of torchvision and a ConvNeXt of timm, without their weights and without data.

    python examples/published_models.py --out studies/published_models

It shows the mechanics, and no finding: the weights are random and so are the images, so the figures say nothing about
trained networks. What can be seen is that models of other packages go through as they are (a ReLU
that is used twice in each block gets two names, `layer1.0.relu@1` and `layer1.0.relu@2`), and that labels aren't
needed: without them the metrics are the agreement with the unperturbed predictions, and the KL divergence of
the unperturbed from the perturbed output.

For real ones, give `pretrained=True` to `timm.create_model`, or `weights="DEFAULT"` to `torchvision.models.resnet18`,
and images prepared as these weights want them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
import torchvision

import nearzero as nz


def main(argv: list[str] | None = None) -> dict[str, nz.ProbeResult]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("studies/published_models"), help="for the results")
    parser.add_argument("--examples", type=int, default=16, help="random images")
    parser.add_argument("--side", type=int, default=64, help="of an image, in pixels")
    parser.add_argument("--levels", type=int, default=16, help="how many of each family's levels")
    options = parser.parse_args(argv)

    torch.manual_seed(0)
    images = torch.randn(options.examples, 3, options.side, options.side)
    models = {
        "resnet18": torchvision.models.resnet18(weights=None),
        # as it's made, a block's output is scaled by 1e-6, and nothing that is done in it could be seen
        "convnext": timm.create_model("convnext_atto", pretrained=False, ls_init_value=1.0),
    }
    results = {}
    for name, model in models.items():
        result = nz.probe(model, images, levels=options.levels)  # all activations
        results[name] = result
        print(f"{name}: {result.headline}")
        for row in result.summary():
            print("  " + ", ".join(f"{key} {value}" for key, value in row.items()))
        folder = result.save(options.out / name)
        result.plot("kl_divergence").savefig(folder / "kl_divergence.png", dpi=300)
        print(f"  saved in {folder}")
    return results


if __name__ == "__main__":
    main()
