"""From options to a plan: which layers, which methods, which ranks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnncompress.decompositions import Decomposition, check_ranks, make
from cnncompress.errors import ModelError
from cnncompress.inspect import LayerInfo
from cnncompress.options import Options
from cnncompress.plan import LayerPlan, Plan
from cnncompress.ranks import Candidate, choose_methods, choose_ranks
from cnncompress.solvers import Array
from cnncompress.solvers.moments import Moments


@dataclass(frozen=True)
class Outline:
    """What is known before any image is read.

    Attributes:
        layers: of the network, in the order of execution.
        methods: for each layer that may be replaced.
        reasons: why each other layer stays.
        given: the plan, if the user gave one.
    """

    layers: tuple[LayerInfo, ...]
    methods: Mapping[str, Decomposition]
    reasons: Mapping[str, str]
    given: tuple[LayerPlan, ...] | None = None

    @property
    def observed(self) -> tuple[LayerInfo, ...]:
        """Layers whose responses are needed."""
        return tuple(
            layer
            for layer in self.layers
            if layer.name in self.methods and self.methods[layer.name].needs_data
        )

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
            if layer.kind == "conv2d" or include_linear or layer.name in self.methods
        ]


def outline(layers: tuple[LayerInfo, ...], options: Options) -> Outline:
    """Settle methods, and refuse at once what can't be done.

    Args:
        layers: of the network.
        options: of the run.

    Returns:
        The outline.
    """
    if options.manual_plan is not None:
        return _from_plan(layers, Path(options.manual_plan))
    method = make(options.method, options.method_options)
    methods, reasons = choose_methods(
        layers, method, skip=options.skip, only=options.only, include_linear=options.include_linear
    )
    found = Outline(layers, methods, reasons)
    # flat energies: the ranks mean nothing, but whether the budget can be met doesn't depend on them
    _choose(found, options, lambda layer: [np.ones(rank) for rank in methods[layer.name].full_ranks(layer)])
    return found


def plan_layers(
    found: Outline, weights: Mapping[str, Array], moments: Callable[[str], Moments | None], options: Options
) -> list[LayerPlan]:
    """Choose the ranks.

    Args:
        found: the outline.
        weights: of the layers that may be replaced, (out, in, kh, kw), NumPy.
        moments: gives those of a layer's responses as NumPy arrays, or None where no data is needed.
        options: of the run.

    Returns:
        A plan for every layer.
    """
    if found.given is not None:
        return list(found.given)

    def energies(layer: LayerInfo) -> Sequence[Array]:
        return found.methods[layer.name].energies(layer, weights[layer.name], moments(layer.name))

    plans = _choose(found, options, energies)
    return [
        plans.get(layer.name) or LayerPlan(name=layer.name, method="none", reason=found.reasons[layer.name])
        for layer in found.layers
    ]


def _choose(
    found: Outline, options: Options, energies: Callable[[LayerInfo], Sequence[Array]]
) -> dict[str, LayerPlan]:
    counted = found.counted(include_linear=options.include_linear)
    return choose_ranks(
        [
            Candidate(
                layer=layer,
                method=found.methods[layer.name],
                energies=tuple(energies(layer)),
                step=options.step(layer.out_channels),
            )
            for layer in found.layers
            if layer.name in found.methods
        ],
        total=sum(layer.macs for layer in counted),
        fixed=sum(layer.macs for layer in counted if layer.name not in found.methods),
        speedup=options.speedup,
        rule=options.ranks,  # type: ignore[arg-type]  # checked by Options
        given=options.layer_ranks,
    )


def _from_plan(layers: tuple[LayerInfo, ...], path: Path) -> Outline:
    """Methods and ranks of an earlier plan."""
    earlier = {plan.name: plan for plan in Plan.read(path).layers}
    known = {layer.name: layer for layer in layers}
    methods = {}
    for name, plan in earlier.items():
        if name not in known:
            raise ModelError(f"{path}: the plan names layer {name}, which this network doesn't have")
        if plan.method != "none":
            methods[name] = make(plan.method, plan.options)
            check_ranks(methods[name], known[name], plan.ranks)
    if not methods:
        raise ModelError(f"{path}: the plan replaces no layer")
    stays = {layer.name: "not in the plan" for layer in layers if layer.name not in earlier}
    given = tuple(
        earlier.get(layer.name, LayerPlan(name=layer.name, method="none", reason="not in the plan"))
        for layer in layers
    )
    return Outline(layers, methods, stays, given)
