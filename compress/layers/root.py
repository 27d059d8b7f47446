"""The root module: a grouped convolution and a projection that mixes its groups."""

from torch import Tensor, nn

from cnncompress.errors import OptionError
from cnncompress.layers.costs import layer_macs
from cnncompress.layers.window import Pair, Window, check_channels


class RootModule2d(nn.Module):
    """pointwise(activation(norm(grouped(x)))).

    Filters of the grouped convolution see only their group's channels, and the 1 x 1 convolution after it
    combines all groups. Ioannou et al., "Deep Roots: Improving CNN Efficiency with Hierarchical Filter
    Groups", https://arxiv.org/abs/1605.06489, section 3.

    Its multiply-accumulates a pixel are
    ``hidden * (in_channels / groups * kernel positions + out_channels)``.

    The submodule ``grouped`` holds the filters, shape (hidden, in_channels / groups, kernel rows, kernel
    columns); ``norm`` a BatchNorm2d or Identity; ``activation`` a ReLU or Identity; ``pointwise`` the
    projection.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: rows and columns of the filters.
        stride: of the filters.
        padding: of the input; a number, ``"same"`` or ``"valid"``.
        dilation: of the filters.
        groups: parts that input and hidden channels fall into.
        bias: whether the projection has one, and the filters too where a rectifier but no norm follows them:
            otherwise theirs would do what a later one does.
        padding_mode: as in torch's Conv2d.
        hidden: channels between the two; None for out_channels.
        norm: whether BatchNorm follows the filters.
        activation: whether the hidden channels are rectified.

    Raises:
        OptionError: an argument is out of its range, or the groups don't divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        hidden: int | None = None,
        norm: bool = False,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.hidden = out_channels if hidden is None else hidden
        check_channels(in_channels=in_channels, out_channels=out_channels, hidden=self.hidden, groups=groups)
        if in_channels % groups or self.hidden % groups:
            valid = [g for g in range(1, in_channels + 1) if in_channels % g == 0 == self.hidden % g]
            raise OptionError(
                f"groups must divide in_channels {in_channels} and hidden {self.hidden}, got {groups}; "
                f"valid: {', '.join(map(str, valid))}"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.window = Window.of(kernel_size, stride, padding, dilation, padding_mode)
        self.grouped = self.window.convolution(
            in_channels, self.hidden, groups=groups, bias=bias and activation and not norm
        )
        self.norm = nn.BatchNorm2d(self.hidden) if norm else nn.Identity()
        self.activation = nn.ReLU() if activation else nn.Identity()
        self.pointwise = nn.Conv2d(self.hidden, out_channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: shape (images, in_channels, rows, columns).

        Returns:
            Shape (images, out_channels, rows, columns), sized as by Conv2d.
        """
        y: Tensor = self.pointwise(self.activation(self.norm(self.grouped(x))))
        return y

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates of one image.

        Args:
            height: rows of the input.
            width: its columns.

        Returns:
            What torch's flop counter finds, halved.
        """
        filters = layer_macs(self.grouped, height, width)
        return filters + layer_macs(self.pointwise, *self.window.output_size(height, width))

    def extra_repr(self) -> str:
        """The constructor's arguments, for printing.

        Returns:
            As they would be written in code; norm and activation show as submodules.
        """
        return (
            f"{self.in_channels}, {self.out_channels}, {self.window.arguments()}, groups={self.groups}, "
            f"bias={self.pointwise.bias is not None}, hidden={self.hidden}"
        )
