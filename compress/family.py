"""What the sources of networks have in common."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from cnncompress.events import Reporter
from cnncompress.network import Network, Preprocess


@dataclass(frozen=True, kw_only=True)
class Family:
    """One source of networks, for example torchvision.

    Attributes:
        kind: names the family in `Network.source`.
        names: lists the networks.
        build: makes a network with random weights from its name and number of classes (None: its own).
        pretrained: loads a network with weights from its name and the weights' name.
        preprocess: the default preprocessing of a name's networks.
        trained: whether there are weights; networks without any start from random ones.
    """

    kind: str
    names: Callable[[], list[str]]
    build: Callable[[str, int | None], nn.Module]
    pretrained: Callable[[str, str, Reporter], Network]
    preprocess: Callable[[str], Preprocess]
    trained: bool = True
