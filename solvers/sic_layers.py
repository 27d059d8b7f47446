"""Single intra-channel convolutions on crops of maps around sampled positions.

A stack's later layers read what the ones before give around a position, so that samples have a margin, which
shrinks by a kernel's with each layer. What lies outside the image is zero for every layer, as its own padding
makes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.nonlinear import rectify

_ENTRIES = 2**24
"""Of the values that a layer reads, in one part; temporaries are a few times that."""


@dataclass(frozen=True, eq=False)
class Crops:
    """Squares of a map with sampled positions at their centres.

    Attributes:
        values: shape (channels, side, side, samples), the side odd; zero outside the image.
        inside: whether a place lies in the image, shape (side, side, samples); None if all do, or if it
            doesn't matter, because a single layer reads the crops.
    """

    values: Array
    inside: Array | None = None

    @property
    def side(self) -> int:
        """Rows and columns."""
        return int(self.values.shape[1])

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.values.shape[3])

    def trimmed(self, side: int) -> "Crops":
        """What is around the centres.

        Args:
            side: rows and columns to keep, odd, at most as many as there are.

        Returns:
            Views where the library has them.
        """
        margin = (self.side - side) // 2
        if margin == 0:
            return self
        keep = slice(margin, margin + side)
        inside = None if self.inside is None else self.inside[keep, keep, :]
        return Crops(self.values[:, keep, keep, :], inside)

    def parts(self) -> list["Crops"]:
        """The samples in turns, so that what is computed of one part takes little memory.

        Returns:
            At least one part.
        """
        step = max(1, _ENTRIES // (self.values.shape[0] * self.side**2))
        ends = range(0, max(self.samples, 1), step)
        return [self.at(slice(first, min(first + step, self.samples))) for first in ends]

    def at(self, samples: slice) -> "Crops":
        """Some of the samples.

        Args:
            samples: which.

        Returns:
            Views where the library has them.
        """
        inside = None if self.inside is None else self.inside[:, :, samples]
        return Crops(self.values[:, :, :, samples], inside)

    def patches(self) -> Array:
        """The crops as the columns that a convolution's weight multiplies.

        Returns:
            Shape (channels * side * side, samples).
        """
        xp = array_namespace(self.values)
        return xp.reshape(self.values, (-1, self.samples))

    def emptied(self) -> "Crops":
        """Zeros outside the image, where a layer has put its bias.

        Returns:
            Other crops.
        """
        if self.inside is None:
            return self
        xp = array_namespace(self.values)
        return Crops(self.values * xp.astype(self.inside, self.values.dtype)[None, ...], self.inside)


@dataclass(frozen=True, eq=False)
class IntraChannel:
    """Filters of each channel, a 1 x 1 after them, and perhaps the way past both.

    Attributes:
        depthwise: shape (channels, bases, kernel, kernel), the kernel odd; a stack's layers have one basis.
        pointwise: shape (outputs, channels * bases).
        bias: shape (outputs,).
        residual: whether the input is added.
    """

    depthwise: Array
    pointwise: Array
    bias: Array
    residual: bool

    @property
    def kernel(self) -> int:
        """Rows and columns of the filters."""
        return int(self.depthwise.shape[2])

    def __call__(self, crops: Crops) -> Crops:
        """The responses, before any rectifier.

        Args:
            crops: of the input.

        Returns:
            Smaller by ``kernel - 1``, not zero outside the image.
        """
        xp, values = array_namespace(crops.values), crops.values
        filtered = _filtered(values, xp.astype(self.depthwise, values.dtype))
        shape = (self.pointwise.shape[0], *filtered.shape[1:])
        mixed = xp.astype(self.pointwise, values.dtype) @ xp.reshape(filtered, (filtered.shape[0], -1))
        mixed = xp.reshape(mixed + xp.astype(self.bias, values.dtype)[:, None], shape)
        centre = crops.trimmed(shape[1])
        return Crops(mixed + centre.values if self.residual else mixed, centre.inside)


def activated(responses: Crops, *, rectified: bool) -> Crops:
    """What the next layer reads.

    Args:
        responses: of a layer.
        rectified: whether a rectifier follows it.

    Returns:
        Zero outside the image.
    """
    return Crops(rectify(responses.values) if rectified else responses.values, responses.inside).emptied()


def stacked(layers: Sequence[IntraChannel], crops: Crops, *, rectified: bool) -> Array:
    """Responses of a stack at the crops' centres, before the last rectifier.

    Args:
        layers: first to last.
        crops: of the input, at least as wide as the layers together reach.
        rectified: whether rectifiers are between the layers.

    Returns:
        Shape (outputs, samples).
    """
    xp = array_namespace(crops.values)
    side = 1 + sum(layer.kernel - 1 for layer in layers)
    found = []
    for part in crops.trimmed(side).parts():
        read = part
        for layer in layers[:-1]:
            read = activated(layer(read), rectified=rectified)
        found.append(layers[-1](read).patches())
    return xp.concat(found, axis=1)


def _filtered(values: Array, filters: Array) -> Array:
    """Each channel convolved with its filters: (channels * bases, smaller side, smaller side, samples)."""
    xp = array_namespace(values)
    channels, bases, kernel, _ = filters.shape
    side, samples = values.shape[1] - kernel + 1, values.shape[3]
    if side == 1:
        flat = xp.reshape(filters, (channels, bases, -1)) @ xp.reshape(values, (channels, -1, samples))
        return xp.reshape(flat, (-1, 1, 1, samples))
    total = None
    for row in range(kernel):
        for column in range(kernel):
            shifted = values[:, None, row : row + side, column : column + side, :]
            term = shifted * filters[:, :, row, column][:, :, None, None, None]
            total = term if total is None else total + term
    return xp.reshape(total, (-1, side, side, samples))
