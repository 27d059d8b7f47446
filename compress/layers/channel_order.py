"""A fixed permutation of channels."""

import torch
from torch import Tensor, fx, nn

BLOCK = 2**15  # entries selected at a time; float32 blocks of this size stay in a core's cache


class ChannelOrder(nn.Module):
    """Puts channels into another order: channel i of the output is channel ``order[i]`` of the input.

    The order is a buffer, hence part of the state; a new layer keeps all channels where they are.

    Args:
        channels: how many there are.
        dim: axis of the channels, 1 for feature maps, -1 for inputs of linear layers.
    """

    order: Tensor

    def __init__(self, channels: int, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("order", torch.arange(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Reorder.

        Args:
            x: any shape with as many channels along the axis.

        Returns:
            A copy in the memory format of ``x``.
        """
        return reordered(x, self.order, self.dim)

    def extra_repr(self) -> str:
        """The constructor's arguments, for printing.

        Returns:
            As they would be written in code.
        """
        return f"{len(self.order)}, dim={self.dim}"


def reordered(x: Tensor, order: Tensor, dim: int) -> Tensor:
    """Select channels, in the memory format of the input.

    Args:
        x: feature maps, or any shape.
        order: which channels, as often as wanted, in any order.
        dim: axis of the channels.

    Returns:
        A copy in the memory format of ``x``.
    """
    if (
        torch.compiler.is_compiling()  # an exported graph shall hold one gather, of any batch size
        or dim != 1
        or x.ndim != 4
        or x.is_contiguous()
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return x.index_select(dim, order)
    # index_select would return the other memory format, and walk through all memory once a channel
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
    rows = max(1, BLOCK // x.shape[1]) if x.device.type == "cpu" else len(pixels)
    picked = torch.cat([block.index_select(1, order) for block in torch.split(pixels, rows)])
    batch, _, height, width = x.shape
    return picked.view(batch, height, width, -1).permute(0, 3, 1, 2)


fx.wrap("reordered")  # one call in traced graphs: the memory format isn't known while tracing
