"""Plans whose replacements are faster than the layers they replace, by the clock.

Multiply-accumulates mislead: a chain of small convolutions can need fewer of them and take longer. Speed
depends on the shapes of the factors alone, so replacements are timed before anything is solved.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from cnncompress.absorption import absorb_orders
from cnncompress.decompositions import make
from cnncompress.errors import BudgetError, SlowerError
from cnncompress.events import Note, Reporter
from cnncompress.folding import copy_sharing_weights
from cnncompress.inspect import LayerInfo
from cnncompress.layer_timing import LayerTime, is_slower, time_replacements
from cnncompress.layers import ChannelOrder
from cnncompress.memory_layout import layout_of
from cnncompress.options import Options
from cnncompress.plan import LayerPlan
from cnncompress.planning import Outline, plan_layers
from cnncompress.responses import Statistics
from cnncompress.solvers import Array


def plan_worthwhile(
    found: Outline,
    weights: Mapping[str, Array],
    statistics: Callable[[str], Statistics | None],
    original: nn.Module,
    options: Options,
    report: Reporter,
    *,
    pinned: str | None = None,
) -> tuple[list[LayerPlan], dict[str, LayerTime]]:
    """Choose the ranks; layers whose replacements turn out slower stay, and the others make up for them.

    Args:
        found: the outline.
        weights: of the layers that may be replaced, (out, in, kh, kw), NumPy.
        statistics: gives those of a layer as NumPy arrays, or None where no data is needed.
        original: the network.
        options: of the run.
        report: hears of each layer that is given up.
        pinned: submodule whose output keeps its channel order.

    Returns:
        A plan for every layer, and the times of every replacement, unless nothing was to be measured.

    Raises:
        SlowerError: a replacement whose ranks the user fixed is slower, or without the slower ones the
            speedup can't be reached.
    """
    plans = plan_layers(found, weights, statistics, options)
    if not options.measure:
        return plans, {}
    times: dict[str, LayerTime] = {}
    while True:
        times |= time_plans(found.layers, plans, original, report, pinned=pinned)
        current = {plan.name: times[plan.name] for plan in plans if plan.method != "none"}
        slower = {name: time for name, time in current.items() if is_slower(time.speedup)}
        if not slower or options.allow_slower:
            return plans, current
        reasons = {name: reason_of(plans, name, time) for name, time in slower.items()}
        if found.given is not None:
            for name, reason in reasons.items():
                report(Note(f"{name} is replaced as the plan says, though slower: {reason}"))
            return plans, current
        layers = {layer.name: layer for layer in found.layers}
        for name, reason in reasons.items():
            if found.settled(layers[name], options) is not None:
                raise SlowerError(f"{name}: {reason}; choose other options, or pass --allow-slower")
            report(Note(f"{name} stays as it is: {reason}"))
        found = found.without(reasons)
        first = next(iter(reasons.items()))
        if not found.methods:
            raise SlowerError(
                f"every replacement is slower than its layer, for example {first[0]}: {first[1]}; "
                "choose another method, or pass --allow-slower"
            )
        try:
            plans = plan_layers(found, weights, statistics, options)
        except BudgetError as problem:
            raise SlowerError(
                f"{first[0]}: {first[1]}; without it {problem}; --allow-slower replaces slower ones too"
            ) from problem


def time_plans(
    described: Sequence[LayerInfo],
    plans: Sequence[LayerPlan],
    original: nn.Module,
    report: Reporter,
    *,
    pinned: str | None = None,
) -> dict[str, LayerTime]:
    """Times of all planned replacements, without those permutations that neighbours will absorb.

    Args:
        described: the layers.
        plans: what happens to each.
        original: the network.
        report: receives the progress.
        pinned: submodule whose output keeps its channel order.

    Returns:
        For each layer that is replaced, by its name.
    """
    layers = {layer.name: layer for layer in described}
    changed = untrained(described, plans, original, pinned=pinned)
    pairs = (
        (layers[plan.name], original.get_submodule(plan.name), changed.get_submodule(plan.name))
        for plan in plans
        if plan.method != "none"
    )
    device = next(original.parameters()).device
    timed = time_replacements(pairs, device=device, layout=layout_of(original), report=report)
    return {time.name: time for time in timed}


def untrained(
    described: Sequence[LayerInfo],
    plans: Sequence[LayerPlan],
    original: nn.Module,
    *,
    pinned: str | None = None,
) -> nn.Module:
    """The planned network before anything is solved; its speed is already that of the solved one.

    Args:
        described: the layers.
        plans: what happens to each.
        original: the network; left as it was.
        pinned: submodule whose output keeps its channel order.

    Returns:
        A network that shares the weights of the layers that stay.
    """
    layers = {layer.name: layer for layer in described}
    reference = next(original.parameters())
    changed = copy_sharing_weights(original)
    for plan in plans:
        if plan.method != "none":
            chain = make(plan.method, plan.options).build(layers[plan.name], plan.ranks)
            _disorder_(chain)
            changed.set_submodule(plan.name, chain.eval().to(reference.device, reference.dtype))
    absorb_orders(changed, pinned=pinned)
    return changed


def _disorder_(chain: nn.Module) -> None:
    """Permute at random: a permutation that changes nothing would always vanish."""
    for module in chain.modules():
        if isinstance(module, ChannelOrder):
            drawn = torch.Generator().manual_seed(0)
            module.order.copy_(torch.randperm(len(module.order), generator=drawn))


def reason_of(plans: Sequence[LayerPlan], name: str, time: LayerTime) -> str:
    """Why a replacement is refused.

    Args:
        plans: with the replacement.
        name: of the layer.
        time: of both.

    Returns:
        One line with both times.
    """
    plan = next(plan for plan in plans if plan.name == name)
    ranks = ", ".join(map(str, plan.ranks))
    return (
        f"{plan.method} ({ranks}) takes {time.ms_after:.3g} ms where the layer takes {time.ms_before:.3g} "
        f"(torch on {time.device}, threads: {time.threads}, batch: {time.batch})"
    )
