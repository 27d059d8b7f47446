"""From options to a plan: which layers, which methods, which ranks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cnncompress.decompositions import Decomposition, check_ranks, make
from cnncompress.errors import ModelError, OptionError
from cnncompress.inspect import LayerInfo
from cnncompress.options import KNAPSACK, Options
from cnncompress.plan import LayerPlan, Plan
from cnncompress.ranks import Candidate, choose_menus, choose_ranks
from cnncompress.responses import Statistics
from cnncompress.solvers import Array


@dataclass(frozen=True)
class Outline:
    """What is known before any image is read.

    Attributes:
        layers: of the network, in the order of execution.
        menus: for each layer that may be replaced the methods to choose from.
        reasons: why each other layer stays.
        given: the plan, if the user gave one.
    """

    layers: tuple[LayerInfo, ...]
    menus: Mapping[str, tuple[Decomposition, ...]]
    reasons: Mapping[str, str]
    given: tuple[LayerPlan, ...] | None = None

    @property
    def methods(self) -> Mapping[str, Decomposition]:
        """For each layer that may be replaced the first of its methods, for rules that know no choice."""
        return {name: methods[0] for name, methods in self.menus.items()}

    @property
    def observed(self) -> tuple[LayerInfo, ...]:
        """Layers whose responses are needed."""
        return tuple(
            layer
            for layer in self.layers
            if any(method.needs_data for method in self.menus.get(layer.name, ()))
        )

    def settled(self, layer: LayerInfo, options: Options) -> tuple[int, ...] | None:
        """The ranks that the user fixed for a layer.

        Args:
            layer: one that may be replaced.
            options: of the run.

        Returns:
            The ranks, or None if they are to be chosen.
        """
        first, *others = self.menus[layer.name]
        # of several methods each keeps its own, and there still is a choice
        return options.layer_ranks.get(layer.name) or (None if others else first.asked(layer))

    def without(self, reasons: Mapping[str, str]) -> "Outline":
        """The same outline with some more layers that stay.

        Args:
            reasons: why, for each of them.

        Returns:
            The outline.
        """
        menus = {name: methods for name, methods in self.menus.items() if name not in reasons}
        return replace(self, menus=menus, reasons={**self.reasons, **reasons})

    def counted(self, *, include_linear: bool) -> list[LayerInfo]:
        """Layers whose cost the speedup refers to.

        Args:
            include_linear: whether linear layers count.

        Returns:
            All convolutions, linear layers if asked, and whatever may be replaced.
        """
        return [
            layer
            for layer in self.layers
            if layer.kind == "conv2d" or include_linear or layer.name in self.menus
        ]


def outline(layers: tuple[LayerInfo, ...], options: Options) -> Outline:
    """Settle methods, and refuse at once what can't be done.

    Args:
        layers: of the network.
        options: of the run.

    Returns:
        The outline.

    Raises:
        OptionError: wishes contradict a given plan.
    """
    if options.manual_plan is not None:
        for name in ("methods", "only", "skip", "layer_ranks", "method_options"):
            if getattr(options, name):
                raise OptionError(f"a plan settles everything; {name} can't be given beside it")
        return _from_plan(layers, Path(options.manual_plan))
    menus, reasons = choose_menus(
        layers,
        options.default_methods(),
        special=options.methods,
        skip=options.skip,
        only=options.only,
        include_linear=options.include_linear,
    )
    found = Outline(layers, menus, reasons)
    if options.ranks == KNAPSACK:
        return _with_settled(found, options)
    # flat energies: the ranks mean nothing, but whether the budget can be met doesn't depend on them
    _choose(found, options, _flat(found))
    return found


def _with_settled(found: Outline, options: Options) -> Outline:
    """The outline in which layers of settled ranks keep the one method that these are for."""
    layers = {layer.name: layer for layer in found.layers}
    menus = dict(found.menus)
    for name, ranks in options.layer_ranks.items():
        if name in menus:
            fitting = [method for method in menus[name] if len(method.rank_names) == len(ranks)]
            menus[name] = (*fitting, *menus[name])[:1]
    narrowed = replace(found, menus=menus)
    settled = [
        Candidate(layer=layers[name], method=methods[0], step=1)
        for name, methods in menus.items()
        if narrowed.settled(layers[name], options) is not None
    ]
    choose_ranks(  # refuses what doesn't fit
        settled,
        total=0,
        fixed=0,
        speedup=options.speedup,
        given=options.layer_ranks,
        allow_dearer=options.allow_slower,
    )
    return narrowed


def plan_layers(
    found: Outline,
    weights: Mapping[str, Array],
    statistics: Callable[[str], Statistics | None],
    options: Options,
) -> list[LayerPlan]:
    """Choose the ranks.

    Args:
        found: the outline.
        weights: of the layers that may be replaced, (out, in, kh, kw), NumPy.
        statistics: gives those of a layer as NumPy arrays, or None where no data is needed.
        options: of the run.

    Returns:
        A plan for every layer.
    """
    if found.given is not None:
        return list(found.given)

    def candidate(layer: LayerInfo, step: int) -> Candidate:
        method = found.methods[layer.name]
        weight, known = weights[layer.name], statistics(layer.name)
        if method.descends:
            energies = tuple(method.energies(layer, weight, known))
            return Candidate(layer=layer, method=method, energies=energies, step=step)
        settings = method.settings(layer, step)
        kept = method.kept(layer, weight, known, settings)
        return Candidate(layer=layer, method=method, settings=settings, kept=kept, step=step)

    plans = _choose(found, options, candidate)
    return [
        plans.get(layer.name) or LayerPlan(name=layer.name, method="none", reason=found.reasons[layer.name])
        for layer in found.layers
    ]


def _choose(
    found: Outline, options: Options, candidate: Callable[[LayerInfo, int], Candidate]
) -> dict[str, LayerPlan]:
    counted = found.counted(include_linear=options.include_linear)
    candidates = []
    for layer in found.layers:
        if layer.name in found.menus:
            method = found.methods[layer.name]
            step = method.rank_step(layer, options.step(layer.out_channels))
            settled = found.settled(layer, options)
            candidates.append(
                Candidate(layer=layer, method=method, step=step)
                if settled is not None
                else candidate(layer, step)
            )
    return choose_ranks(
        candidates,
        total=sum(layer.macs for layer in counted),
        fixed=sum(layer.macs for layer in counted if layer.name not in found.menus),
        speedup=options.speedup,
        rule=options.ranks,  # type: ignore[arg-type]  # checked by Options
        given=options.layer_ranks,
        allow_dearer=options.allow_slower,
    )


def _flat(found: Outline) -> Callable[[LayerInfo, int], Candidate]:
    """Candidates before anything is known of their energies."""

    def candidate(layer: LayerInfo, step: int) -> Candidate:
        method = found.methods[layer.name]
        if method.descends:
            energies = tuple(np.ones(rank) for rank in method.full_ranks(layer))
            return Candidate(layer=layer, method=method, energies=energies, step=step)
        settings = method.settings(layer, step)
        return Candidate(
            layer=layer, method=method, settings=settings, kept=np.ones(len(settings)), step=step
        )

    return candidate


def _from_plan(layers: tuple[LayerInfo, ...], path: Path) -> Outline:
    """Methods and ranks of an earlier plan."""
    earlier = {plan.name: plan for plan in Plan.read(path).layers}
    known = {layer.name: layer for layer in layers}
    methods = {}
    for name, plan in earlier.items():
        if name not in known:
            raise ModelError(f"{path}: the plan names layer {name}, which this network doesn't have")
        if plan.method != "none":
            methods[name] = (make(plan.method, plan.options),)
            check_ranks(methods[name][0], known[name], plan.ranks)
    if not methods:
        raise ModelError(f"{path}: the plan replaces no layer")
    stays = {layer.name: "not in the plan" for layer in layers if layer.name not in earlier}
    given = tuple(
        earlier.get(layer.name, LayerPlan(name=layer.name, method="none", reason="not in the plan"))
        for layer in layers
    )
    return Outline(layers, methods, stays, given)
