"""The arguments that the layers share with torch's Conv2d."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

from torch import Tensor, nn
from torch.nn import functional

from cnncompress.errors import OptionError

Pair = tuple[int, int]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class Window:
    """Where a kernel goes on a feature map.

    Attributes:
        kernel_size: rows and columns.
        stride: steps down and to the right.
        padding: rows above and below, columns left and right; ``"same"``, which keeps the size, only for even
            kernels, whose two sides need different numbers.
        dilation: distances of the kernel's taps.
        padding_mode: what the padding is made of.
    """

    kernel_size: Pair
    stride: Pair
    padding: Pair | str
    dilation: Pair
    padding_mode: PaddingMode

    @classmethod
    def of(
        cls,
        kernel_size: int | Pair,
        stride: int | Pair,
        padding: int | Pair | str,
        dilation: int | Pair,
        padding_mode: str,
    ) -> Self:
        """Check the arguments as they come from a caller.

        Args:
            kernel_size: one number for both axes, or one for each; the same holds for the next three.
            stride: at least 1.
            padding: at least 0, or ``"same"``, which keeps the size, or ``"valid"``, which is 0.
            dilation: at least 1.
            padding_mode: one of torch's.

        Returns:
            The window.

        Raises:
            OptionError: an argument is out of its range, or they don't go together.
        """
        modes = get_args(PaddingMode)
        if padding_mode not in modes:
            raise OptionError(f"padding_mode must be one of {', '.join(modes)}, got {padding_mode!r}")
        if isinstance(padding, str):
            if padding not in {"same", "valid"}:
                raise OptionError(f"padding must be a number, 'same' or 'valid', got {padding!r}")
            if padding == "same" and pair("stride", stride) != (1, 1):
                raise OptionError(f"padding='same' needs stride 1, got {stride}; give a number instead")
        kernel, steps, taps = (
            pair("kernel_size", kernel_size),
            pair("stride", stride),
            pair("dilation", dilation),
        )
        if padding == "valid":
            padding = 0
        elif padding == "same":
            whole = taps[0] * (kernel[0] - 1), taps[1] * (kernel[1] - 1)
            if whole[0] % 2 == whole[1] % 2 == 0:
                padding = whole[0] // 2, whole[1] // 2
        margin = padding if isinstance(padding, str) else pair("padding", padding, least=0)
        return cls(kernel, steps, margin, taps, cast("PaddingMode", padding_mode))

    @property
    def keeps_size(self) -> bool:
        """Whether the output has as many rows and columns as the input."""
        above, below, left, right = self._margins
        return self.stride == (1, 1) and (above + below + 1, left + right + 1) == self._extent

    def output_size(self, height: int, width: int) -> Pair:
        """Rows and columns of the output.

        Args:
            height: rows of the input.
            width: its columns.

        Returns:
            The two numbers.

        Raises:
            OptionError: the input is smaller than the kernel.
        """
        above, below, left, right = self._margins
        tall, wide = self._extent
        rows, columns = height + above + below - tall, width + left + right - wide
        if min(rows, columns) < 0:
            raise OptionError(
                f"an input of {height} x {width} is too small for a kernel of extent "
                f"{tall} x {wide} with padding {self.padding}"
            )
        return rows // self.stride[0] + 1, columns // self.stride[1] + 1

    def convolution(
        self, in_channels: int, out_channels: int, *, groups: int = 1, bias: bool = True
    ) -> nn.Conv2d:
        """Torch's layer with this window.

        Args:
            in_channels: of the input.
            out_channels: of the output.
            groups: independent parts.
            bias: whether it has one.

        Returns:
            The layer, initialised as torch does.
        """
        return nn.Conv2d(
            in_channels,
            out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            groups,
            bias,
            self.padding_mode,
        )

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int = 1) -> Tensor:
        """Convolve with a given weight.

        Args:
            x: shape (images, channels, rows, columns).
            weight: shape (outputs, channels / groups, kernel rows, kernel columns).
            bias: shape (outputs,).
            groups: independent parts.

        Returns:
            Shape (images, outputs, rows, columns).
        """
        above, below, left, right = self._margins
        if self.padding_mode == "zeros" and (above, left) == (below, right):
            return functional.conv2d(x, weight, bias, self.stride, (above, left), self.dilation, groups)
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        padded = functional.pad(x, (left, right, above, below), mode)
        return functional.conv2d(padded, weight, bias, self.stride, 0, self.dilation, groups)

    def arguments(self) -> str:
        """For printing.

        Returns:
            The arguments as they would be written in code, without those that are torch's defaults.
        """
        parts = [f"kernel_size={self.kernel_size}", f"stride={self.stride}"]
        if self.padding != (0, 0):
            parts.append(f"padding={self.padding!r}")
        if self.dilation != (1, 1):
            parts.append(f"dilation={self.dilation}")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        return ", ".join(parts)

    @property
    def _extent(self) -> Pair:
        tall, wide = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return tall, wide

    @property
    def _margins(self) -> tuple[int, int, int, int]:
        # Above, below, left and right. Torch puts the odd one of "same" below and to the right.
        if self.padding == "same":
            tall, wide = self._extent
            return (tall - 1) // 2, tall // 2, (wide - 1) // 2, wide // 2
        assert not isinstance(self.padding, str)
        return self.padding[0], self.padding[0], self.padding[1], self.padding[1]


def pair(name: str, value: int | Pair, *, least: int = 1) -> Pair:
    """One number for each axis.

    Args:
        name: of the argument.
        value: one number for both axes, or two.
        least: smallest valid number.

    Returns:
        Two numbers.

    Raises:
        OptionError: it's neither, or too small.
    """
    both = tuple(value) if isinstance(value, Iterable) else (value, value)
    if len(both) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in both):
        raise OptionError(f"{name} must be a whole number of at least {least}, or two of them, got {value!r}")
    return both


def check_channels(**channels: int) -> None:
    """Refuse counts that can't be.

    Args:
        channels: argument names to numbers.

    Raises:
        OptionError: one isn't a whole number of at least 1.
    """
    for name, count in channels.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise OptionError(f"{name} must be a whole number of at least 1, got {count!r}")
