"""Energies and costs of a network's layers in, a plan with ranks out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnncompress.decompositions import Decomposition, Ranks, check_ranks, fallback_of, options_of
from cnncompress.decompositions.base import cumulative_share
from cnncompress.decompositions.three_d import SPATIAL_WEIGHT
from cnncompress.errors import BudgetError, OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.plan import LayerPlan
from cnncompress.solvers.allocation import greedy_ranks, uniform_ranks
from cnncompress.solvers.joint_allocation import joint_ranks
from cnncompress.solvers.menu_allocation import Menu, choose_entries, uniform_entries
from cnncompress.solvers.spatial_allocation import spatial_ranks
from cnncompress.solvers.splits import ChannelSplit, SpatialSplit, SplitRanks, UnreachableBudgetError

Rule = Literal["greedy", "uniform", "joint"]

RULES: tuple[Rule, ...] = ("greedy", "uniform", "joint")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layer that may be replaced, and by what.

    Attributes:
        layer: the layer.
        method: replaces it.
        energies: for each rank of the method, the energy that each further rank adds, descending; of methods
            whose energies descend.
        settings: ranks to choose among, with ``kept``; of other methods.
        kept: share of energy that each setting keeps.
        step: ranks are multiples of this.
    """

    layer: LayerInfo
    method: Decomposition
    energies: tuple[NDArray[np.float64], ...] = ()
    settings: tuple[Ranks, ...] = ()
    kept: NDArray[np.float64] | None = None
    step: int = 1

    def as_menu(self) -> tuple[Menu, list[Ranks | None]]:
        """Everything that the layer can become.

        Returns:
            The menu and what its entries stand for: ranks, or None for the layer as it is.
        """
        settings, kept = self.settings, self.kept
        if kept is None:
            settings = self.method.settings(self.layer, self.step)
            shares = [cumulative_share(energy) for energy in self.energies]
            shares[:-1] = [share**SPATIAL_WEIGHT for share in shares[:-1]]
            pairs = [zip(shares, ranks, strict=True) for ranks in settings]
            kept = np.array([np.prod([share[rank - 1] for share, rank in pair]) for pair in pairs])
        costs = np.array([self.method.macs(self.layer, ranks) for ranks in settings], dtype=np.int64)
        cheaper = np.flatnonzero(costs < self.layer.macs)
        menu = Menu(np.append(self.layer.macs, costs[cheaper]), np.append(1.0, kept[cheaper]))
        return menu, [None, *(settings[i] for i in cheaper)]


def choose_ranks(
    candidates: Sequence[Candidate],
    *,
    total: int,
    fixed: int,
    speedup: float,
    rule: Rule = "greedy",
    given: Mapping[str, tuple[int, ...]] | None = None,
    allow_dearer: bool = False,
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
        allow_dearer: whether these may cost as much as the layer or more.

    Returns:
        A plan for each candidate.

    Raises:
        BudgetError: the speedup can't be reached.
        OptionError: a fixed rank is for a layer that is no candidate.
    """
    asked = {c.layer.name: ranks for c in candidates if (ranks := c.method.asked(c.layer)) is not None}
    given = asked | dict(given or {})
    plans = {
        c.layer.name: _as_given(c, given.pop(c.layer.name), dearer=allow_dearer)
        for c in candidates
        if c.layer.name in given
    }
    if given:
        raise OptionError(f"{next(iter(given))}: ranks were given for a layer that is not replaced")
    free = [c for c in candidates if c.layer.name not in plans]
    if not free:
        return plans  # the user has settled everything; the cost is then what it is
    fixed += sum(c.method.macs(c.layer, plans[c.layer.name].ranks) for c in candidates if c not in free)
    budget = int(total / _exact(speedup)) - fixed
    try:
        if all(c.method.descends for c in free):
            chosen = _by_energies(free, total=total, fixed=fixed, budget=budget, speedup=speedup, rule=rule)
        else:
            chosen = _from_menus(free, budget=budget, rule=rule)
    except UnreachableBudgetError as problem:
        limit = total / (fixed + problem.least)
        held = 100 * fixed / total
        raise BudgetError(
            f"a speedup of {speedup:g}x can't be reached: with every rank at its least it is {limit:.2f}x "
            f"(layers that stay hold {held:.1f} % of the cost); ask for less, or allow more layers"
        ) from problem
    plans |= {plan.name: plan for plan in chosen}
    return {c.layer.name: plans[c.layer.name] for c in candidates}


def _exact(speedup: float) -> Fraction:
    return Fraction(str(speedup))


def _as_given(candidate: Candidate, ranks: tuple[int, ...], *, dearer: bool) -> LayerPlan:
    layer, method = candidate.layer, candidate.method
    check_ranks(method, layer, ranks)
    cost = method.macs(layer, ranks)
    if cost >= layer.macs and not dearer:
        raise OptionError(
            f"{layer.name}: {method.name} with ranks {', '.join(map(str, ranks))} needs {cost} "
            f"multiply-accumulates, the layer itself {layer.macs}; ask for less, or pass --allow-slower"
        )
    return _layer_plan(candidate.layer, candidate.method, ranks, "ranks as asked")


def _from_menus(candidates: Sequence[Candidate], *, budget: int, rule: Rule) -> list[LayerPlan]:
    """Ranks of methods that only tell what each of their settings keeps."""
    menus = [candidate.as_menu() for candidate in candidates]
    choose = uniform_entries if rule == "uniform" else choose_entries
    entries = choose([menu for menu, _ in menus], budget=budget)
    return [
        _from_entry(candidate, settings[entry])
        for candidate, (_, settings), entry in zip(candidates, menus, entries, strict=True)
    ]


def _from_entry(candidate: Candidate, ranks: Ranks | None) -> LayerPlan:
    if ranks is None:
        return _left_alone(candidate.layer)
    return _layer_plan(candidate.layer, candidate.method, ranks, "")


def _by_energies(
    candidates: Sequence[Candidate], *, total: int, fixed: int, budget: int, speedup: float, rule: Rule
) -> list[LayerPlan]:
    """Ranks of methods whose energies descend."""
    splits = [_split(candidate) for candidate in candidates]
    ranks = _allocate(splits, total=total, fixed=fixed, budget=budget, speedup=speedup, rule=rule)
    return [_planned(candidate, pair) for candidate, pair in zip(candidates, ranks, strict=True)]


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
        return joint_ranks(splits, budget=budget, spatial_weight=SPATIAL_WEIGHT)
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
        return joint_ranks(splits, budget=budget, spatial_weight=SPATIAL_WEIGHT)


def _dearer(split: ChannelSplit, factor: float) -> ChannelSplit:
    return replace(split, cost=round(split.cost * factor), cost_per_rank=round(split.cost_per_rank * factor))


def _planned(candidate: Candidate, ranks: SplitRanks) -> LayerPlan:
    layer, method = candidate.layer, candidate.method
    if ranks.channel is None:
        return _left_alone(layer)
    if len(candidate.energies) == 1:
        return _layer_plan(layer, method, (ranks.channel,), "")
    if ranks.spatial is None:
        in_two = fallback_of(method)
        assert in_two is not None
        return _layer_plan(layer, in_two, (ranks.channel,), "splitting the kernel's axes saves nothing")
    return _layer_plan(layer, method, (ranks.spatial, ranks.channel), "")


def _left_alone(layer: LayerInfo) -> LayerPlan:
    return LayerPlan(name=layer.name, method="none", reason="no rank is worth more than the layer itself")


def _layer_plan(layer: LayerInfo, method: Decomposition, ranks: tuple[int, ...], reason: str) -> LayerPlan:
    return LayerPlan(
        name=layer.name, method=method.name, ranks=ranks, options=options_of(method), reason=reason
    )
