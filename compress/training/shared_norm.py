"""BatchNorm in training over the images of all processes, on any device.

torch's own SyncBatchNorm does this on accelerators alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.distributed import World

_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


class _Summed(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.world.sum(gradients[0]), None


@contextmanager
def shared_norms(model: nn.Module, world: World) -> Iterator[None]:
    """Let BatchNorms in training mode compute their statistics over the images of all processes.

    Args:
        model: run by all processes at once, each on images of its own; afterwards it is as it was, its
            running statistics apart, which are those of one process that had run all the images.
        world: the processes.

    Yields:
        Nothing; the model is to be run in the block, its backward pass may come later.
    """
    norms: list[_BatchNorm] = []
    if not world.is_alone:
        norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm) and norm.training]
    try:
        for norm in norms:
            norm.forward = partial(_normalised, norm, world)  # type: ignore[method-assign]  # for a while
        yield
    finally:
        for norm in norms:
            del norm.forward


def _normalised(norm: _BatchNorm, world: World, images: Tensor) -> Tensor:
    """What the norm's own ``forward`` does in training, over all processes."""
    if not norm.training:  # a layer may run in another mode by itself
        return type(norm).forward(norm, images)
    values = images.to(torch.promote_types(images.dtype, torch.float32))
    axes = [axis for axis in range(images.ndim) if axis != 1]
    mean, square, count = _moments(values, axes, world)
    if count < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got {count}")
    variance = (square - mean.square()).clamp_min(0)
    _update(norm, mean.detach(), variance.detach() * (count / (count - 1)))
    scale = (variance + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight, shift * norm.weight
    if norm.bias is not None:
        shift = shift + norm.bias
    shape = [-1 if axis == 1 else 1 for axis in range(images.ndim)]
    scale, shift = (factor.to(values.dtype).view(shape) for factor in (scale, shift))
    return torch.addcmul(shift, values, scale).to(images.dtype)


def _moments(values: Tensor, axes: list[int], world: World) -> tuple[Tensor, Tensor, int]:
    """Mean and mean square of each channel and the number of values, over all processes."""
    variance, mean = torch.var_mean(values, axes, correction=0)
    own = values.numel() // values.shape[1]
    # float64: the square of the mean is about to be taken off
    sums = torch.cat([mean.double(), variance.double() + mean.double().square(), mean.new_ones(1).double()])
    total: Tensor = _Summed.apply(sums * own, world)
    count = round(float(total[-1].detach()))
    mean, square = (total[:-1] / count).chunk(2)
    return mean, square, count


def _update(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        share = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
        norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)
