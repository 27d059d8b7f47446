"""How much each weight sways the network towards its most probable mistakes (Denton et al., eq. 2).

Linear Structure Within Convolutional Networks, https://arxiv.org/abs/1404.0736. The paper's gradient of
"prediction less Dirac" is read as a vector-Jacobian product: softmax(scores) - onehot(l), the gradient of
the cross-entropy against a wrong label l by the scores, is sent back to the weights.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnncompress.errors import DataError, ModelError, NumericsError, OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import Batch, ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.memory_layout import layout_of
from cnncompress.sampling import at_least_float32

_BATCH = 8  # images read at a time; they are differentiated one by one


def sensitivities(
    model: nn.Module,
    layers: Sequence[LayerInfo],
    source: ImageSource,
    *,
    images: int = 32,
    wrong_labels: int = 5,
    report: Reporter = silent,
) -> dict[str, Tensor]:
    """Mean squared derivatives of the loss against the most probable wrong labels, by each weight.

    Wrong is every label but the image's own, or but the network's prediction where the source has none.

    Args:
        model: a classifier; left as it was, run in evaluation mode.
        layers: whose weights are asked about.
        source: the images, drawn evenly from its list.
        images: how many are differentiated; all if there are fewer.
        wrong_labels: how many of the most probable wrong labels; all if there are fewer.
        report: receives the progress.

    Returns:
        For each layer's name α² of shape (out_channels, in_channels of a group, kernel height, kernel
        width), float64, on the model's device.

    Raises:
        OptionError: a number below 1.
        DataError: no image could be read.
        NumericsError: a derivative is NaN or infinite.
    """
    for name, value in (("images", images), ("wrong_labels", wrong_labels)):
        if value < 1:
            raise OptionError(f"gradient weights: {name} must be at least 1, got {value}")
    if not layers:
        return {}
    stage, begun = "differentiate", time.perf_counter()
    report(StageStarted(stage, min(images, len(source))))
    totals: dict[str, Tensor] = {}
    count = 0
    # the caller may have switched gradients off
    with torch.inference_mode(False), torch.enable_grad(), _evaluating(model):
        weights, parameters = _differentiable(model, layers)
        for image, label in _drawn(source, images):
            scores = _scores(model, parameters, image)
            for wrong in _wrong_labels(scores, label, wrong_labels):
                count += 1
                for name, gradient in _gradients(scores, wrong, weights).items():
                    squared = gradient.double().square()
                    totals[name] = totals[name].add_(squared) if name in totals else squared
            report(StageAdvanced(stage))
    if not count:
        raise DataError(f"no image could be read from {source.description}")
    broken = _broken(totals, weights)
    if broken is not None:
        raise NumericsError(
            f"{broken}: derivatives by its weights hold NaN or infinity; "
            "check the weights and the preprocessing"
        )
    report(StageDone(stage, time.perf_counter() - begun))
    return {name: _as_kernel(total.div_(count)) for name, total in totals.items()}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, module by module as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _differentiable(
    model: nn.Module, layers: Sequence[LayerInfo]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The layers' weights as leaves of a graph of their own, and all parameters with these in them."""
    # the model's own parameters stay out of it: others may share them or have switched gradients off
    known = dict(model.named_parameters(remove_duplicate=False))
    # one leaf for each parameter, not for each of its names, so that tied ones stay tied
    leaves = {id(parameter): parameter.detach() for parameter in known.values()}
    weights = {layer.name: leaves[id(known[f"{layer.name}.weight"])] for layer in layers}
    for weight in weights.values():
        weight.requires_grad_()
    return weights, {name: leaves[id(parameter)] for name, parameter in known.items()}


def _drawn(source: ImageSource, images: int) -> Iterator[tuple[Tensor, int | None]]:
    """Evenly drawn images, since a list may be sorted by class; the next one for any that can't be read."""
    total = len(source)
    wanted = min(images, total)
    taken = 0
    for batch in source.batches(_BATCH):
        for row, index in enumerate(batch.indices.tolist()):
            if taken < wanted and index >= taken * total // wanted:
                taken += 1
                yield _one(batch, row)
        if taken == wanted:
            return


def _one(batch: Batch, row: int) -> tuple[Tensor, int | None]:
    # a copy: the network may begin with a function that works in place
    image = batch.images[row : row + 1].clone()
    return image, None if batch.labels is None else int(batch.labels[row])


def _scores(model: nn.Module, parameters: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """Class scores of one image, shape (classes,)."""
    reference = next(iter(parameters.values()))
    ready = image.to(reference.device, reference.dtype, memory_format=layout_of(model))
    output: Any = torch.func.functional_call(model, dict(parameters), (ready,))
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"the network ends in a feature map of {found}, but gradient weights need class scores of shape "
            "(images, classes) with at least 2 classes; use the data metric instead"
        )
    if not output.requires_grad:
        raise ModelError(
            "the network's scores can't be differentiated by these weights, which gradient weights need; "
            "use the data metric instead"
        )
    return at_least_float32(output[0])


def _wrong_labels(scores: Tensor, label: int | None, count: int) -> list[int]:
    """The most probable labels other than the right one."""
    classes = len(scores)
    right = int(scores.argmax()) if label is None else label
    if not 0 <= right < classes:
        raise DataError(
            f"an image has the label {right}, but the network has the classes 0 to {classes - 1}; "
            "give the labels in the network's numbering, or none"
        )
    order = scores.detach().argsort(descending=True, stable=True).tolist()
    return [other for other in order if other != right][:count]


def _gradients(scores: Tensor, wrong: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of the cross-entropy against one label."""
    upstream = scores.detach().softmax(0)
    upstream[wrong] -= 1
    found = torch.autograd.grad(
        scores, list(weights.values()), upstream, retain_graph=True, materialize_grads=True
    )
    return dict(zip(weights, found, strict=True))


def _broken(totals: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str | None:
    """The layer to blame for NaN, which from anywhere reaches the derivatives of every layer."""
    broken = [name for name, total in totals.items() if not bool(torch.isfinite(total).all())]
    causes = [name for name in broken if not bool(torch.isfinite(weights[name]).all())]
    return next(iter(causes or broken), None)


def _as_kernel(squared: Tensor) -> Tensor:
    return squared if squared.ndim == 4 else squared[:, :, None, None]
