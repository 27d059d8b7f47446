"""What an error of each layer's responses costs the network's output, to second order.

A random cotangent of the output, drawn so that its mean outer product is the metric of the output's loss,
is sent back to all layers at once. The second moments of what arrives tell the loss of any small error of a
layer whose positions err independently: tr(G E[e eᵀ]), the block-diagonal Gauss-Newton approximation shared
over positions as in https://arxiv.org/abs/1602.01407 (section 3).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors

from cnncompress.distortion.frozen import frozen_copy
from cnncompress.distortion.output_loss import OutputLoss, output_tensors
from cnncompress.errors import DataError, ModelError, NumericsError, OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import Batch, ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.memory_layout import layout_of
from cnncompress.sampling import at_least_float32, flatten_positions

_BATCH = 4  # all layers' responses are alive until the backward pass
_CHUNK = 65_536  # positions whose products are summed in float32 before they go to float64


def gradient_moments(
    original: nn.Module,
    layers: Sequence[LayerInfo],
    source: ImageSource,
    *,
    images: int = 64,
    seed: int = 0,
    labels: bool = False,
    batch_size: int = _BATCH,
    report: Reporter = silent,
) -> dict[str, NDArray[np.float64]]:
    """Second moments of the output loss's gradients by each layer's responses.

    The loss is that of `OutputLoss`: nats of divergence for class scores, else a share of the output's
    energy.

    Args:
        original: left as it was, run in evaluation mode.
        layers: whose responses are asked about.
        source: the images, drawn evenly from its list; those that can't be read are left out.
        images: how many are differentiated; all if there are fewer.
        seed: of the random cotangents, which depend on the images' positions too but not on the batches.
        labels: take the images' own classes instead of drawn ones where the source has them.
        batch_size: images differentiated at a time.
        report: receives the progress.

    Returns:
        For each layer's name G of shape (out_channels, out_channels): mean over the images of the sum over
        the positions of g gᵀ, scaled such that tr(G E[e eᵀ]), E over positions of the response's error e,
        is the loss.

    Raises:
        OptionError: a number below 1.
        DataError: no image could be read.
        NumericsError: a gradient is NaN or infinite, or the output is zero everywhere.
    """
    for name, value in (("images", images), ("batch_size", batch_size)):
        if value < 1:
            raise OptionError(f"output gradients: {name} must be at least 1, got {value}")
    if not layers:
        return {}
    stage, begun = "gradients", time.perf_counter()
    total = len(source)
    wanted = min(images, total)
    order = [place * total // wanted for place in range(wanted)]
    report(StageStarted(stage, wanted))
    weight, loss = 0.0, None
    # the caller may have switched gradients off
    with torch.inference_mode(False), torch.enable_grad():
        network = frozen_copy(original)
        sums = _GradientSums(network, layers)
        layout = layout_of(original)
        for batch in source.batches(batch_size, order):
            # networks that only ever ran forward may overwrite what their backward pass needs
            with allow_mutation_on_saved_tensors():
                output = sums.forward(batch.images, layout)
                loss = loss or OutputLoss.of(output)
                sums.backward(output, _cotangents(loss, output, batch, seed=seed, labels=labels))
            weight += loss.weight(output, len(batch.images))
            report(StageAdvanced(stage, len(batch.images)))
    if loss is None:
        raise DataError(f"no image could be read from {source.description}")
    found = sums.finished(network)
    if weight <= 0:
        raise NumericsError(
            "the network's output is zero on all images, so no error of it can be told; "
            "check the weights and the preprocessing"
        )
    report(StageDone(stage, time.perf_counter() - begun))
    return {name: outer * (loss.curvature / weight) for name, outer in found.items()}


def _cotangents(loss: OutputLoss, output: Any, batch: Batch, *, seed: int, labels: bool) -> list[Tensor]:
    known = batch.labels.tolist() if labels and batch.labels is not None else None
    return loss.cotangents(output, batch.indices.tolist(), seed=seed, labels=known)


class _GradientSums:
    """Sums of outer products of the gradients that reach each layer's responses."""

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo]) -> None:
        self._network = network
        self._sums: dict[str, Tensor] = {}
        self._widths = {layer.name: layer.out_channels for layer in layers}
        self._reference = next(network.parameters())
        for layer in layers:
            network.get_submodule(layer.name).register_forward_hook(self._follow(layer))

    def forward(self, images: Tensor, layout: torch.memory_format) -> Any:
        # a copy: the network may begin with a function that works in place
        ready = images.clone().to(self._reference.device, self._reference.dtype, memory_format=layout)
        return self._network(ready)

    def backward(self, output: Any, cotangents: Sequence[Tensor]) -> None:
        parts = output_tensors(output, len(cotangents[0]))
        pairs = [pair for pair in zip(parts, cotangents, strict=True) if pair[0].requires_grad]
        if not pairs:
            raise ModelError(
                "the network's output can't be differentiated by its layers' responses, which the loss "
                "metric needs; use the response metric instead"
            )
        torch.autograd.backward([part for part, _ in pairs], [cotangent for _, cotangent in pairs])

    def finished(self, network: nn.Module) -> Mapping[str, NDArray[np.float64]]:
        found = {
            name: self._sums[name].cpu().numpy() if name in self._sums else np.zeros((width, width))
            for name, width in self._widths.items()
        }
        broken = [name for name, outer in found.items() if not np.isfinite(outer).all()]
        if broken:
            raise NumericsError(
                f"{_culprit(network, broken)}: gradients of the output by its responses hold NaN or "
                "infinity; check the weights and the preprocessing"
            )
        return found

    def _follow(self, layer: LayerInfo) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def follow(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            del module, inputs
            # nothing before the first layers needs a gradient
            begun = output if output.requires_grad else output.detach().requires_grad_()
            # a copy, because neither a leaf nor a view tells its gradient once it is overwritten in place
            response = begun.clone()
            response.register_hook(partial(self._add, layer))  # type: ignore[no-untyped-call]
            return response

        return follow

    def _add(self, layer: LayerInfo, gradient: Tensor) -> None:
        rows = at_least_float32(flatten_positions(layer, gradient).flatten(0, 1))
        for chunk in torch.split(rows, _CHUNK):
            outer = (chunk.T @ chunk).double()
            known = self._sums.get(layer.name)
            self._sums[layer.name] = outer if known is None else known.add_(outer)


def _culprit(network: nn.Module, broken: Sequence[str]) -> str:
    """The layer to blame for NaN, which from anywhere reaches the gradients of every layer."""
    causes = (
        name
        for name in broken
        if not all(bool(torch.isfinite(one).all()) for one in network.get_submodule(name).parameters())
    )
    return next(causes, broken[0])
