"""Two single intra-channel convolutions with fewer channels between them."""

from dataclasses import replace

from torch import Tensor, nn

from cnncompress.errors import OptionError
from cnncompress.layers.costs import layer_macs
from cnncompress.layers.residual import resolve_residual
from cnncompress.layers.window import Pair, Window, check_channels


class SICBottleneck2d(nn.Module):
    """relu(x + norm2(pointwise2(depthwise2(relu(norm1(pointwise1(depthwise1(x)))))))).

    The first projection goes to half the channels and the second back, so that two layers cost about as much
    as one that keeps them. Each depthwise convolution filters its own layer's input.
    Wang et al., "Factorized Convolutional Neural Networks", https://arxiv.org/abs/1608.04337, section 3.3.

    Its multiply-accumulates a pixel are
    ``(channels + hidden) * kernel positions + 2 * channels * hidden``.

    Args:
        channels: of input and output.
        kernel_size: rows and columns of the filters.
        stride: of the first filters.
        padding: of both inputs; a number, ``"same"`` or ``"valid"``.
        dilation: of all filters.
        bias: whether the projections have one.
        padding_mode: as in torch's Conv2d.
        hidden: channels between the two; None for half.
        residual: whether the input is added; None to add it if the output has its shape.
        norm: whether BatchNorm comes after each projection.
        activation: whether the sum is rectified.
        inner_activation: whether the channels between are rectified.

    Raises:
        OptionError: an argument is out of its range, or a residual is impossible.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Pair = 3,
        stride: int | Pair = 1,
        padding: int | Pair | str = "same",
        dilation: int | Pair = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        hidden: int | None = None,
        residual: bool | None = None,
        norm: bool = False,
        activation: bool = True,
        inner_activation: bool = True,
    ) -> None:
        super().__init__()
        check_channels(channels=channels)
        if hidden is None and channels % 2:
            raise OptionError(f"hidden must be given for an odd number of channels, got {channels}")
        self.channels, self.hidden = channels, channels // 2 if hidden is None else hidden
        check_channels(hidden=self.hidden)
        self.window = Window.of(kernel_size, stride, padding, dilation, padding_mode)
        self.second_window = replace(self.window, stride=(1, 1))
        self.residual = resolve_residual(
            residual, in_channels=channels, out_channels=channels, keeps_size=self.window.keeps_size
        )
        self.depthwise1 = self.window.convolution(channels, channels, groups=channels, bias=False)
        self.pointwise1 = nn.Conv2d(channels, self.hidden, 1, bias=bias)
        self.norm1 = nn.BatchNorm2d(self.hidden) if norm else nn.Identity()
        self.inner_activation = nn.ReLU() if inner_activation else nn.Identity()
        self.depthwise2 = self.second_window.convolution(
            self.hidden, self.hidden, groups=self.hidden, bias=False
        )
        self.pointwise2 = nn.Conv2d(self.hidden, channels, 1, bias=bias)
        self.norm2 = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: shape (images, channels, rows, columns).

        Returns:
            Shape (images, channels, rows, columns), sized as by two Conv2d.
        """
        inner = self.inner_activation(self.norm1(self.pointwise1(self.depthwise1(x))))
        y = self.norm2(self.pointwise2(self.depthwise2(inner)))
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
        between = self.window.output_size(height, width)
        after = self.second_window.output_size(*between)
        return (
            layer_macs(self.depthwise1, height, width)
            + layer_macs(self.pointwise1, *between)
            + layer_macs(self.depthwise2, *between)
            + layer_macs(self.pointwise2, *after)
        )

    def extra_repr(self) -> str:
        """The constructor's arguments, for printing.

        Returns:
            As they would be written in code; norms and activations show as submodules.
        """
        return (
            f"{self.channels}, {self.window.arguments()}, bias={self.pointwise2.bias is not None}, "
            f"hidden={self.hidden}, residual={self.residual}"
        )
