"""What the papers' networks are put together from."""

from typing import TypeVar

from torch import nn

from cnncompress.errors import OptionError

Net = TypeVar("Net", bound=nn.Module)


def grouped_conv(
    name: str,
    before: int,
    filters: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """A convolution whose groups are checked.

    Args:
        name: of the layer, for messages.
        before: input channels.
        filters: output channels.
        kernel: height and width.
        stride: of the filters.
        padding: on each side; None for half the kernel, so that stride 1 keeps the size.
        groups: filter groups.
        bias: whether it has one.

    Returns:
        The convolution.

    Raises:
        OptionError: the groups don't divide the channels.
    """
    if before % groups or filters % groups:
        raise OptionError(
            f"{name}: {groups} groups must divide its {before} input and {filters} output channels; "
            "take a smaller power of two"
        )
    padding = kernel // 2 if padding is None else padding
    return nn.Conv2d(before, filters, kernel, stride, padding, groups=groups, bias=bias)


def he_initialised(network: Net) -> Net:
    """Draw the weights as He et al. do (Delving Deep into Rectifiers, 2015), with biases of zero.

    Args:
        network: its convolutions and linear layers are changed in place.

    Returns:
        The same network.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
