"""A projection at a lower resolution, between filters that reduce it and filters that bring it back."""

from torch import Tensor, nn

from cnncompress.errors import OptionError
from cnncompress.layers.costs import layer_macs
from cnncompress.layers.residual import check_pointwise, resolve_residual
from cnncompress.layers.window import Pair, Window, check_channels, pair


class SpatialBottleneck2d(nn.Module):
    """relu(x + norm(up(pointwise(down(x))))), with fewer pixels between ``down`` and ``up``.

    Each block of kernel_size pixels becomes one and comes back, hence the output is as large as the input,
    whatever its size. With padding the blocks begin above and left of the image; of two layers in sequence
    the paper pads the second, so that their blocks' edges don't coincide. Rows and columns at the end that
    fill no block get the bias and the residual alone. Wang et al., "Design of Efficient Convolutional Layers
    using Single Intra-channel Convolution, Topological Subdivisioning and Spatial Bottleneck Structure",
    https://arxiv.org/abs/1608.04337v1, section 2.4.

    Where blocks fit, its multiply-accumulates a pixel are
    ``in_channels + out_channels + in_channels * out_channels / kernel positions``; padding adds blocks.

    The submodule ``down`` holds the filters that reduce, shape (in_channels, 1, kernel rows, kernel columns);
    ``pointwise`` the projection; ``up`` the transposed filters, shape (out_channels, 1, kernel rows, kernel
    columns), and the bias; ``norm`` a BatchNorm2d or Identity.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: rows and columns of a block.
        padding: how far blocks begin before the image; less than a block.
        bias: whether ``up`` has one.
        residual: whether the input is added; None to add it if the channels are equal.
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
        kernel_size: int | Pair = 2,
        padding: int | Pair = 0,
        bias: bool = True,
        *,
        residual: bool | None = None,
        norm: bool = False,
        activation: bool = True,
        pointwise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_channels(in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels = in_channels, out_channels
        block, margin = pair("kernel_size", kernel_size), pair("padding", padding, least=0)
        if margin[0] >= block[0] or margin[1] >= block[1]:
            raise OptionError(f"padding must be less than kernel_size {block}, got {margin}")
        self.window = Window.of(block, block, margin, 1, "zeros")
        self.residual = resolve_residual(
            residual, in_channels=in_channels, out_channels=out_channels, keeps_size=True
        )
        self.down = self.window.convolution(in_channels, in_channels, groups=in_channels, bias=False)
        self.pointwise = (
            nn.Conv2d(in_channels, out_channels, 1, bias=False)
            if pointwise is None
            else check_pointwise(pointwise, in_channels, out_channels)
        )
        self.up = nn.ConvTranspose2d(
            out_channels, out_channels, block, stride=block, padding=margin, groups=out_channels, bias=bias
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else nn.Identity()
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Reduce, project, bring back.

        Args:
            x: shape (images, in_channels, rows, columns).

        Returns:
            Shape (images, out_channels, rows, columns), as large as the input.
        """
        projected = self.pointwise(self.down(x))
        y = self.norm(self.up(projected, output_size=(x.shape[2], x.shape[3])))
        activated: Tensor = self.activation(x + y if self.residual else y)
        return activated

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of one image.

        Args:
            height: rows of the input.
            width: its columns.

        Returns:
            What torch's flop counter finds, halved: all products of whole blocks.
        """
        rows, columns = self.window.output_size(height, width)
        return (
            layer_macs(self.down, height, width)
            + layer_macs(self.pointwise, rows, columns)
            + self.up.weight.numel() * rows * columns
        )

    def extra_repr(self) -> str:
        """The constructor's arguments, for printing.

        Returns:
            As they would be written in code; norm, activation and projection show as submodules.
        """
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.window.kernel_size}, "
            f"padding={self.window.padding}, bias={self.up.bias is not None}, residual={self.residual}"
        )
