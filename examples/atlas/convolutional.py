"""Convolutional networks of the atlas, a plain one and a ResNet-8, and controls whose mechanism is built in."""

from __future__ import annotations

from collections import OrderedDict

from recipe import activation
from torch import Tensor, nn

from nearzero.mechanisms.trained import fixed_readout_network


def convolutions(case: str) -> OrderedDict[str, nn.Module]:
    """Return three convolutions, each with the activation, from images (N, 1, 28, 28) to features (N, 512)."""
    return OrderedDict(
        conv1=nn.Conv2d(1, 8, 3, stride=2, padding=1),
        act1=activation(case),
        conv2=nn.Conv2d(8, 16, 3, stride=2, padding=1),
        act2=activation(case),
        conv3=nn.Conv2d(16, 32, 3, stride=2, padding=1),
        act3=activation(case),
        flatten=nn.Flatten(),
    )


def convnet(case: str) -> nn.Module:
    """Return a network of three convolutions and a hidden layer, each with the activation, and a readout."""
    head = OrderedDict(hidden=nn.Linear(512, 64), act4=activation(case), readout=nn.Linear(64, 10))
    return nn.Sequential(convolutions(case) | head)


def control(case: str, seed: int) -> nn.Module:
    """Return the convolutional network with 8 hidden units for each class, and a readout that isn't trained.

    A case is "smallest wins, Abs on MNIST": the logit of a class is minus the sum of its units' activations. It is
    their sum if the largest wins. `docs/validation.md` says which of the two means distance, and why.
    """
    winner, _, case = case.partition(" wins, ")
    name = case.partition(" on ")[0].lower()
    sizes = {"inputs": 512, "units_per_class": 8, "classes": 10, "seed": seed}
    hidden, act, readout = fixed_readout_network(name, winner, **sizes)
    return nn.Sequential(convolutions(case) | OrderedDict(hidden=hidden, act4=act, readout=readout))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the activation follows the first, and the sum."""

    def __init__(self, case: str, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(inputs, channels, 1, stride) if stride > 1 else nn.Identity()
        self.inner, self.act = activation(case), activation(case)

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, channels, H / stride, W / stride)."""
        inner = self.inner(self.norm1(self.conv1(images)))
        return self.act(self.norm2(self.conv2(inner)) + self.shortcut(images))


def resnet8(case: str) -> nn.Module:
    """Return a ResNet-8: a convolution, three blocks of 8, 16 and 32 channels, and a readout."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            norm=nn.BatchNorm2d(8),
            act=activation(case),
            block1=ResidualBlock(case, 8, 8, 1),
            block2=ResidualBlock(case, 8, 16, 2),
            block3=ResidualBlock(case, 16, 32, 2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            readout=nn.Linear(32, 10),
        )
    )
