"""The order in which a network's feature maps lie in memory.

Convolutions are faster with channels last, but some networks only run with whole channels one after the
other, for example those that flatten with ``view``.
"""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.errors import ModelError

CONTIGUOUS_NOTE = (
    "the network doesn't run in torch's channels_last memory format, or not to the same output, so it runs "
    "in the contiguous one, often slower; flattening with flatten or reshape instead of view may mend it"
)
"""What to tell the user where `faster_layout` finds the contiguous format."""


def faster_layout(model: nn.Module, input_size: tuple[int, int, int]) -> torch.memory_format:
    """Find the faster memory format in which a network does what it should, by running it.

    Args:
        model: left as it was; a copy runs in evaluation mode.
        input_size: channels, height and width of one input.

    Returns:
        ``torch.channels_last`` if the network runs in it and its output is that of the contiguous format to
        rounding, else ``torch.contiguous_format``.

    Raises:
        ModelError: the network runs in neither.
    """
    # layers of fewer axes are the same in both formats, and a copy of a large classifier takes memory
    shared = {id(parameter): parameter for parameter in model.parameters() if parameter.ndim < 4}
    copy = deepcopy(model, shared).eval()
    # one image alone may pass where more don't: an axis of length 1 can be viewed in any way
    for batch in (2, 1):
        plain = _attempt(copy, torch.contiguous_format, batch, input_size)
        fast = _attempt(copy, torch.channels_last, batch, input_size)
        if not isinstance(fast, Exception) and (isinstance(plain, Exception) or _agree(plain, fast)):
            return torch.channels_last
        if not isinstance(plain, Exception):
            return torch.contiguous_format
    assert isinstance(plain, Exception)
    reason = (str(plain).strip() or type(plain).__name__).splitlines()[0]
    raise ModelError(f"the network fails on an input of shape {(1, *input_size)}: {reason}") from plain


def layout_of(model: nn.Module) -> torch.memory_format:
    """Which memory format a network was put into by ``model.to(memory_format=...)``.

    It is read off the strides of the weights that have four axes, which tell even for kernels of 1 x 1 and
    for depthwise ones. Networks without any that can tell count as contiguous: in that format all run.

    Args:
        model: as it was put, before any layer was replaced.

    Returns:
        ``torch.channels_last`` or ``torch.contiguous_format``.
    """
    last = any(_is_channels_last(parameter) for parameter in model.parameters() if parameter.ndim == 4)
    return torch.channels_last if last else torch.contiguous_format


def _is_channels_last(weight: Tensor) -> bool:
    # is_contiguous ignores the strides of axes of length 1, so it takes 1 x 1 kernels for both
    plain, last = (
        torch.empty(weight.shape, device="meta", memory_format=layout).stride()
        for layout in (torch.contiguous_format, torch.channels_last)
    )
    return weight.stride() == last != plain


def _attempt(
    model: nn.Module, layout: torch.memory_format, batch: int, input_size: tuple[int, int, int]
) -> list[Tensor] | Exception:
    """The network's outputs for a few random images, or why there are none."""
    # zeros would hide it where values of a constant feature map are mixed up
    images = torch.rand(batch, *input_size, generator=torch.Generator().manual_seed(0))
    reference = next(model.parameters(), images)
    try:
        model.to(memory_format=layout)
        with torch.inference_mode():
            ready = images.to(reference.device, reference.dtype, memory_format=layout)
            return list(_tensors(model(ready)))
    except Exception as problem:  # the network's own code may raise anything
        return problem


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict | list | tuple):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


def _agree(expected: list[Tensor], found: list[Tensor]) -> bool:
    """Whether outputs are equal to rounding."""
    return len(expected) == len(found) and all(map(_equal_to_rounding, expected, found))


def _equal_to_rounding(expected: Tensor, found: Tensor) -> bool:
    if expected.shape != found.shape:
        return False
    if not expected.is_floating_point() or expected.numel() == 0:
        return torch.equal(expected, found)
    finite = expected[torch.isfinite(expected)]
    scale = float(finite.abs().max()) if len(finite) else 0.0
    # rounding adds up over the layers: half of the digits may be lost
    tolerance = scale * torch.finfo(expected.dtype).eps ** 0.5
    return torch.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)
