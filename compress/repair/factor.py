"""The last factor of a replacement: which module it is, and how the response follows from its output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.inspect import LayerInfo


@dataclass(frozen=True, eq=False)
class LastFactor:
    """The last module with weights of a replacement, whose output is the response but for what is added.

    Attributes:
        module: within the replacement.
        order: response channel ``i`` is the factor's channel ``order[i]``, plus what else is added to it (a
            residual), shape (channels,).
        layer: describes it as if it were a layer of the network, on the grid of the response; None if its
            weights can't be refitted.
        obstacle: why they can't; empty if they can.
    """

    module: nn.Module
    order: Tensor
    layer: LayerInfo | None
    obstacle: str = ""


@dataclass(frozen=True)
class Run:
    """What a replacement did on some images.

    Attributes:
        read: input of its last factor.
        given: output of its last factor.
        response: output of the replacement.
    """

    read: Tensor
    given: Tensor
    response: Tensor


def find_last_factor(replacement: nn.Module, layer: LayerInfo) -> LastFactor | str:
    """Look for the last factor by running a replacement.

    Two runs with opposite outputs put in place of the factor's tell whether the response is that output, its
    channels in another order, plus something that doesn't depend on it. So nothing is assumed of how the
    replacement is built.

    Args:
        replacement: in evaluation mode; left as it was.
        layer: that it replaced.

    Returns:
        The factor, or why there is none whose bias could be corrected.
    """
    copy = deepcopy(replacement).double()  # whole numbers must stay whole
    image = _example(copy, layer)
    names, read, shape = _runs(copy, image)
    if not names:
        return "it has no weights"
    name = names[-1]
    if names.count(name) > 1:
        return "its last factor runs more than once"
    order = _order(copy, name, image)
    if order is None:
        return "what follows its last factor isn't a sum or an order of channels"
    module = replacement.get_submodule(name)
    if not isinstance(getattr(module, "bias", None), Tensor):
        return "its last factor has no bias"
    if type(module) not in {nn.Conv2d, nn.Linear}:
        return LastFactor(module, order, None, f"its last factor is a {type(module).__name__}")
    return LastFactor(module, order, _as_layer(module, layer, read, shape))


def run(replacement: nn.Module, factor: LastFactor, inputs: Tensor) -> Run:
    """Run a replacement and look at its last factor.

    Args:
        replacement: in evaluation mode.
        factor: of it.
        inputs: of the layer.

    Returns:
        What was seen.
    """
    caught: list[tuple[Tensor, Tensor]] = []

    def catch(module: nn.Module, read: tuple[Tensor, ...], given: Tensor) -> None:
        caught.append((read[0], given.clone()))  # what follows may work in place

    with _hooked(factor.module, catch), torch.inference_mode():
        response = replacement(inputs)
    return Run(*caught[0], response)


def _example(copy: nn.Module, layer: LayerInfo) -> Tensor:
    reference = next((p for p in copy.parameters()), torch.zeros((), dtype=torch.float64))
    shape = (layer.in_channels,) if layer.kind == "linear" else (layer.in_channels, *layer.input_size)
    return reference.new_zeros(1, *shape)


def _runs(copy: nn.Module, image: Tensor) -> tuple[list[str], tuple[int, int], tuple[int, ...]]:
    """Names of the modules with weights as they run, and the last one's input grid and output shape."""
    seen: list[tuple[str, tuple[int, int], tuple[int, ...]]] = []

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, read: tuple[Tensor, ...], given: Tensor) -> None:
            grid = (read[0].shape[-2], read[0].shape[-1]) if read[0].ndim == 4 else (1, 1)
            seen.append((name, grid, tuple(given.shape)))

        return hook

    weighted = [
        (n, m) for n, m in copy.named_modules() if next(m.parameters(recurse=False), None) is not None
    ]
    handles = [module.register_forward_hook(note(name)) for name, module in weighted]
    try:
        with torch.inference_mode():
            copy(image)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, _, _ in seen], *(seen[-1][1:] if seen else ((1, 1), ()))


def _order(copy: nn.Module, name: str, image: Tensor) -> Tensor | None:
    """Which of the factor's channels each channel of the response is; None if it isn't one of them."""
    axis = -1 if image.ndim == 2 else 1
    responses = []
    for sign in (1, -1):

        def numbered(module: nn.Module, read: tuple[Tensor, ...], given: Tensor, sign: int = sign) -> Tensor:
            numbers = torch.arange(1, given.shape[axis] + 1, dtype=given.dtype, device=given.device)
            return (sign * numbers).view(-1, *[1] * (given.ndim - 2)).expand_as(given).clone()

        with _hooked(copy.get_submodule(name), numbered), torch.inference_mode():
            responses.append(copy(image))
    numbers: Tensor = ((responses[0] - responses[1]) / 2).transpose(axis, -1).flatten(0, -2)
    first = numbers[0].round()
    known = torch.equal(first.sort().values, torch.arange(1, len(first) + 1, dtype=first.dtype).to(first))
    if not known or bool(((numbers - first).abs() > 1e-6).any()):
        return None
    return first.long() - 1


def _as_layer(
    module: nn.Module, layer: LayerInfo, read: tuple[int, int], shape: tuple[int, ...]
) -> LayerInfo:
    if isinstance(module, nn.Linear):
        return replace(layer, in_channels=module.in_features, out_channels=module.out_features)
    assert isinstance(module, nn.Conv2d)
    padding: Any = module.padding if isinstance(module.padding, str) else tuple(module.padding)
    mode: Any = module.padding_mode
    return replace(
        layer,
        in_channels=module.in_channels,
        out_channels=module.out_channels,
        kernel_size=(module.kernel_size[0], module.kernel_size[1]),
        stride=(module.stride[0], module.stride[1]),
        padding=padding,
        dilation=(module.dilation[0], module.dilation[1]),
        groups=module.groups,
        padding_mode=mode,
        input_size=read,
        output_size=(shape[-2], shape[-1]),
    )


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
