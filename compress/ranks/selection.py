"""Energies and costs of a network's layers in, a plan with ranks out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnncompress.decompositions import Decomposition, check_ranks, fallback_of, options_of
from cnncompress.errors import BudgetError, ModelError, OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.plan import LayerPlan
from cnncompress.solvers.allocation import greedy_ranks, uniform_ranks
from cnncompress.solvers.joint_allocation import joint_ranks
from cnncompress.solvers.spatial_allocation import spatial_ranks
from cnncompress.solvers.splits import ChannelSplit, SpatialSplit, SplitRanks, UnreachableBudgetError

Rule = Literal["greedy", "uniform", "joint"]

# On VGG-16 the energy of the weight, whose split is refitted on responses, says little; 1 would all but
# forbid the split in three.
_SPATIAL_WEIGHT = 0.1

RULES: tuple[Rule, ...] = ("greedy", "uniform", "joint")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layer that may be replaced, and by what.

    Attributes:
        layer: the layer.
        method: replaces it.
        energies: for each rank of the method, the energy that each further rank adds, descending.
        step: ranks are multiples of this.
    """

    layer: LayerInfo
    method: Decomposition
    energies: tuple[NDArray[np.float64], ...]
    step: int = 1


def choose_methods(
    layers: Sequence[LayerInfo],
    method: Decomposition,
    *,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    include_linear: bool = False,
) -> tuple[dict[str, Decomposition], dict[str, str]]:
    """Which layers may be replaced and by what, and why the others stay.

    Args:
        layers: of the network, in the order of execution.
        method: asked for; where it doesn't fit, its fallback is tried.
        skip: patterns of layer names that stay.
        only: patterns of the layer names that may change; all if empty.
        include_linear: whether linear layers may change.

    Returns:
        A method for each candidate, and a reason for every other layer.

    Raises:
        OptionError: a pattern matches no layer.
        ModelError: nothing is left to replace.
    """
    for pattern in (*skip, *only):
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            known = ", ".join(layer.name for layer in layers[:8])
            raise OptionError(f"no layer is named like {pattern!r}; layers: {known}, …")
    chosen: dict[str, Decomposition] = {}
    reasons: dict[str, str] = {}
    for layer in layers:
        named = any(fnmatchcase(layer.name, pattern) for pattern in only)
        if any(fnmatchcase(layer.name, pattern) for pattern in skip):
            reasons[layer.name] = "skipped as asked"
        elif only and not named:
            reasons[layer.name] = "not among the layers asked for"
        elif not layer.eligible:
            reasons[layer.name] = layer.reason
        elif layer.kind == "linear" and not (include_linear or named):
            reasons[layer.name] = "a linear layer, outside the convolutions' budget"
        elif not named and (reason := _not_worthwhile(layer)):
            reasons[layer.name] = reason
        else:
            fitting, reason = _fitting(layer, method)
            if fitting is None:
                reasons[layer.name] = reason
            else:
                chosen[layer.name] = fitting
    if not chosen:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise ModelError(f"{method.name} can replace no layer of this network ({why or 'it has no layers'})")
    return chosen, reasons


def _not_worthwhile(layer: LayerInfo) -> str:
    if layer.in_channels <= 3 and layer.patch_size < layer.out_channels:
        return f"patches of {layer.patch_size} entries for {layer.out_channels} outputs: no rank to save"
    return ""


def _fitting(layer: LayerInfo, method: Decomposition) -> tuple[Decomposition | None, str]:
    """The method or its fallback, whichever fits first, or the method's obstacle."""
    obstacle = method.obstacle(layer)
    if not obstacle:
        return method, ""
    other = fallback_of(method)
    return (None, obstacle) if other is None or other.obstacle(layer) else (other, "")


def choose_ranks(
    candidates: Sequence[Candidate],
    *,
    total: int,
    fixed: int,
    speedup: float,
    rule: Rule = "greedy",
    given: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, LayerPlan]:
    """Ranks under which the network costs at most its original cost divided by the speedup.

    Args:
        candidates: layers that may be replaced.
        total: multiply-accumulates of the original network, as far as they count.
        fixed: those of counted layers that stay.
        speedup: asked for.
        rule: ``"greedy"`` (Zhang et al., section 3.4 and 3.5), ``"uniform"``, or ``"joint"``, which
            weighs channel and spatial ranks against each other.
        given: ranks that the user fixed, by layer.

    Returns:
        A plan for each candidate.

    Raises:
        BudgetError: the speedup can't be reached.
        OptionError: a fixed rank is for a layer that is no candidate.
    """
    given = dict(given or {})
    plans = {c.layer.name: _as_given(c, given.pop(c.layer.name)) for c in candidates if c.layer.name in given}
    if given:
        raise OptionError(f"{next(iter(given))}: ranks were given for a layer that is not replaced")
    free = [c for c in candidates if c.layer.name not in plans]
    if not free:
        return plans  # the user has settled everything; the cost is then what it is
    fixed += sum(c.method.macs(c.layer, plans[c.layer.name].ranks) for c in candidates if c not in free)
    splits = [_split(c) for c in free]
    budget = int(total / _exact(speedup)) - fixed
    try:
        ranks = _allocate(splits, total=total, fixed=fixed, budget=budget, speedup=speedup, rule=rule)
    except UnreachableBudgetError as problem:
        limit = total / (fixed + sum(split.least for split in splits))
        held = 100 * fixed / total
        raise BudgetError(
            f"a speedup of {speedup:g}x can't be reached: with every rank at its least it is {limit:.2f}x "
            f"(layers that stay hold {held:.1f} % of the cost); ask for less, or allow more layers"
        ) from problem
    plans |= {c.layer.name: _planned(c, pair) for c, pair in zip(free, ranks, strict=True)}
    return {c.layer.name: plans[c.layer.name] for c in candidates}


def _exact(speedup: float) -> Fraction:
    return Fraction(str(speedup))


def _as_given(candidate: Candidate, ranks: tuple[int, ...]) -> LayerPlan:
    check_ranks(candidate.method, candidate.layer, ranks)
    return _layer_plan(candidate.layer, candidate.method, ranks, "ranks as asked")


def _split(candidate: Candidate) -> ChannelSplit:
    """Energies and costs in the terms of the allocation."""
    layer, method, step = candidate.layer, candidate.method, candidate.step
    if len(candidate.energies) == 1:
        cost = method.macs(layer, (1,))
        return ChannelSplit(energies=candidate.energies[0], cost=layer.macs, cost_per_rank=cost, step=step)
    spatial, channel = candidate.energies
    pair = method.macs(layer, (2, 2)) - method.macs(layer, (1, 2)) - method.macs(layer, (2, 1))
    pair += method.macs(layer, (1, 1))  # the cost is bilinear in the two ranks
    vertical = method.macs(layer, (2, 1)) - method.macs(layer, (1, 1)) - pair
    in_two = fallback_of(method)
    assert in_two is not None
    return SpatialSplit(
        energies=channel,
        cost=layer.macs,
        cost_per_rank=in_two.macs(layer, (1,)),
        step=step,
        spatial_energies=spatial,
        vertical_cost_per_rank=vertical,
        horizontal_cost_per_pair=pair,
        pointwise_cost_per_rank=method.macs(layer, (1, 1)) - pair - vertical,
        spatial_step=step,
    )


def _allocate(
    splits: Sequence[ChannelSplit], *, total: int, fixed: int, budget: int, speedup: float, rule: Rule
) -> list[SplitRanks]:
    in_three = any(isinstance(split, SpatialSplit) for split in splits)
    if rule == "joint":
        return joint_ranks(splits, budget=budget, spatial_weight=_SPATIAL_WEIGHT)
    if not in_three:
        uniform = rule == "uniform"
        channel = (
            uniform_ranks(splits, fixed_cost=fixed, speedup=speedup, compensate=True)
            if uniform
            else greedy_ranks(splits, budget=budget)
        )
        return [SplitRanks(rank) for rank in channel]
    # each of the two splits gives the root of the speedup; what is split once must give both
    root = sqrt(speedup)
    scaled = [split if isinstance(split, SpatialSplit) else _dearer(split, root) for split in splits]
    try:
        if rule == "uniform":
            channel = uniform_ranks(scaled, fixed_cost=fixed, speedup=root, compensate=True)
        else:
            channel = greedy_ranks(scaled, budget=int(total / root) - fixed, break_even=False)
        return spatial_ranks(splits, channel, budget=budget)
    except UnreachableBudgetError:
        # layers that stay or are split once hold too much for equal shares
        return joint_ranks(splits, budget=budget, spatial_weight=_SPATIAL_WEIGHT)


def _dearer(split: ChannelSplit, factor: float) -> ChannelSplit:
    return replace(split, cost=round(split.cost * factor), cost_per_rank=round(split.cost_per_rank * factor))


def _planned(candidate: Candidate, ranks: SplitRanks) -> LayerPlan:
    layer, method = candidate.layer, candidate.method
    if ranks.channel is None:
        return LayerPlan(name=layer.name, method="none", reason="no rank is cheaper than the layer itself")
    if len(candidate.energies) == 1:
        return _layer_plan(layer, method, (ranks.channel,), "")
    if ranks.spatial is None:
        in_two = fallback_of(method)
        assert in_two is not None
        return _layer_plan(layer, in_two, (ranks.channel,), "splitting the kernel's axes saves nothing")
    return _layer_plan(layer, method, (ranks.spatial, ranks.channel), "")


def _layer_plan(layer: LayerInfo, method: Decomposition, ranks: tuple[int, ...], reason: str) -> LayerPlan:
    return LayerPlan(
        name=layer.name, method=method.name, ranks=ranks, options=options_of(method), reason=reason
    )
