"""The way past a layer."""

from torch import nn

from cnncompress.errors import OptionError


def resolve_residual(residual: bool | None, *, in_channels: int, out_channels: int, keeps_size: bool) -> bool:
    """Whether a layer's input is added to its output.

    Args:
        residual: as the caller wants it; None to add it wherever that is possible.
        in_channels: of the layer.
        out_channels: of the layer.
        keeps_size: whether its output has as many rows and columns as its input.

    Returns:
        The decision.

    Raises:
        OptionError: it is wanted and impossible.
    """
    possible = in_channels == out_channels and keeps_size
    if residual and not possible:
        raise OptionError(
            "residual=True needs an output of the input's shape: equal channels, stride 1, padding='same'; "
            f"got {in_channels} to {out_channels} channels"
            + ("" if keeps_size else " and an output of another size")
        )
    return possible if residual is None else residual


def check_pointwise(pointwise: nn.Module, in_channels: int, out_channels: int) -> nn.Module:
    """Refuse a module that can't stand in for a 1 x 1 convolution.

    Args:
        pointwise: from the caller.
        in_channels: that it must take.
        out_channels: that it must return.

    Returns:
        The module.

    Raises:
        OptionError: it states other numbers of channels.
    """
    stated = getattr(pointwise, "in_channels", in_channels), getattr(pointwise, "out_channels", out_channels)
    if stated != (in_channels, out_channels):
        raise OptionError(
            f"pointwise must map {in_channels} to {out_channels} channels, got {stated[0]} to {stated[1]}"
        )
    return pointwise
