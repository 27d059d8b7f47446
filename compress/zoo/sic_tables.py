"""What the networks of Wang et al. consist of, in both versions of the paper.

"Factorized Convolutional Neural Networks", https://arxiv.org/abs/1608.04337, and its first version, "Design
of Efficient Convolutional Layers using Single Intra-channel Convolution, Topological Subdivisioning and
Spatial Bottleneck Structure", whose letters differ. The layers of models N and O are in a supplement that
isn't public; their frame here reproduces the printed costs of both N and of the final version's O.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Pool:
    """A maximum over windows.

    Attributes:
        kernel: rows and columns.
        stride: of the windows.
        padding: on each side.
    """

    kernel: int
    stride: int
    padding: int = 0


@dataclass(frozen=True)
class Frame:
    """What the models around their stages have in common.

    Attributes:
        image: rows and columns of the input.
        padding: of the 7 x 7 convolution with stride 2 and 64 filters.
        widths: channels of the stages; a 1 x 1 convolution before a stage changes their number.
        pools: before each stage.
    """

    image: int
    padding: int
    widths: tuple[int, ...]
    pools: tuple[Pool, ...]


@dataclass(frozen=True)
class Design:
    """One model.

    Attributes:
        layers: kind of the stages' layers.
        depth: how many there are in each stage.
        kernel: rows and columns of their filters.
        frame: around the stages.
    """

    layers: str
    depth: tuple[int, ...]
    kernel: int
    frame: Frame


STEM = 64
"""Filters of the first convolution."""
HEAD = (1024, 2048)
"""Outputs of the last 1 x 1 convolution and of the hidden linear layer."""
DROPOUT = 0.2
BASES = 4
"""Filters a channel of the unravelled convolution."""
GROUPS = 4

TABLE_1 = Frame(221, 0, (128, 256, 512), (Pool(3, 3), Pool(2, 2), Pool(3, 3)))
AS_RESNET = Frame(224, 3, (64, 128, 256, 512), (Pool(3, 2, 1), Pool(2, 2), Pool(2, 2), Pool(2, 2)))

GRIDS: Mapping[tuple[str, int], tuple[tuple[int, ...], tuple[int, ...]]] = MappingProxyType(
    {
        ("2d", 128): ((8, 16), (4, 8)),
        ("2d", 256): ((16, 16), (8, 8)),
        ("2d", 512): ((16, 32), (8, 16)),
        ("3d", 128): ((4, 8, 4), (2, 5, 3)),
        ("3d", 256): ((8, 8, 4), (4, 5, 3)),
        ("3d", 512): ((8, 8, 8), (4, 5, 6)),
    }
)
"""Channel grid and neighbours of topological subdivisioning, table 4."""


def _design(layers: str, depth: int, kernel: int = 3) -> Design:
    return Design(layers, (depth,) * 3, kernel, TABLE_1)


def _as_resnet(*depth: int) -> Design:
    return Design("sic-bottleneck", depth, 3, AS_RESNET)


FINAL: Mapping[str, Design] = MappingProxyType(
    {
        "a": _design("standard", 2),
        "b": _design("unraveled", 2),
        "c": _design("sic", 2),
        "d": _design("sic", 4),
        "e": _design("sic", 6),
        "f": _design("sic", 4, kernel=5),
        "g": _design("topological-2d", 4),
        "h": _design("topological-3d", 4),
        "i": _design("grouped", 4),
        "j": _design("sic-topological", 8),
        "l": _design("sic-bottleneck", 8),
        "m": _design("sic-bottleneck", 12),
        "n": _as_resnet(20, 24, 24, 32),
        "o": _as_resnet(20, 32, 56, 56),
    }
)
"""Models of the final version by letter, tables 1 and 4 to 7; it has no model K."""

FIRST: Mapping[str, Design] = MappingProxyType(
    {
        "a": FINAL["a"],
        "b": FINAL["b"],
        "c": FINAL["d"],
        "d": FINAL["f"],
        "e": FINAL["e"],
        "f": FINAL["g"],
        "g": FINAL["h"],
        "h": FINAL["i"],
        "i": FINAL["j"],
        "j": _design("spatial-bottleneck-and-sic", 6),
        "k": _design("spatial-bottleneck", 8),
        "l": FINAL["l"],
        "m": FINAL["m"],
        "n": _as_resnet(24, 24, 24, 24),
        "o": _as_resnet(40, 40, 40, 40),
    }
)
"""Models of the first version by letter, its tables 1 and 3 to 7."""
