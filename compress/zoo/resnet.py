"""Residual networks with filter groups (Ioannou et al., Deep Roots, tables 3 to 5).

ResNet-50 is He et al.'s first design, Deep Residual Learning: the stride is in the first 1 x 1 of a block,
not in its 3 x 3 as in torchvision's. ResNet-200 is their second, Identity Mappings in Deep Residual Networks,
as the code that Deep Roots trained it with has it: BatchNorm and the rectifier come before each convolution,
and the stride is in the 3 x 3. Only the 3 x 3 is grouped; the 1 x 1 behind it closes the root module.
"""

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn

from cnncompress.zoo.blocks import grouped_conv, he_initialised
from cnncompress.zoo.registry import network
from cnncompress.zoo.schedule import schedule

BLOCKS = {50: (3, 4, 6, 3), 200: (3, 24, 36, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
DEGREES = {50: (2, 4, 8, 16, 32, 64), 200: (8, 32)}
IDENTITY_MAPPINGS = 200  # this depth has BatchNorm and the rectifier first


class Residual(nn.Module):
    """What a branch makes of the input is added to a shortcut of the input.

    Args:
        before: applied to the input before it is divided.
        branch: three convolutions.
        shortcut: a 1 x 1 where the shape changes.
        after: applied to the sum.
    """

    def __init__(self, before: nn.Module, branch: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.branch, self.shortcut, self.after = before, branch, shortcut, after

    def forward(self, features: Tensor) -> Tensor:
        """Add both.

        Args:
            features: shape (images, channels, rows, columns).

        Returns:
            Shape (images, 4 * width, rows, columns), both smaller by the stride.
        """
        features = self.before(features)
        added: Tensor = self.after(self.branch(features) + self.shortcut(features))
        return added


def resnet(depth: int, groups: tuple[int, ...], classes: int) -> nn.Sequential:
    """A residual network of bottleneck blocks.

    Args:
        depth: 50 or 200.
        groups: of the 3 x 3 convolutions at each of the four resolutions.
        classes: outputs.

    Returns:
        The network, for 224 x 224 images.

    Raises:
        OptionError: the groups don't divide the channels.
    """  # noqa: DOC502  # raised by grouped_conv
    preactivated = depth == IDENTITY_MAPPINGS
    block = _preactivated_block if preactivated else _block
    features: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, WIDTHS[0], 7, stride=2, padding=3, bias=False),
        norm1=nn.BatchNorm2d(WIDTHS[0]),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, 2, padding=1),
    )
    before = WIDTHS[0]
    for stage, (count, width, degree) in enumerate(zip(BLOCKS[depth], WIDTHS, groups, strict=True), 2):
        for position in range(1, count + 1):
            stride = 2 if stage > 2 and position == 1 else 1
            features[f"res{stage}_{position}"] = block(before, width, stride, degree)
            before = EXPANSION * width
    if preactivated:
        features["norm6"] = nn.BatchNorm2d(before)
        features["relu6"] = nn.ReLU(inplace=True)
    head = OrderedDict(
        features=nn.Sequential(features),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(before, classes),
    )
    return he_initialised(nn.Sequential(head))


def _block(before: int, width: int, stride: int, groups: int) -> Residual:
    first, spatial, last = _convolutions(before, width, (stride, 1), groups)
    branch: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=first,
        norm1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(inplace=True),
        conv2=spatial,
        norm2=nn.BatchNorm2d(width),
        relu2=nn.ReLU(inplace=True),
        conv3=last,
        norm3=nn.BatchNorm2d(EXPANSION * width),
    )
    shortcut: nn.Module = nn.Identity()
    if before != EXPANSION * width:
        projection = OrderedDict(
            conv=_projection(before, width, stride), norm=nn.BatchNorm2d(EXPANSION * width)
        )
        shortcut = nn.Sequential(projection)
    return Residual(nn.Identity(), nn.Sequential(branch), shortcut, nn.ReLU(inplace=True))


def _preactivated_block(before: int, width: int, stride: int, groups: int) -> Residual:
    first, spatial, last = _convolutions(before, width, (1, stride), groups)
    activation = OrderedDict(norm1=nn.BatchNorm2d(before), relu1=nn.ReLU(inplace=True))
    branch: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=first,
        norm2=nn.BatchNorm2d(width),
        relu2=nn.ReLU(inplace=True),
        conv2=spatial,
        norm3=nn.BatchNorm2d(width),
        relu3=nn.ReLU(inplace=True),
        conv3=last,
    )
    if before != EXPANSION * width:  # a projection reads the activated input, an identity the bare one
        shortcut = _projection(before, width, stride)
        return Residual(nn.Sequential(activation), nn.Sequential(branch), shortcut, nn.Identity())
    return Residual(nn.Identity(), nn.Sequential(activation | branch), nn.Identity(), nn.Identity())


def _convolutions(before: int, width: int, strides: tuple[int, int], groups: int) -> tuple[nn.Conv2d, ...]:
    return (
        nn.Conv2d(before, width, 1, strides[0], bias=False),
        grouped_conv(
            f"3 x 3 of width {width}", width, width, 3, stride=strides[1], groups=groups, bias=False
        ),
        nn.Conv2d(width, EXPANSION * width, 1, bias=False),
    )


def _projection(before: int, width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, EXPANSION * width, 1, stride, bias=False)


def _register(depth: int, name: str, n: int) -> None:
    table = "table 4" if depth == 50 else "table 5"
    describe = network(
        f"resnet{depth}-{name}",
        input_size=(3, 224, 224),
        classes=1000,
        reference=f"Ioannou et al., Deep Roots, {table}",
    )
    describe(partial(resnet, depth, schedule("root", n, stages=len(WIDTHS))))


for _depth, _degrees in DEGREES.items():
    _register(_depth, "orig", 1)
    for _degree in _degrees:
        _register(_depth, f"root-{_degree}", _degree)
