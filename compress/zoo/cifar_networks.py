"""The papers' structures for 32 x 32 images, so narrow that a CPU can train them.

Model A of Wang et al., Factorized Convolutional Neural Networks (three stages, resolution halved and channels
doubled between them by pooling and a 1 x 1), and what it becomes with each of their layers; and Network in
Network with root modules as in Ioannou et al., Deep Roots. Convolutions are initialised as by He et al., each
is followed by BatchNorm. There is neither dropout nor the papers' hidden linear layer: short schedules don't
over-fit.

Layers a stage, and its complexity at full width against the plain one's: SIC 4, 2/9; half of it 2, 1/9; SIC
with topological projections 8, 1/9; spatial bottlenecks 8, 1/9; four filter groups 4, 1/2.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from torch import nn

from cnncompress.layers import RootModule2d, SICConv2d, TopologicalConv2d
from cnncompress.zoo.registry import network
from cnncompress.zoo.sic_networks import STAGES

INPUT_SIZE = (3, 32, 32)
CLASSES = 10
WIDTHS = (32, 64, 128)
KERNEL = 3
HEAD = 256
GRIDS: Mapping[int, tuple[int, int]] = MappingProxyType({32: (4, 8), 64: (8, 8), 128: (8, 16)})
"""Channel grid of topological subdivisioning by width; half of each side is connected."""

NIN_WIDTH = 0.25
NIN_FILTERS = ((192, 160, 96), (192, 192, 192), (192, 192))
NIN_KERNELS = (5, 5, 3)
NIN_POOLS = (None, nn.MaxPool2d, nn.AvgPool2d)
"""Before each spatial convolution."""

Layers = Callable[[int], Iterable[nn.Module]]
"""From a width to the layers of a stage."""


def staged(layers: Layers, classes: int = CLASSES, widths: Sequence[int] = WIDTHS) -> nn.Sequential:
    """Model A's frame: a stem at 32 x 32, stages at 16, 8 and 4, a 1 x 1, the mean, a linear layer.

    Args:
        layers: of a stage.
        classes: outputs.
        widths: channels of the stages.

    Returns:
        The network.
    """
    parts: list[nn.Module] = [*_conv(3, widths[0], 3), nn.MaxPool2d(2)]
    for before, width in zip((widths[0], *widths), widths, strict=False):
        if before != width:
            parts += [nn.MaxPool2d(2), *_conv(before, width, 1)]
        parts += layers(width)
    parts += [*_conv(widths[-1], HEAD, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(HEAD, classes)]
    return _initialised(nn.Sequential(*parts))


def network_in_network(
    groups: tuple[int, int], classes: int = CLASSES, width: float = NIN_WIDTH
) -> nn.Sequential:
    """Network in Network whose spatial convolutions are root modules (Deep Roots, tables 1 and 2).

    Args:
        groups: of the second and the third spatial convolution; the first, on colours, is never grouped.
        classes: outputs.
        width: of the paper's filters, of which there are 192, 160 and 96.

    Returns:
        The network; unlike the paper's, its class scores are not rectified.
    """
    parts: list[nn.Module] = []
    channels = 3
    stages = zip(NIN_FILTERS, NIN_KERNELS, NIN_POOLS, (1, *groups), strict=True)
    for filters, kernel, pool, count in stages:
        first, second, *third = (round(width * number) for number in filters)
        if pool is not None:
            parts.append(pool(3, 2, ceil_mode=True))
        parts += [
            RootModule2d(
                channels,
                second,
                kernel,
                padding=kernel // 2,
                groups=count,
                bias=False,
                hidden=first,
                norm=True,
                activation=True,
            ),
            *_normed(second),
        ]
        channels = second
        for number in third:
            parts += _conv(channels, number, 1)
            channels = number
    parts += [nn.Conv2d(channels, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return _initialised(nn.Sequential(*parts))


def _stage(kind: str, depth: int) -> Layers:
    return lambda width: STAGES[kind](width, depth, KERNEL)


def _sic_topological(width: int) -> Iterator[nn.Module]:
    rows, columns = GRIDS[width]
    for _ in range(8):
        projection = TopologicalConv2d((rows, columns), (rows // 2, columns // 2), 1, bias=False)
        yield SICConv2d(width, width, KERNEL, bias=False, norm=True, pointwise=projection)


def _conv(before: int, width: int, kernel: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=False)
    yield from _normed(width)


def _normed(width: int) -> Iterator[nn.Module]:
    yield nn.BatchNorm2d(width)
    yield nn.ReLU(inplace=True)


def _initialised(model: nn.Sequential) -> nn.Sequential:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | TopologicalConv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


_WANG = "Wang et al., Factorized Convolutional Neural Networks"
_STAGES: Mapping[str, tuple[Layers, str]] = MappingProxyType(
    {
        "cifar-plain": (_stage("standard", 2), "model A"),
        "cifar-sic": (_stage("sic", 4), "model D (C in the first version)"),
        "cifar-sic-half": (_stage("sic", 2), "model C"),
        "cifar-sic-tps": (_sic_topological, "model J (I in the first version)"),
        "cifar-spatial-bottleneck": (_stage("spatial-bottleneck", 8), "model K of the first version"),
        "cifar-groups": (_stage("grouped", 4), "model I (H in the first version)"),
    }
)
_NINS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"cifar-nin-orig": (1, 1), "cifar-nin-root-4": (4, 2), "cifar-nin-root-8": (8, 4)}
)
NAMES = (*_STAGES, *_NINS)

for _name, (_layers, _model) in _STAGES.items():
    network(_name, input_size=INPUT_SIZE, classes=CLASSES, reference=f"{_WANG}, {_model}, narrow")(
        partial(staged, _layers)
    )
for _name, _groups_of in _NINS.items():
    network(
        _name, input_size=INPUT_SIZE, classes=CLASSES, reference="Ioannou et al., Deep Roots, table 2, narrow"
    )(partial(network_in_network, _groups_of))
