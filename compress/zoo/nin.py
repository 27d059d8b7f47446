"""Network in Network for CIFAR-10 with filter groups (Ioannou et al., Deep Roots, tables 1, 2 and 8).

Three spatial convolutions, each followed by two 1 x 1; the first 1 x 1 closes the root module. BatchNorm and
a rectifier follow each convolution but the last, whose outputs are the class scores. No dropout.
"""

from collections import OrderedDict
from functools import partial

from torch import nn

from cnncompress.zoo.blocks import grouped_conv, he_initialised
from cnncompress.zoo.registry import network
from cnncompress.zoo.schedule import schedule

KERNELS = (5, 5, 3)
FILTERS = ((192, 160, 96), (192, 192, 192), (192, 192))
"""Of each stage's spatial convolution and 1 x 1s; the last 1 x 1 has a filter for each class."""

VARIANTS = {"root": "root", "column": "col", "tree": "tree"}
DEGREES = (2, 4, 8, 16)


def nin(groups: tuple[int, int], classes: int) -> nn.Sequential:
    """Network in Network.

    Args:
        groups: of the second and the third spatial convolution; the first, on colours, is never grouped.
        classes: outputs.

    Returns:
        The network, for 32 x 32 images.

    Raises:
        OptionError: the groups don't divide 192.
    """  # noqa: DOC502  # raised by grouped_conv
    features: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    pools: tuple[nn.Module, ...] = (
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, ceil_mode=True),
    )
    for stage, (kernel, filters, degree) in enumerate(zip(KERNELS, FILTERS, (1, *groups), strict=True), 1):
        if stage > 1:
            features[f"pool{stage - 1}"] = pools[stage - 2]
        for letter, width in zip("abc", filters, strict=False):
            name = f"{stage}{letter}"
            spatial = letter == "a"
            features[f"conv{name}"] = grouped_conv(
                f"conv{name}", before, width, kernel if spatial else 1, groups=degree if spatial else 1
            )
            features[f"norm{name}"] = nn.BatchNorm2d(width)
            features[f"relu{name}"] = nn.ReLU(inplace=True)
            before = width
    head = OrderedDict(
        features=nn.Sequential(features),
        conv3c=nn.Conv2d(before, classes, 1),
        pool3=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
    )
    return he_initialised(nn.Sequential(head))


def _register(name: str, groups: tuple[int, int], table: str) -> None:
    describe = network(
        name, input_size=(3, 32, 32), classes=10, reference=f"Ioannou et al., Deep Roots, {table}"
    )
    describe(partial(nin, groups))


_register("nin-orig", (1, 1), "table 2")
for _kind, _prefix in VARIANTS.items():
    for _degree in DEGREES:
        _table = "table 2" if _kind == "root" else "table 8"
        _second, _third = schedule(_kind, _degree, stages=2)
        _register(f"nin-{_prefix}-{_degree}", (_second, _third), _table)
