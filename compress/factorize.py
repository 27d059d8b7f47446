"""Runs a plan over a network, layer by layer, shallow to deep, each on the compressed prefix."""

import time
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from cnncompress.arrays import to_array, to_tensor
from cnncompress.decompositions import Factors, make
from cnncompress.distributed.world import ALONE, World
from cnncompress.errors import NumericsError
from cnncompress.events import LayerDone, Reporter, silent
from cnncompress.gather import Context, responses_of
from cnncompress.inspect import LayerInfo
from cnncompress.layers.channel_order import ChannelOrder
from cnncompress.plan import LayerPlan
from cnncompress.responses import Responses
from cnncompress.solvers import Array


def factorize_(
    model: nn.Module,
    layers: Sequence[LayerInfo],
    plans: Sequence[LayerPlan],
    context: Context | None,
    report: Reporter = silent,
) -> dict[str, Factors]:
    """Replace the planned layers of a network, in place.

    Of several processes the first one solves, and the others get its factors; layers whose solution looks at
    nothing but their weights are spread over all of them.

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
    world = context.world if context is not None else ALONE
    backend = context.backend if context is not None else "numpy"
    solved = _solved_apart(model, described, plans, world, backend)
    found: dict[str, Factors] = {}
    for plan in plans:
        if plan.method == "none":
            report(LayerDone(plan.name, plan.method, (), None, plan.reason))
            continue
        layer = described[plan.name]
        method = make(plan.method, plan.options)
        responses = None
        if context is not None and method.needs_data:
            responses = responses_of(layer, method, plan.ranks, context)
        begun = time.perf_counter()
        factors = solved.get(plan.name)
        if factors is None:
            factors = world.first(lambda: solve(model, layer, plan, responses, backend))  # noqa: B023  # called at once
        put_(model, layer, plan, factors)
        found[plan.name] = factors
        error, seconds = factors.errors.get(factors.chosen), time.perf_counter() - begun
        report(LayerDone(plan.name, plan.method, plan.ranks, error, plan.reason, seconds))
    return found


def _solved_apart(
    model: nn.Module,
    described: Mapping[str, LayerInfo],
    plans: Sequence[LayerPlan],
    world: World,
    backend: Literal["numpy", "cupy"],
) -> dict[str, Factors]:
    """What doesn't depend on the layers before, solved side by side where there are several processes."""
    if world.is_alone:
        return {}
    apart = [
        plan for plan in plans if plan.method != "none" and not make(plan.method, plan.options).needs_data
    ]
    factors = world.each(apart, lambda plan: solve(model, described[plan.name], plan, None, backend))
    return {plan.name: each for plan, each in zip(apart, factors, strict=True)}


def solve(
    model: nn.Module,
    layer: LayerInfo,
    plan: LayerPlan,
    responses: Responses | None,
    backend: Literal["numpy", "cupy"],
) -> Factors:
    """Fit one layer's replacement.

    Args:
        model: holds the layer.
        layer: description of the layer.
        plan: method and ranks.
        responses: of the layer; None if the method needs no data.
        backend: library of the solvers.

    Returns:
        The factors, as arrays.
    """
    method = make(plan.method, plan.options)
    module = model.get_submodule(layer.name)
    assert isinstance(module, nn.Conv2d | nn.Linear)
    weight, bias = _weight_and_bias(module)
    return method.fit(layer, to_array(weight, backend), to_array(bias, backend), responses, plan.ranks)


def put_(model: nn.Module, layer: LayerInfo, plan: LayerPlan, factors: Factors) -> None:
    """Put a layer's replacement in the layer's place.

    Args:
        model: changed in place.
        layer: description of the layer.
        plan: method and ranks.
        factors: of the replacement.

    Raises:
        NumericsError: the solution holds NaN or infinity.
    """
    method = make(plan.method, plan.options)
    module = model.get_submodule(layer.name)
    assert isinstance(module.weight, Tensor)
    replacement = method.build(layer, plan.ranks)
    load_(replacement, factors, like=module.weight)
    if not all(bool(torch.isfinite(p).all()) for p in replacement.parameters()):
        raise NumericsError(f"{layer.name}: {plan.method} gave NaN or infinity at ranks {plan.ranks}")
    model.set_submodule(layer.name, replacement.eval())


def _weight_and_bias(module: nn.Conv2d | nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight as (out, in, kh, kw) and bias, at least in float32: solutions of half precision are poor."""
    weight = module.weight.detach()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()
    if weight.ndim == 2:
        weight = weight[:, :, None, None]
    bias = module.bias.detach().to(weight.dtype) if module.bias is not None else weight.new_zeros(len(weight))
    return weight, bias


def load_(replacement: nn.Sequential, factors: Factors, *, like: Tensor) -> None:
    """Copy solved factors into a replacement, whose type and device become those of ``like``.

    Fewer components than planned (a rank-deficient response has no more) are filled with zeros.

    Args:
        replacement: from the method's ``build``; changed in place.
        factors: from its ``fit``.
        like: gives type and device.
    """
    replacement.to(device=like.device, dtype=like.dtype)
    owned = [dict(module.named_parameters(recurse=False)) for module in replacement.modules()]
    weighted = [parameters for parameters in owned if "weight" in parameters]
    biases = [parameters["bias"] for parameters in weighted if "bias" in parameters]
    permuting = [module for module in replacement if isinstance(module, ChannelOrder)]
    with torch.no_grad():
        for parameters, weight in zip(weighted, factors.weights, strict=True):
            kept, solved = parameters["weight"], to_tensor(weight, like)
            solved = solved.reshape(solved.shape[: kept.ndim])
            kept.zero_()
            kept[tuple(slice(0, size) for size in solved.shape)] = solved
        for kept, bias in zip(biases, (*factors.inner_biases, factors.bias), strict=True):
            kept.copy_(to_tensor(bias, like))
        for permutation, order in zip(permuting, factors.orders, strict=True):
            permutation.order.copy_(torch.from_numpy(order))


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
