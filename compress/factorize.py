"""Runs a plan over a network, layer by layer, shallow to deep, each on the compressed prefix."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from cnncompress.arrays import to_array, to_tensor
from cnncompress.calibration import Calibration
from cnncompress.decompositions import Factors, make
from cnncompress.errors import DataError, NumericsError
from cnncompress.events import LayerDone, Reporter, silent
from cnncompress.inspect import LayerInfo
from cnncompress.layers.channel_order import ChannelOrder
from cnncompress.plan import LayerPlan
from cnncompress.prefix import Prefix
from cnncompress.responses import Responses, Samples
from cnncompress.solvers import Array


@dataclass(frozen=True, kw_only=True)
class Context:
    """What stays the same for all layers of a run.

    Attributes:
        calibration: what is known of the original network.
        prefix: runs the network that is being compressed.
        holdout: share of the images that judge and are not fitted.
        seed: draws those images.
        backend: library of the solvers.
    """

    calibration: Calibration
    prefix: Prefix
    holdout: float
    seed: int
    backend: Literal["numpy", "cupy"]


def held_out_images(indices: Sequence[int], *, share: float, seed: int) -> frozenset[int]:
    """The images that judge: drawn by the seed, at least one, and at least one is left to fit.

    Args:
        indices: positions of the readable images in the list of all.
        share: between 0 and 1.
        seed: of the run.

    Returns:
        Positions of the held-out images.

    Raises:
        DataError: there are fewer than two images.
    """
    if len(indices) < 2:
        raise DataError(
            f"{len(indices)} calibration image can't be split into fitted and held-out ones; give at least 2"
        )
    count = min(max(1, round(share * len(indices))), len(indices) - 1)
    drawn = np.random.default_rng((seed, 1)).choice(np.sort(indices), count, replace=False)
    return frozenset(int(i) for i in drawn)


def factorize_(
    model: nn.Module,
    layers: Sequence[LayerInfo],
    plans: Sequence[LayerPlan],
    context: Context | None,
    report: Reporter = silent,
) -> dict[str, Factors]:
    """Replace the planned layers of a network, in place.

    Args:
        model: the original network's copy, BatchNorm folded; each layer is replaced as soon as it is
            solved, so that the next one sees the compressed prefix.
        layers: description of the layers.
        plans: what happens to each, in the order of execution.
        context: where responses come from; None if no planned method needs data.
        report: receives a `LayerDone` for each layer.

    Returns:
        What the fit of each replaced layer found.
    """
    described = {layer.name: layer for layer in layers}
    found: dict[str, Factors] = {}
    for plan in plans:
        if plan.method == "none":
            report(LayerDone(plan.name, plan.method, (), None, plan.reason))
            continue
        layer = described[plan.name]
        needs_data = make(plan.method, plan.options).needs_data
        responses = responses_of(layer, context) if context is not None and needs_data else None
        begun = time.perf_counter()
        factors = replace_layer_(
            model, layer, plan, responses, context.backend if context is not None else "numpy"
        )
        found[plan.name] = factors
        error, seconds = factors.errors.get(factors.chosen), time.perf_counter() - begun
        report(LayerDone(plan.name, plan.method, plan.ranks, error, plan.reason, seconds))
    return found


def replace_layer_(
    model: nn.Module,
    layer: LayerInfo,
    plan: LayerPlan,
    responses: Responses | None,
    backend: Literal["numpy", "cupy"],
) -> Factors:
    """Fit one layer's replacement and put it in the layer's place.

    Args:
        model: changed in place.
        layer: description of the layer.
        plan: method and ranks.
        responses: of the layer; None if the method needs no data.
        backend: library of the solvers.

    Returns:
        The factors, as arrays.

    Raises:
        NumericsError: the solution holds NaN or infinity.
    """
    method = make(plan.method, plan.options)
    module = model.get_submodule(layer.name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    weight, bias = _weight_and_bias(module)
    factors = method.fit(layer, to_array(weight, backend), to_array(bias, backend), responses, plan.ranks)
    replacement = method.build(layer, plan.ranks)
    load_(replacement, factors, like=module.weight)
    if not all(bool(torch.isfinite(p).all()) for p in replacement.parameters()):
        raise NumericsError(f"{layer.name}: {plan.method} gave NaN or infinity at ranks {plan.ranks}")
    model.set_submodule(layer.name, replacement.eval())
    return factors


def _weight_and_bias(module: nn.Conv2d | nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight as (out, in, kh, kw) and bias, at least in float32: solutions of half precision are poor."""
    weight = module.weight.detach()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()
    if weight.ndim == 2:
        weight = weight[:, :, None, None]
    bias = module.bias.detach().to(weight.dtype) if module.bias is not None else weight.new_zeros(len(weight))
    return weight, bias


def responses_of(layer: LayerInfo, context: Context) -> Responses:
    """Targets from the original network and patches from the compressed prefix, at the same places.

    Args:
        layer: the layer.
        context: where they come from.

    Returns:
        Responses as arrays of the solvers' library.
    """
    collector = context.calibration.collector
    sampler = collector.sampler(layer.name)
    judges = held_out_images(collector.indices, share=context.holdout, seed=context.seed)
    patches: dict[bool, list[Tensor]] = {False: [], True: []}
    held_out: list[Tensor] = []
    for indices, inputs in context.prefix.inputs_of(layer.name):
        found = sampler.patches(inputs, indices)
        judging = torch.tensor([index in judges for index in indices], device=found.device)
        held_out.append(judging.repeat_interleave(found.shape[1] // len(indices)))
        for which in (False, True):
            patches[which].append(found[:, held_out[-1] == which])
    target, judged = collector.take_samples(layer.name), torch.cat(held_out)
    backend = context.backend

    def samples(which: bool) -> Samples:
        taken = torch.cat(patches.pop(which), dim=1)
        return Samples(to_array(target[:, judged == which], backend), to_array(taken, backend))

    statistics = context.calibration.statistics(layer.name, backend)
    assert statistics is not None
    return Responses(statistics, samples(False), samples(True), layer.activation)


def load_(replacement: nn.Sequential, factors: Factors, *, like: Tensor) -> None:
    """Copy solved factors into a replacement, whose type and device become those of ``like``.

    Fewer components than planned (a rank-deficient response has no more) are filled with zeros.

    Args:
        replacement: from the method's ``build``; changed in place.
        factors: from its ``fit``.
        like: gives type and device.
    """
    replacement.to(device=like.device, dtype=like.dtype)
    weighted = [module for module in replacement if isinstance(module, nn.Conv2d | nn.Linear)]
    permuting = [module for module in replacement if isinstance(module, ChannelOrder)]
    with torch.no_grad():
        for layer, weight in zip(weighted, factors.weights, strict=True):
            solved = to_tensor(weight, like)
            solved = solved.reshape(solved.shape[: layer.weight.ndim])
            layer.weight.zero_()
            layer.weight[tuple(slice(0, size) for size in solved.shape)] = solved
        for permutation, order in zip(permuting, factors.orders, strict=True):
            permutation.order.copy_(torch.from_numpy(order))
        assert weighted[-1].bias is not None
        weighted[-1].bias.copy_(to_tensor(factors.bias, like))


def originals(model: nn.Module, names: Sequence[str]) -> Mapping[str, tuple[Array, Array]]:
    """Weights and biases of layers as NumPy arrays.

    Args:
        model: the network.
        names: of the layers.

    Returns:
        For each layer the weight (out, in, kh, kw) and the bias (out,).
    """
    found = {}
    for name in names:
        module = model.get_submodule(name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        weight, bias = _weight_and_bias(module)
        found[name] = (to_array(weight, "numpy"), to_array(bias, "numpy"))
    return found
