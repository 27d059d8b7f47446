"""The papers' networks by name.

A module of this folder registers its networks where it is imported; its name belongs in ``_MODULES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from torch import nn

from cnncompress.errors import ModelError, OptionError, unknown_name
from cnncompress.network import Preprocess

# Mean and deviation of CIFAR-10's training images.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)
SMALL = 128  # pixels; below it, inputs are whole images as in CIFAR, above it crops as for ImageNet

Builder = Callable[[int], nn.Module]
"""Makes a network with random weights from the number of classes, 0 where it has none."""

_MODULES = ("mattnet", "spp", "nin", "resnet", "googlenet", "sic_networks", "cifar_networks")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One network of the register.

    Attributes:
        name: as it is typed.
        builder: makes it.
        input_size: channels, height and width of one image.
        classes: outputs in the paper; None where the network ends in a feature map.
        reference: paper and table.
        preprocess: from an image to the input.
    """

    name: str
    builder: Builder
    input_size: tuple[int, int, int]
    classes: int | None
    reference: str
    preprocess: Preprocess


_ENTRIES: dict[str, Entry] = {}


def network(
    name: str,
    *,
    input_size: tuple[int, int, int],
    classes: int | None,
    reference: str,
    preprocess: Preprocess | None = None,
) -> Callable[[Builder], Builder]:
    """Register what makes a network; for a family of networks, call the decorator in a loop.

    Args:
        name: as it is typed.
        input_size: channels, height and width of one image.
        classes: outputs in the paper; None where the network ends in a feature map.
        reference: paper and table.
        preprocess: from an image to the input; None for ImageNet's, or below 128 pixels CIFAR-10's.

    Returns:
        A decorator that leaves the builder as it is.

    Raises:
        OptionError: the name is taken.
    """  # noqa: DOC502  # raised by the decorator

    def decorate(builder: Builder) -> Builder:
        if name in _ENTRIES:
            raise OptionError(f"a network called {name!r} is registered already")
        _ENTRIES[name] = Entry(
            name=name,
            builder=builder,
            input_size=input_size,
            classes=classes,
            reference=reference,
            preprocess=preprocess or _preprocess(input_size),
        )
        return builder

    return decorate


def names() -> list[str]:
    """All registered networks.

    Returns:
        Names for `build`, family by family.
    """
    for module in _MODULES:
        import_module(f"cnncompress.zoo.{module}")
    return list(_ENTRIES)


def entry(name: str) -> Entry:
    """What is known about a network.

    Args:
        name: one of `names`.

    Returns:
        Its entry.

    Raises:
        ModelError: there is no such network.
    """
    known = names()
    if name not in known:
        raise ModelError(unknown_name("network", name, known))
    return _ENTRIES[name]


def build(name: str, classes: int | None = None) -> nn.Module:
    """Make a network with random weights, drawn from torch's generator.

    Args:
        name: one of `names`.
        classes: outputs; None for the paper's.

    Returns:
        The network, in training mode.

    Raises:
        OptionError: the number of classes isn't positive, or the network has none.
    """
    found = entry(name)
    if classes is not None and (found.classes is None or classes < 1):
        limit = "ends in a feature map, leave them out" if found.classes is None else "needs at least 1"
        raise OptionError(f"{name}: {classes} classes were asked for, but it {limit}")
    return found.builder(classes or found.classes or 0)


def _preprocess(input_size: tuple[int, int, int]) -> Preprocess:
    _, height, width = input_size
    if min(height, width) < SMALL:
        return Preprocess(resize=min(height, width), crop=(height, width), mean=CIFAR_MEAN, std=CIFAR_STD)
    return Preprocess(crop=(height, width))
