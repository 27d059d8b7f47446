"""Input channels chosen by the Tucker decomposition of a weight's two channel axes.

Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
section 3.1 (https://arxiv.org/abs/1511.06530); higher-order orthogonal iteration by tensorly.
"""

from typing import Any

import numpy as np
from array_api_compat import (
    array_namespace,
    device,
    is_cupy_namespace,
    is_numpy_namespace,
    is_torch_namespace,
)

from cnncompress.solvers import Array

_INPUTS, _OUTPUTS = 1, 0  # axes of a convolution's weight


def tucker_split(weight: Array, *, input_rank: int, output_rank: int) -> tuple[Array, Array]:
    """A 1 x 1 convolution and a kernel of a Tucker-2 decomposition, whose outputs aren't truncated.

    Args:
        weight: shape (out_channels, in_channels, kh, kw).
        input_rank: number of 1 x 1 filters, at most in_channels.
        output_rank: of the decomposition that chooses them, at most out_channels.

    Returns:
        Orthonormal 1 x 1 filters (input_rank, in_channels, 1, 1) and the kernel
        (out_channels, input_rank, kh, kw) that the weight amounts to on their outputs.
    """
    xp = array_namespace(weight)
    outputs, inputs, height, width = weight.shape
    if not bool(xp.any(weight != 0)):
        basis = xp.eye(inputs, dtype=weight.dtype, device=device(weight))[:, :input_rank]
    else:
        basis = _input_basis(weight, [output_rank, input_rank])
    by_input = xp.reshape(xp.permute_dims(weight, (1, 0, 2, 3)), (inputs, -1))
    kernel = xp.reshape(basis.T @ by_input, (-1, outputs, height, width))
    return xp.reshape(basis.T, (-1, inputs, 1, 1)), xp.permute_dims(kernel, (1, 0, 2, 3))


def _input_basis(weight: Array, ranks: list[int]) -> Array:
    """The factor of the input axis, shape (in_channels, rank), in the weight's library and type."""
    import tensorly  # noqa: PLC0415  # loads slowly
    from tensorly.decomposition import partial_tucker  # noqa: PLC0415  # loads slowly

    xp = array_namespace(weight)
    backend = _backend(xp)
    given = np.asarray(weight) if backend is None else weight
    with tensorly.backend_context(backend or "numpy", local_threadsafe=True), np.errstate(all="ignore"):
        (_, factors), _ = partial_tucker(given, rank=ranks, modes=[_OUTPUTS, _INPUTS], random_state=0)
    return xp.asarray(factors[_INPUTS], dtype=weight.dtype, device=device(weight))


def _backend(xp: Any) -> str | None:
    """Tensorly's name of an array library, None if it has none."""
    known = {"numpy": is_numpy_namespace, "cupy": is_cupy_namespace, "pytorch": is_torch_namespace}
    return next((name for name, matches in known.items() if matches(xp)), None)
