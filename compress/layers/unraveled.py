"""A convolution unravelled into filters of single channels and a projection across them."""

from torch import Tensor, nn

from cnncompress.layers.costs import layer_macs
from cnncompress.layers.window import Pair, Window, check_channels


class UnraveledConv2d(nn.Module):
    """Convolves each channel with a few filters of its own, then mixes all of them by a 1 x 1 convolution.

    With ``bases`` filters a channel it is every convolution whose kernels, looked at channel by channel,
    span no more than ``bases`` dimensions: all of them once ``bases`` reaches the kernel's positions.
    Wang et al., "Factorized Convolutional Neural Networks", https://arxiv.org/abs/1608.04337, section 2.2.1,
    equations 3 to 6, where it is written [k, b, n].

    Its multiply-accumulates a pixel are ``in_channels * bases * (kernel positions + out_channels)``.

    The submodule ``depthwise`` holds the filters, filter t of channel i at i * bases + t, shape
    (in_channels * bases, 1, kernel rows, kernel columns); ``pointwise`` holds the projection and the bias,
    shape (out_channels, in_channels * bases, 1, 1).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: rows and columns of the filters.
        stride: of the filters.
        padding: of the input; a number, ``"same"`` or ``"valid"``.
        dilation: of the filters.
        bias: whether the projection has one.
        padding_mode: as in torch's Conv2d.
        bases: filters of each channel.

    Raises:
        OptionError: an argument is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        bases: int = 1,
    ) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels, bases=bases)
        self.in_channels, self.out_channels, self.bases = in_channels, out_channels, bases
        self.window = Window.of(kernel_size, stride, padding, dilation, padding_mode)
        inner = in_channels * bases
        self.depthwise = self.window.convolution(in_channels, inner, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(inner, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: shape (images, in_channels, rows, columns).

        Returns:
            Shape (images, out_channels, rows, columns), sized as by Conv2d.
        """
        y: Tensor = self.pointwise(self.depthwise(x))
        return y

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of one image.

        Args:
            height: rows of the input.
            width: its columns.

        Returns:
            What torch's flop counter finds, halved.
        """
        filters = layer_macs(self.depthwise, height, width)
        return filters + layer_macs(self.pointwise, *self.window.output_size(height, width))

    def extra_repr(self) -> str:
        """The constructor's arguments, for printing.

        Returns:
            As they would be written in code.
        """
        return (
            f"{self.in_channels}, {self.out_channels}, {self.window.arguments()}, "
            f"bias={self.pointwise.bias is not None}, bases={self.bases}"
        )
