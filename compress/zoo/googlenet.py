"""GoogLeNet with filter groups (Szegedy et al., Going Deeper with Convolutions; Deep Roots, tables 6 and 7).

The costs that Deep Roots prints are those of the network as it is trained, with both auxiliary heads, and of
maps of 28, 15 and 8 pixels: the pools before the fourth and the fifth group of inception modules are padded
and round up. So the final 7 x 7 pool leaves 2 x 2 positions. BatchNorm has neither scale nor shift.
"""

from collections import OrderedDict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnncompress.zoo.blocks import grouped_conv, he_initialised
from cnncompress.zoo.registry import network
from cnncompress.zoo.schedule import schedule

DEGREES = (2, 4, 8, 16)
STAGES = 4
"""Resolutions with grouped convolutions: the second convolution, then three groups of inception modules."""

MODULES = (
    # 1 x 1; before 3 x 3, 3 x 3; before 5 x 5, 5 x 5; behind the pool
    ("3a", (64, 96, 128, 16, 32, 32)),
    ("3b", (128, 128, 192, 32, 96, 64)),
    ("4a", (192, 96, 208, 16, 48, 64)),
    ("4b", (160, 112, 224, 24, 64, 64)),
    ("4c", (128, 128, 256, 24, 64, 64)),
    ("4d", (112, 144, 288, 32, 64, 64)),
    ("4e", (256, 160, 320, 32, 128, 128)),
    ("5a", (256, 160, 320, 32, 128, 128)),
    ("5b", (384, 192, 384, 48, 128, 128)),
)
POOLED = ("3b", "4e")
AUXILIARY = ("4a", "4d")
FINAL_POSITIONS = 2 * 2


class Outputs(NamedTuple):
    """What GoogLeNet returns while it is trained; the auxiliary heads' losses count 0.3 each in the paper.

    Attributes:
        logits: class scores, shape (images, classes).
        auxiliary1: those of the head behind inception 4a, of the same shape.
        auxiliary2: those of the head behind inception 4d, of the same shape.
    """

    logits: Tensor
    auxiliary1: Tensor
    auxiliary2: Tensor


class Inception(nn.Module):
    """Four branches side by side.

    Args:
        branches: keep the resolution; their channels are concatenated.
    """

    def __init__(self, branches: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(branches)

    def forward(self, features: Tensor) -> Tensor:
        """Run all branches.

        Args:
            features: shape (images, channels, rows, columns).

        Returns:
            All branches' channels, of the same rows and columns.
        """
        return torch.cat([branch(features) for branch in self.branches.values()], dim=1)


class GoogLeNet(nn.Module):
    """Features, a head, and auxiliary heads that run only in training mode.

    Args:
        features: by name, run one after the other.
        auxiliary: heads by the name of the feature module that they read.
        head: reads the last features.
    """

    def __init__(
        self, features: OrderedDict[str, nn.Module], auxiliary: OrderedDict[str, nn.Module], head: nn.Module
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(features)
        self.auxiliary = nn.ModuleDict(auxiliary)
        self.head = head

    def forward(self, images: Tensor) -> Tensor | Outputs:
        """Classify images.

        Args:
            images: shape (images, 3, 224, 224).

        Returns:
            Class scores, shape (images, classes); in training mode those of the auxiliary heads too.
        """
        if not self.training:
            logits: Tensor = self.head(self.features(images))
            return logits
        features, scores = images, []
        for name, module in self.features.named_children():
            features = module(features)
            if name in self.auxiliary:
                scores.append(self.auxiliary[name](features))
        return Outputs(self.head(features), *scores)


def googlenet(groups: tuple[int, int, int, int], classes: int) -> GoogLeNet:
    """GoogLeNet with auxiliary heads.

    Args:
        groups: of the second convolution and of the 3 x 3 and 5 x 5 convolutions in inception 3, 4 and 5.
        classes: outputs.

    Returns:
        The network, for 224 x 224 images.

    Raises:
        OptionError: the groups don't divide the channels.
    """  # noqa: DOC502  # raised by grouped_conv
    features: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_conv("conv1", 3, 64, 7, stride=2),
        pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
        conv2_reduce=_conv("conv2_reduce", 64, 64, 1),
        conv2=_conv("conv2", 64, 192, 3, groups=groups[0]),
        pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
    )
    auxiliary: OrderedDict[str, nn.Module] = OrderedDict()
    before = 192
    for name, filters in MODULES:
        features[f"inception{name}"] = _inception(name, before, filters, groups[int(name[0]) - 2])
        before = filters[0] + filters[2] + filters[4] + filters[5]
        if name in POOLED:
            features[f"pool{name[0]}"] = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)
        if name in AUXILIARY:
            auxiliary[f"inception{name}"] = _auxiliary(before, classes)
    head = OrderedDict(
        pool=nn.AvgPool2d(7, 1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(0.4),
        fc=nn.Linear(before * FINAL_POSITIONS, classes),
    )
    return he_initialised(GoogLeNet(features, auxiliary, nn.Sequential(head)))


def _inception(name: str, before: int, filters: tuple[int, ...], groups: int) -> Inception:
    single, reduce3, spatial3, reduce5, spatial5, projected = filters
    return Inception(
        OrderedDict(
            conv1x1=_conv(f"{name} 1 x 1", before, single, 1),
            conv3x3=nn.Sequential(
                OrderedDict(
                    reduce=_conv(f"{name} before 3 x 3", before, reduce3, 1),
                    spatial=_conv(f"{name} 3 x 3", reduce3, spatial3, 3, groups=groups),
                )
            ),
            conv5x5=nn.Sequential(
                OrderedDict(
                    reduce=_conv(f"{name} before 5 x 5", before, reduce5, 1),
                    spatial=_conv(f"{name} 5 x 5", reduce5, spatial5, 5, groups=groups),
                )
            ),
            pooled=nn.Sequential(
                OrderedDict(
                    pool=nn.MaxPool2d(3, 1, padding=1),
                    project=_conv(f"{name} behind the pool", before, projected, 1),
                )
            ),
        )
    )


def _auxiliary(before: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            pool=nn.AvgPool2d(5, 3, ceil_mode=True),
            conv=_conv("auxiliary 1 x 1", before, 128, 1),
            flatten=nn.Flatten(),
            fc1=nn.Linear(128 * 5 * 5, 1024),
            relu=nn.ReLU(inplace=True),
            dropout=nn.Dropout(0.7),
            fc2=nn.Linear(1024, classes),
        )
    )


def _conv(
    name: str, before: int, filters: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=grouped_conv(name, before, filters, kernel, stride=stride, groups=groups),
            norm=nn.BatchNorm2d(filters, affine=False),
            relu=nn.ReLU(inplace=True),
        )
    )


def _register(name: str, n: int) -> None:
    describe = network(
        f"googlenet-{name}",
        input_size=(3, 224, 224),
        classes=1000,
        reference="Ioannou et al., Deep Roots, table 6 (which counts the auxiliary heads too)",
    )
    conv2, third, fourth, fifth = schedule("root", n, STAGES)
    describe(partial(googlenet, (conv2, third, fourth, fifth)))


_register("orig", 1)
for _degree in DEGREES:
    _register(f"root-{_degree}", _degree)
