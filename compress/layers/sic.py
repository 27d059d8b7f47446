"""The single intra-channel convolution: one filter a channel, a projection, and the way past both."""

from torch import Tensor, nn

from cnncompress.layers.costs import layer_macs
from cnncompress.layers.residual import check_pointwise, resolve_residual
from cnncompress.layers.window import Pair, Window, check_channels


class SICConv2d(nn.Module):
    """relu(x + norm(pointwise(depthwise(x)))).

    What a single filter a channel loses, the way past it keeps; several of these layers in sequence replace
    one convolution. Wang et al., "Factorized Convolutional Neural Networks", https://arxiv.org/abs/1608.04337,
    sections 2.2.2 to 2.2.4, equation 7, where it is written <k, n>; algorithm 2 of its first version.

    Its multiply-accumulates a pixel are ``in_channels * (kernel positions + out_channels)``.

    The submodule ``depthwise`` holds the filters, shape (in_channels, 1, kernel rows, kernel columns);
    ``pointwise`` the projection and the bias; ``norm`` a BatchNorm2d or Identity.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: rows and columns of the filters.
        stride: of the filters.
        padding: of the input; a number, ``"same"`` or ``"valid"``.
        dilation: of the filters.
        bias: whether the projection has one.
        padding_mode: as in torch's Conv2d.
        residual: whether the input is added; None to add it if the output has its shape.
        norm: whether BatchNorm comes before the sum.
        activation: whether the sum is rectified.
        pointwise: taken for the projection, for example a `TopologicalConv2d` with kernel_size 1.

    Raises:
        OptionError: an argument is out of its range, or a residual is impossible.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair = 3,
        stride: int | Pair = 1,
        padding: int | Pair | str = "same",
        dilation: int | Pair = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        residual: bool | None = None,
        norm: bool = False,
        activation: bool = True,
        pointwise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.window = Window.of(kernel_size, stride, padding, dilation, padding_mode)
        self.residual = resolve_residual(
            residual,
            in_channels=in_channels,
            out_channels=out_channels,
            keeps_size=self.window.keeps_size,
        )
        self.depthwise = self.window.convolution(in_channels, in_channels, groups=in_channels, bias=False)
        self.pointwise = (
            nn.Conv2d(in_channels, out_channels, 1, bias=bias)
            if pointwise is None
            else check_pointwise(pointwise, in_channels, out_channels)
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: shape (images, in_channels, rows, columns).

        Returns:
            Shape (images, out_channels, rows, columns), sized as by Conv2d.
        """
        y = self.norm(self.pointwise(self.depthwise(x)))
        activated: Tensor = self.activation(x + y if self.residual else y)
        return activated

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
            As they would be written in code; norm, activation and projection show as submodules.
        """
        return (
            f"{self.in_channels}, {self.out_channels}, {self.window.arguments()}, "
            f"bias={getattr(self.pointwise, 'bias', None) is not None}, residual={self.residual}"
        )
