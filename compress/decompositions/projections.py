"""Projections of a layer's inputs that a map to the responses is then solved behind.

The first factor of several replacements is chosen by the weight and the second moment of what it reads; the
rest is a map from its outputs, at all positions that the rest covers, to the true responses.
"""

from typing import Literal

from array_api_compat import array_namespace, device

from cnncompress.decompositions.solutions import Regressors
from cnncompress.responses import Responses
from cnncompress.solvers import Array
from cnncompress.solvers.channel_projection import channel_split
from cnncompress.solvers.spatial import spatial_split

Projection = Literal["none", "vertical", "pointwise"]
"""What the first factor reads: it isn't there, or kernel height x 1, or 1 x 1."""

ISOTROPIC = 0.3
"""Energy of the plain norm beside that of the inputs, where input channels are chosen.

As in the data metric of `cnncompress.decompositions.weighted`. On three convolutions of VGG-16 at 2x and 4x
(crops of photographs, linear solution), 0.3 lowered the held-out error of `gsvd-in` by 1 to 4 % in five of
six cases and raised it by 1 % in the other."""


def projection_split(kind: Projection, weight: Array, patches: Array, rank: int) -> tuple[Array, Array]:
    """Filters of the first factor, and the rest of the chain that the weight amounts to behind them.

    Both are nested: those of a rank are the leading ones of every greater rank.

    Args:
        kind: what the filters cover.
        weight: shape (out_channels, in_channels, kernel height, kernel width).
        patches: what the layer reads, shape (in_channels * kernel height * kernel width, samples).
        rank: number of filters; without a projection that of all input channels.

    Returns:
        Filters (rank, in_channels, kernel height, 1) or (rank, in_channels, 1, 1), and a kernel
        (out_channels, rank, 1, kernel width) or (out_channels, rank, kernel height, kernel width).
    """
    xp = array_namespace(weight)
    _, inputs, height, width = weight.shape
    match kind:
        case "vertical":
            moment = _second_moment(patches, inputs * height, width)
            return spatial_split(weight, rank=rank, column_moment=moment)
        case "pointwise":
            moment = _second_moment(patches, inputs, height * width)
            return channel_split(weight, rank=rank, channel_moment=moment, isotropic=ISOTROPIC)
        case "none":
            identity = xp.eye(inputs, dtype=weight.dtype, device=device(weight))
            return xp.reshape(identity, (inputs, inputs, 1, 1)), weight


def projected(kind: Projection, filters: Array, patches: Array, kernel_size: tuple[int, int]) -> Array:
    """Outputs of the first factor at all positions that the rest of the chain covers.

    Args:
        kind: what the filters cover.
        filters: from `projection_split`.
        patches: what the layer reads, shape (in_channels * kernel height * kernel width, samples).
        kernel_size: height and width.

    Returns:
        Shape (rank * positions, samples), where positions are those of the kernel's columns or of the whole
        kernel; the rows of the first filter come first. The patches themselves without a projection.
    """
    xp = array_namespace(patches)
    if kind == "none":
        return patches
    height, width = kernel_size
    positions = width if kind == "vertical" else height * width
    rank, inputs, rows, _ = filters.shape
    samples = patches.shape[1]
    together = xp.reshape(patches, (inputs * rows, positions * samples))
    return xp.reshape(xp.reshape(filters, (rank, inputs * rows)) @ together, (rank * positions, samples))


def regressors_behind(
    kind: Projection, filters: Array, rest: Array, bias: Array, responses: Responses
) -> Regressors:
    """What the rest of a chain may read.

    Args:
        kind: what the filters cover.
        filters: of the first factor, as from `projection_split`.
        rest: of the chain, of the same.
        bias: of the layer, shape (out_channels,).
        responses: of the layer.

    Returns:
        Outputs of the filters, with what the rest makes of them.
    """
    xp = array_namespace(rest)
    rows = rest.shape[2] if kind != "vertical" else filters.shape[2]
    kernel_size = (int(rows), int(rest.shape[3]))
    return Regressors(
        projected(kind, filters, responses.fit.patches, kernel_size),
        projected(kind, filters, responses.held_out.patches, kernel_size),
        xp.reshape(rest, (rest.shape[0], -1)),
        bias,
    )


def _second_moment(patches: Array, entries: int, positions: int) -> Array:
    """Second moment of what a filter reads, over all its positions in the patches."""
    xp = array_namespace(patches)
    together = xp.reshape(patches, (entries, positions * patches.shape[1]))
    return (together @ together.T) / together.shape[1]
