"""The two layers of MattNet that Denton et al. speed up (Exploiting Linear Structure, tables 2, 3 and 5)."""

from collections import OrderedDict

from torch import nn

from cnncompress.zoo.registry import network


@network(
    "mattnet-conv2",
    input_size=(3, 224, 224),
    classes=None,
    reference="Denton et al., Exploiting Linear Structure, tables 2, 3 and 5: the first two layers",
)
def mattnet(_classes: int) -> nn.Sequential:
    """MattNet up to its second convolution, in the order of the paper's table 2.

    The paper doesn't print strides. Its table 3 fits a first output of 110 x 110, so stride 2; the second
    layer's is taken for 1.

    Returns:
        The layers, for 224 x 224 images; the output is a map of 256 channels.
    """
    features = OrderedDict(
        conv1=nn.Conv2d(3, 96, 7, stride=2, padding=1),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm1=nn.LocalResponseNorm(5),
        conv2=nn.Conv2d(96, 256, 5),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(3, 2, ceil_mode=True),
        norm2=nn.LocalResponseNorm(5),
    )
    return nn.Sequential(OrderedDict(features=nn.Sequential(features)))
