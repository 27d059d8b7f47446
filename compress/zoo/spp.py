"""SPP-10: seven convolutions, a spatial pyramid and three linear layers.

Zhang et al., Accelerating Very Deep Convolutional Networks, table 1.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from cnncompress.zoo.registry import network

LEVELS = (6, 3, 2, 1)
WIDTH = 512
HIDDEN = 4096


class SpatialPyramidPooling(nn.Module):
    """Largest values within the cells of several grids laid over the whole map (He et al. 2014).

    Args:
        levels: cells along each side of each grid.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)

    def forward(self, features: Tensor) -> Tensor:
        """Pool a map of any size to a vector.

        Args:
            features: shape (images, channels, rows, columns).

        Returns:
            Shape (images, channels * cells of all grids), grid by grid.
        """
        return torch.cat([nnf.adaptive_max_pool2d(features, side).flatten(1) for side in self.levels], dim=1)

    def extra_repr(self) -> str:
        """The constructor's arguments, for printing.

        Returns:
            As they would be written in code.
        """
        return f"levels={self.levels}"


@network(
    "spp-10",
    input_size=(3, 224, 224),
    classes=1000,
    reference="Zhang et al., Accelerating Very Deep Convolutional Networks, table 1",
)
def spp10(classes: int) -> nn.Sequential:
    """SPP-10, initialised as torch does.

    The convolution on the pooled 37 x 37 map is padded by one pixel: its output is 35 x 35 in the table.

    Args:
        classes: outputs.

    Returns:
        The network, for 224 x 224 images.
    """
    features: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 96, 7, stride=2),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, 3, ceil_mode=True),
        conv2=nn.Conv2d(96, 256, 5, padding=1),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(2, 2, ceil_mode=True),
    )
    before = 256
    for position in range(3, 8):
        features[f"conv{position}"] = nn.Conv2d(before, WIDTH, 3, padding=1)
        features[f"relu{position}"] = nn.ReLU(inplace=True)
        before = WIDTH
    head = OrderedDict(
        features=nn.Sequential(features),
        pool=SpatialPyramidPooling(LEVELS),
        fc6=nn.Linear(WIDTH * sum(side**2 for side in LEVELS), HIDDEN),
        relu6=nn.ReLU(inplace=True),
        dropout6=nn.Dropout(),
        fc7=nn.Linear(HIDDEN, HIDDEN),
        relu7=nn.ReLU(inplace=True),
        dropout7=nn.Dropout(),
        fc8=nn.Linear(HIDDEN, classes),
    )
    return nn.Sequential(head)
