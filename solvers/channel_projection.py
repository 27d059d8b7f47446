"""Projection of a convolution's input channels: a 1 x 1 to fewer channels, then the kernel on those.

The weight (d, c, kh, kw) is folded into F of shape (c, kh kw d). In the metric S, the second moment of the
input channels, the error of a rank-r factorisation F = A B is ||S^½ (F - A B)||², least for the leading r
left vectors U of S^½ F: columns of A = S^-½ U are the 1 x 1 filters, rows of B = U' S^½ F the kernels.
The filters of a rank are the first of those of every greater rank, and all of them reproduce the weight.
It is the optimum on the responses if neighbouring pixels were uncorrelated.
"""

from array_api_compat import array_namespace

from cnncompress.solvers import Array
from cnncompress.solvers.metric import of_covariance
from cnncompress.solvers.reduced_rank import descending_eigh
from cnncompress.solvers.svd import squared_singular_values

_LEAST_ENERGY = 1e-8  # of a filter's responses, as share of the first one's, below which it isn't scaled down


def channel_split(
    weight: Array, *, rank: int, channel_moment: Array, isotropic: float = 0.0
) -> tuple[Array, Array]:
    """A 1 x 1 convolution and a kernel whose composition approximates a convolution.

    Args:
        weight: shape (out_channels, in_channels, kh, kw).
        rank: number of 1 x 1 filters, at most min(in_channels, out_channels * kh * kw).
        channel_moment: second moment of the input channels, shape (in_channels, in_channels).
        isotropic: how much of the plain norm is added to it, in units of the mean of its diagonal.

    Returns:
        1 x 1 filters (rank, in_channels, 1, 1), the leading first, and the kernel
        (out_channels, rank, kh, kw) that reads their outputs.
    """
    xp = array_namespace(weight)
    outputs, inputs, height, width = weight.shape
    metric = of_covariance(channel_moment, height * width, outputs, isotropic=isotropic)
    weighed = xp.reshape(metric.weigh(_by_input(weight)), (inputs, -1))
    energies, axes = descending_eigh(weighed @ weighed.T)
    energies, axes = energies[:rank], axes[:, :rank]
    largest = float(energies[0])
    shares = energies / largest if largest > 0 else xp.ones_like(energies)
    # a filter's outputs vary as much as they add to the responses, as those of the vertical split do
    scale = xp.sqrt(xp.maximum(shares, xp.full_like(shares, _LEAST_ENERGY)))
    first = xp.reshape((metric.unweigh_inputs(axes) * scale[None, :]).T, (-1, inputs, 1, 1))
    second = xp.reshape((axes.T @ weighed) / scale[:, None], (-1, height, width, outputs))
    return xp.astype(first, weight.dtype), xp.astype(xp.permute_dims(second, (3, 0, 1, 2)), weight.dtype)


def channel_energies(weight: Array, *, channel_moment: Array, isotropic: float = 0.0) -> Array:
    """What each further 1 x 1 filter adds to the energy of the responses.

    Args:
        weight: shape (out_channels, in_channels, kh, kw).
        channel_moment: second moment of the input channels, shape (in_channels, in_channels).
        isotropic: as in `channel_split`.

    Returns:
        Shape (min(in_channels, out_channels * kh * kw),), descending, float64.
    """
    xp = array_namespace(weight)
    outputs, inputs, height, width = weight.shape
    metric = of_covariance(channel_moment, height * width, outputs, isotropic=isotropic)
    return squared_singular_values(xp.reshape(metric.weigh(_by_input(weight)), (inputs, -1)))


def _by_input(weight: Array) -> Array:
    """The weight as a tensor (in_channels, positions, out_channels), float64."""
    xp = array_namespace(weight)
    outputs, inputs = weight.shape[:2]
    wide = xp.astype(weight, xp.float64)
    return xp.permute_dims(xp.reshape(wide, (outputs, inputs, -1)), (1, 2, 0))
