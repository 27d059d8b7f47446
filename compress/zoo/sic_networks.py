"""Networks of single intra-channel, topological and bottleneck layers (Wang et al., both versions).

BatchNorm follows each convolution and precedes the rectifier, so that only the linear layers have biases.
Names are ``sic-a`` to ``sic-o`` in the letters of the final version, ``sic004-a`` to ``sic004-o`` in those of
the first.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

from torch import nn

from cnncompress.layers import (
    SICBottleneck2d,
    SICConv2d,
    SpatialBottleneck2d,
    TopologicalConv2d,
    UnraveledConv2d,
)
from cnncompress.zoo.blocks import he_initialised
from cnncompress.zoo.registry import network
from cnncompress.zoo.resnet import Residual
from cnncompress.zoo.sic_tables import BASES, DROPOUT, FINAL, FIRST, GRIDS, GROUPS, HEAD, STEM, Design

Stage = Callable[[int, int, int], Iterable[nn.Module]]
"""From channels, number of layers and kernel size to the modules of a stage."""


def sic_network(design: Design, classes: int) -> nn.Sequential:
    """Build a model from its table.

    Args:
        design: one of the tables.
        classes: outputs.

    Returns:
        The network; the design's frame says for which images.
    """
    frame = design.frame
    features: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_normed(nn.Conv2d(3, STEM, 7, stride=2, padding=frame.padding, bias=False))
    )
    before = STEM
    for number, (width, pool, depth) in enumerate(
        zip(frame.widths, frame.pools, design.depth, strict=True), 2
    ):
        features[f"pool{number - 1}"] = nn.MaxPool2d(pool.kernel, pool.stride, pool.padding)
        if width != before:
            features[f"widen{number}"] = _normed(nn.Conv2d(before, width, 1, bias=False))
        features[f"stage{number}"] = nn.Sequential(*STAGES[design.layers](width, depth, design.kernel))
        before = width
    filters, hidden = HEAD
    features["widen"] = _normed(nn.Conv2d(before, filters, 1, bias=False))
    model = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(features),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            hidden=nn.Linear(filters, hidden),
            relu=nn.ReLU(inplace=True),
            dropout=nn.Dropout(DROPOUT),
            classifier=nn.Linear(hidden, classes),
        )
    )
    return _initialised(model)


def _standard(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    return (_residual(nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False)) for _ in range(depth))


def _grouped(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    return (
        _residual(nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=GROUPS, bias=False))
        for _ in range(depth)
    )


def _unraveled(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    return (
        _residual(UnraveledConv2d(width, width, kernel, padding="same", bias=False, bases=BASES))
        for _ in range(depth)
    )


def _topological(width: int, depth: int, kernel: int, *, grid: str) -> Iterable[nn.Module]:
    return (
        _residual(TopologicalConv2d(*GRIDS[grid, width], kernel, padding="same", bias=False))
        for _ in range(depth)
    )


def _sic(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    return (SICConv2d(width, width, kernel, bias=False, norm=True) for _ in range(depth))


def _sic_topological(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    for _ in range(depth):
        projection = TopologicalConv2d(*GRIDS["2d", width], 1, bias=False)
        yield SICConv2d(width, width, kernel, bias=False, norm=True, pointwise=projection)


def _sic_bottleneck(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    return (SICBottleneck2d(width, kernel, bias=False, norm=True) for _ in range(depth // 2))


def _spatial_bottleneck(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    # The paper's blocks are of 2 x 2; those of every second layer begin a pixel before the image.
    return (
        SpatialBottleneck2d(width, width, padding=number % 2, bias=False, norm=True)
        for number in range(depth)
    )


def _alternating(width: int, depth: int, kernel: int) -> Iterable[nn.Module]:
    for _ in range(depth // 3):
        yield from _sic(width, 1, kernel)
        yield from _spatial_bottleneck(width, 2, kernel)


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "standard": _standard,
        "grouped": _grouped,
        "unraveled": _unraveled,
        "topological-2d": partial(_topological, grid="2d"),
        "topological-3d": partial(_topological, grid="3d"),
        "sic": _sic,
        "sic-topological": _sic_topological,
        "sic-bottleneck": _sic_bottleneck,
        "spatial-bottleneck": _spatial_bottleneck,
        "spatial-bottleneck-and-sic": _alternating,
    }
)
"""Builders of a stage by `Design.layers`."""


def _normed(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True))


def _residual(
    convolution: nn.Conv2d | TopologicalConv2d | UnraveledConv2d,
) -> Residual:
    branch = nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))
    return Residual(nn.Identity(), branch, nn.Identity(), nn.ReLU())


def _initialised(model: nn.Sequential) -> nn.Sequential:
    for module in he_initialised(model).modules():
        if isinstance(module, TopologicalConv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return model


for _prefix, _designs, _version in (("sic", FINAL, "final"), ("sic004", FIRST, "first")):
    for _letter, _design in _designs.items():
        network(
            f"{_prefix}-{_letter}",
            input_size=(3, _design.frame.image, _design.frame.image),
            classes=1000,
            reference=f"Wang et al., Factorized CNNs, {_version} version, model {_letter.upper()}",
        )(partial(sic_network, _design))
