"""What each candidate of a layer would lose, from a few samples of the original network.

For splits that project a layer's patches and then regress its responses on them, one factorisation tells the
errors of all pairs of ranks. Any other method is fitted for real and run on the patches.
Either way the error is that of a linear fit on undisturbed inputs, before the activation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cnncompress.decompositions import Decomposition, Ranks, knows_option, make, options_of
from cnncompress.decompositions.projections import projected, projection_split
from cnncompress.decompositions.solutions import RIDGE
from cnncompress.factorize import load_
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Responses, Samples, Statistics
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.nested_regression import NestedRegression, least_errors, projection_errors

_ALONG = 16  # numbers of filters at which errors are counted, those between are interpolated
_BASES = 4  # of directions to truncate to, for all numbers of filters; each takes an eigendecomposition


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the candidates of one layer are judged by.

    Attributes:
        layer: the layer.
        weight: shape (out_channels, in_channels, kernel height, kernel width).
        bias: shape (out_channels,).
        fit: samples of the original network that are fitted.
        held_out: samples of other images, which judge.
        statistics: of the layer's responses.
        metric: of its response's errors, symmetric, shape (out_channels, out_channels).
    """

    layer: LayerInfo
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    fit: Samples
    held_out: Samples
    statistics: Statistics
    metric: NDArray[np.float64]


def candidate_losses(
    evidence: Evidence, candidates: Sequence[tuple[Decomposition, Ranks]]
) -> NDArray[np.float64]:
    """The loss of every candidate in the metric.

    Args:
        evidence: of the layer.
        candidates: methods with ranks.

    Returns:
        Mean squared errors, halfway between those on fitted and on held-out samples, shape (candidates,).
    """
    losses = np.empty(len(candidates))
    by_projection: dict[str | None, list[int]] = {}
    for place, (method, _) in enumerate(candidates):
        by_projection.setdefault(method.projection, []).append(place)
    for projection, places in by_projection.items():
        mine = [candidates[place] for place in places]
        if projection is None:
            losses[places] = [_of_fit(evidence, method, ranks) for method, ranks in mine]
        elif projection == "none":
            losses[places] = _of_projections(evidence, [rank for _, (rank,) in mine])
        else:
            losses[places] = _of_regressions(evidence, mine)
    return losses


def regressors(method: Decomposition, layer: LayerInfo, ranks: Ranks) -> int:
    """How many values the last map of a split reads.

    Args:
        method: any.
        layer: the layer.
        ranks: of the replacement.

    Returns:
        Their number; 0 for methods that aren't judged by a regression.
    """
    positions = {"vertical": layer.kernel_size[1], "pointwise": prod(layer.kernel_size)}
    return ranks[0] * positions.get(method.projection or "", 0)


def _of_projections(evidence: Evidence, ranks: Sequence[int]) -> list[float]:
    errors = projection_errors(evidence.fit.target, evidence.held_out.target, metric=evidence.metric)
    return least_errors(ranks, errors)


def _of_regressions(evidence: Evidence, candidates: Sequence[tuple[Decomposition, Ranks]]) -> list[float]:
    """Errors of methods that share one projection."""
    projection = candidates[0][0].projection
    assert projection is not None
    most, size = max(ranks[0] for _, ranks in candidates), evidence.layer.kernel_size
    filters, rest = projection_split(projection, evidence.weight, evidence.fit.patches, most)
    prior = rest.reshape(len(rest), -1)
    fit, held_out = (
        (projected(projection, filters, samples.patches, size), samples.target)
        for samples in (evidence.fit, evidence.held_out)
    )
    nested = NestedRegression.on(fit, held_out, prior=prior, metric=evidence.metric, ridge=RIDGE)
    per_filter = prior.shape[1] // len(filters)
    full = sorted({ranks[0] for method, ranks in candidates if not method.truncates})
    truncated = sorted({ranks[0] for method, ranks in candidates if method.truncates})
    at_full = _between(full, {n: nested.error(n * per_filter) for n in _spread(full, _ALONG)})
    bases = {n: nested.directions(n * per_filter) for n in _spread(truncated, _BASES)}
    of_all_ranks = {
        n: nested.errors(n * per_filter, bases[min(bases, key=lambda base: (abs(base - n), base))])
        for n in truncated
    }
    return [
        least_errors(ranks[1:], of_all_ranks[ranks[0]])[0] if method.truncates else at_full[ranks[0]]
        for method, ranks in candidates
    ]


def _spread(values: Sequence[int], count: int) -> list[int]:
    """Some of ascending values, the first and the last among them."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[place] for place in np.unique(places)]


def _between(values: Sequence[int], known: Mapping[int, float]) -> dict[int, float]:
    """Errors at all values, interpolated on a logarithmic scale."""
    if not values:
        return {}
    errors = np.log(np.maximum(list(known.values()), np.finfo(float).tiny))
    found = np.exp(np.interp(values, list(known), errors))
    return dict(zip(values, found.tolist(), strict=True))


def linear(method: Decomposition) -> Decomposition:
    """A method that settles for the linear solution: quick, and enough to compare by.

    Args:
        method: any.

    Returns:
        The same one without its nonlinear alternation, if it has one.
    """
    if not knows_option(method.name, "nonlinear"):
        return method
    return make(method.name, {**options_of(method), "nonlinear": False})


def fitted(evidence: Evidence, method: Decomposition, ranks: Ranks, layer: LayerInfo) -> nn.Sequential:
    """A candidate solved on the original network's samples.

    Args:
        evidence: of the layer.
        method: replaces it.
        ranks: of the replacement.
        layer: the geometry that the replacement is built for.

    Returns:
        The replacement with its weights.
    """
    moments = None
    if "moments" in method.needs:
        patches, target = (torch.from_numpy(part) for part in (evidence.fit.patches, evidence.fit.target))
        moments = JointMoments.of(patches, target).map(lambda tensor: tensor.numpy())
    responses = Responses(
        evidence.statistics, evidence.fit, evidence.held_out, evidence.layer.activation, moments
    )
    factors = linear(method).fit(
        evidence.layer, evidence.weight, evidence.bias, responses if method.needs_data else None, ranks
    )
    replacement = method.build(layer, ranks)
    load_(replacement, factors, like=torch.zeros((), dtype=torch.float32))
    return replacement.eval()


def _of_fit(evidence: Evidence, method: Decomposition, ranks: Ranks) -> float:
    layer = evidence.layer
    if layer.kind == "linear":
        alone = layer
        shape: tuple[int, ...] = (-1, layer.in_channels)
    else:
        # padding, stride and dilation are in the patches already
        alone = replace(
            layer,
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            padding_mode="zeros",
            input_size=layer.kernel_size,
            output_size=(1, 1),
        )
        shape = (-1, layer.in_channels, *layer.kernel_size)
    replacement = fitted(evidence, method, ranks, alone)
    errors = []
    for samples in (evidence.fit, evidence.held_out):
        with torch.inference_mode():
            patches = torch.from_numpy(np.ascontiguousarray(samples.patches.T)).reshape(shape)
            predicted = replacement(patches).flatten(1).double().numpy()
        difference = samples.target.T - predicted
        errors.append(float(((difference.T @ difference) * evidence.metric).sum() / len(difference)))
    return sum(errors) / 2
