"""The k x k filters that work within one channel: a depthwise layer's own, or a convolution's best ones.

Wang et al., "Factorized Convolutional Neural Networks", https://arxiv.org/abs/1608.04337, figure 4.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cnncompress.errors import ModelError, NumericsError, OptionError, unknown_name
from cnncompress.filter_figures import kernel_tiles
from cnncompress.folder import atomic_folder
from cnncompress.output import write_json
from cnncompress.solvers.separable import separable_energies, separate

MOST_BASES = 4


@dataclass(frozen=True, eq=False)
class IntraChannelKernels:
    """Filters of each input channel, the strongest first where they stem from a convolution.

    Attributes:
        layer: name of the convolution.
        caption: one line that says what the filters are.
        kernels: shape (bases, channels, kernel height, kernel width), float64.
        energies: share of the convolution's energy that each basis keeps, over all channels; empty for a
            depthwise layer, whose filters are all there is.
    """

    layer: str
    caption: str
    kernels: NDArray[np.float64]
    energies: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON-able values.

        Returns:
            A dictionary; ``kernels`` is nested as the array's axes are.
        """
        return {
            "schema": 1,
            "layer": self.layer,
            "caption": self.caption,
            "energies": list(self.energies),
            "kernels": self.kernels.tolist(),
        }


def intra_channel_kernels(
    model: nn.Module, layer: str, *, most_bases: int = MOST_BASES
) -> IntraChannelKernels:
    """Filters of one layer.

    A depthwise convolution, or a layer that has one as its ``depthwise``, shows its own kernels. Any other
    convolution shows the leading singular vectors of each input channel's kernels: of all filters shared by
    the outputs, these approximate it best (Wang et al., section 2.2.1).

    Args:
        model: the network.
        layer: name of a module.
        most_bases: singular vectors of each channel, at most.

    Returns:
        The filters. A singular vector's sign is arbitrary: here its sum is positive.

    Raises:
        OptionError: there is no such module.
        ModelError: it is no convolution, or its kernel is of one entry.
        NumericsError: a weight is NaN or infinite.
    """  # noqa: DOC502  # some are raised by what is called
    name, conv = _convolution(model, layer)
    height, width = conv.kernel_size
    if height * width == 1:
        raise ModelError(f"{name}: its kernels are 1 x 1, there is nothing to see; choose a spatial layer")
    weight = conv.weight.detach().double().cpu().numpy()
    if not np.isfinite(weight).all():
        raise NumericsError(f"{name}: a weight is NaN or infinite; check the checkpoint")
    channels = conv.in_channels
    if conv.groups == channels:
        kernels = weight.reshape(channels, -1, height, width).transpose(1, 0, 2, 3)
        caption = f"{name}: the {height} x {width} kernels of its {channels} channels, {len(kernels)} each"
        return IntraChannelKernels(name, caption, kernels, ())
    tensor = _by_channel(weight, conv.groups)
    bases = min(most_bases, *tensor.shape[1:])
    filters = separate(tensor, bases=bases).depthwise.reshape(channels, bases, height, width)
    filters = filters * np.where(filters.sum(axis=(2, 3), keepdims=True) < 0, -1.0, 1.0)
    energies = separable_energies(tensor)
    shares = tuple((energies[:bases] / (energies.sum() or 1.0)).tolist())
    caption = (
        f"{name}: the {bases} best {height} x {width} filters of each of {channels} input channels; "
        f"together {100 * sum(shares):.1f} % of the energy"
    )
    return IntraChannelKernels(name, caption, filters.transpose(1, 0, 2, 3), shares)


def write_kernels(folder: str | Path, kernels: IntraChannelKernels) -> Path:
    """Write ``filters.png`` and ``filters.json``; an `OutputError` if the folder holds anything.

    Args:
        folder: to be written; new or empty.
        kernels: to be drawn.

    Returns:
        The picture's path.
    """
    picture = kernel_tiles(kernels.kernels, kernels.caption, kernels.energies)
    with atomic_folder(folder) as temporary:
        (temporary / "filters.png").write_bytes(picture)
        write_json(temporary / "filters.json", kernels.to_json())
    return Path(folder) / "filters.png"


def _convolution(model: nn.Module, layer: str) -> tuple[str, nn.Conv2d]:
    modules = dict(model.named_modules())
    convolutions = [name for name, module in modules.items() if isinstance(module, nn.Conv2d)]
    if layer not in modules:
        raise OptionError(unknown_name("layer", layer, convolutions))
    for name in (layer, f"{layer}.depthwise"):
        module = modules.get(name)
        if isinstance(module, nn.Conv2d):
            return name, module
    kind, known = type(modules[layer]).__name__, ", ".join(convolutions[:12])
    raise ModelError(f"{layer}: is a {kind}, not a convolution; known: {known}")


def _by_channel(weight: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """The weight as (input channels, positions, outputs of the channel's group)."""
    outputs, inputs = weight.shape[:2]
    split = weight.reshape(groups, outputs // groups, inputs, prod(weight.shape[2:]))
    return split.transpose(0, 2, 3, 1).reshape(groups * inputs, split.shape[3], -1)
