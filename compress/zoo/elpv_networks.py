"""The demo's networks: an ImageNet convolution stack, pooled, and a linear head for solar cells.

The heads in ``elpv_heads.safetensors`` were trained by `cnncompress.zoo.train_elpv_heads` on the training
part of a dataset licensed CC BY-NC-SA 4.0, so they aren't for commercial use either.
"""

import json
from importlib import resources
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cnncompress.backbones import ARCHIVE, Backbone, backbone_weights, build_backbone
from cnncompress.errors import ModelError, unknown_name
from cnncompress.events import Reporter
from cnncompress.family import Family
from cnncompress.network import Network, Preprocess
from cnncompress.zoo.elpv import CATEGORIES, LICENCE

BACKBONE_OF = {"vgg16-elpv": "vgg16", "alexnet-elpv": "alexnet"}
HEADS = "elpv_heads.safetensors"

# The whole cell is resized to the network's size: defects reach to the edges.
PREPROCESS = Preprocess(resize=224, crop=(224, 224))
_EPSILON = 1e-6  # keeps the gradient of a constant channel's deviation finite


class MeanAndDeviation(nn.Module):
    """Pools every channel to its mean and its standard deviation over all positions."""

    def forward(self, features: Tensor) -> Tensor:
        """Pool feature maps.

        Args:
            features: shape (images, channels, rows, columns).

        Returns:
            Shape (images, 2 * channels): all means, then all deviations.
        """
        flat = features.flatten(2)
        deviation = torch.sqrt(flat.var(2, correction=0) + _EPSILON)
        return torch.cat([flat.mean(2), deviation], dim=1)


class ElpvNet(nn.Module):
    """Convolution stack, pooling and one linear layer."""

    def __init__(self, backbone: Backbone, channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = backbone.features
        self.pool = MeanAndDeviation()
        self.classifier = nn.Linear(2 * channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: shape (images, 3, 224, 224), normalised.

        Returns:
            Logits, shape (images, classes).
        """
        logits: Tensor = self.classifier(self.pool(self.features(images)))
        return logits


def names() -> list[str]:
    """The demo's networks.

    Returns:
        Names for `build`.
    """
    return list(BACKBONE_OF)


def build(name: str, num_classes: int | None) -> ElpvNet:
    """A network with random weights.

    Args:
        name: one of `names`.
        num_classes: outputs; None for functional and defective.

    Returns:
        The network.

    Raises:
        ModelError: there is no such network.
    """
    if name not in BACKBONE_OF:
        raise ModelError(unknown_name("model", name, BACKBONE_OF))
    backbone = build_backbone(BACKBONE_OF[name])
    channels = [layer.out_channels for layer in backbone.modules() if isinstance(layer, nn.Conv2d)][-1]
    return ElpvNet(backbone, channels, len(CATEGORIES) if num_classes is None else num_classes)


def preprocess(name: str) -> Preprocess:
    """How the demo's images are prepared.

    Args:
        name: one of `names`; all are fed alike.

    Returns:
        The preprocessing.
    """
    return PREPROCESS


def pretrained(name: str, weights: str, report: Reporter) -> Network:
    """Load a network with its trained head.

    Args:
        name: one of `names`.
        weights: only ``"default"``.
        report: receives the progress of the download.

    Returns:
        The network.

    Raises:
        ModelError: other weights were asked for.
        DownloadError: the convolutions can't be fetched.
    """  # noqa: DOC502  # raised by backbone_weights
    if weights != "default":
        raise ModelError(unknown_name(f"weights of {name}", weights, ("default", "none")))
    model = build(name, None)
    model.load_state_dict({**backbone_weights(BACKBONE_OF[name], report=report), **head(name)})
    return Network(
        name=name,
        model=model,
        preprocess=PREPROCESS,
        features="features",
        categories=CATEGORIES,
        source={"kind": FAMILY.kind, "name": name, "num_classes": None},
        weights=f"ImageNet convolutions from {ARCHIVE} of the package index, head trained on elpv-dataset",
        notes=(f"images and head: {LICENCE}",),
    )


def head(name: str) -> dict[str, Tensor]:
    """The shipped head of a network.

    Args:
        name: one of `names`.

    Returns:
        ``classifier.weight``, shape (2, features), and ``classifier.bias``, shape (2,).
    """
    shipped = safetensors.torch.load(resources.files("cnncompress.zoo").joinpath(HEADS).read_bytes())
    return {
        key.removeprefix(f"{name}."): value for key, value in shipped.items() if key.startswith(f"{name}.")
    }


def head_metadata() -> dict[str, Any]:
    """What is known about the shipped heads: data, licence, seed, accuracies, versions.

    Returns:
        Names to text, and for each network a dictionary of its figures; accuracies as fractions.
    """
    with (
        resources.as_file(resources.files("cnncompress.zoo").joinpath(HEADS)) as file,
        safetensors.safe_open(file, framework="pt") as opened,
    ):
        return cast("dict[str, Any]", json.loads(opened.metadata()["about"]))


FAMILY = Family(kind="zoo", names=names, build=build, pretrained=pretrained, preprocess=preprocess)
