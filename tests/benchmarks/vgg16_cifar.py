"""VGG-16's convolutions over 32 x 32 images and one linear layer, as a factory for the command line.

``PYTHONPATH=tests/benchmarks cnncompress vgg16_cifar:build --checkpoint WEIGHTS …``
"""

import torchvision
from torch import Tensor, nn

from cnncompress.network import Network, Preprocess

CATEGORIES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class VGG16(nn.Module):
    """Class scores from the mean of the last feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.vgg16().features
        self.classifier = nn.Linear(512, len(CATEGORIES))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def build() -> Network:
    return Network(
        name="vgg16_cifar:build",
        model=VGG16().eval(),
        preprocess=Preprocess(resize=None, crop=(32, 32)),
        features="features",
        categories=CATEGORIES,
    )
