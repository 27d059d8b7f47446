"""A replaced layer and its replacement, run in turn the way that is fair in each runtime.

torch runs the replacement as one module. onnxruntime and OpenVINO keep images in memory formats of their own,
so that there the profiles of all steps, run within one network, are added up. What neither suits is run as a
network of its own.
"""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cnncompress.folding import fold_batchnorms
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.interleave import alternate
from cnncompress.latency.benches import bench_for
from cnncompress.latency.parts import Part, layer_part
from cnncompress.latency.rounds import Pace
from cnncompress.latency.setting import Setting
from cnncompress.plan import LayerPlan, Plan
from cnncompress.runtimes import Subject, random_images, runtime_named
from cnncompress.zoo.costs import layer_costs, total

Timed = Literal["module", "profile", "network"]
"""A replacement as one module, by the profile of its steps, or as a network of its own."""

_WARMUP = 2
_PROFILED = frozenset({"onnxruntime", "openvino"})


@dataclass(frozen=True, kw_only=True)
class ReplacedLayer:
    """A layer, its BatchNorm folded in, and what stands in its place.

    Attributes:
        info: of the layer.
        plan: what happened to it.
        before: the layer.
        after: its replacement.
    """

    info: LayerInfo
    plan: LayerPlan
    before: nn.Module
    after: nn.Module

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image: channels, height and width; 1, rows and features where the layer is linear."""
        height, width = self.info.input_size
        if self.info.kind == "linear":
            return (1, height * width, self.info.in_channels)
        return (self.info.in_channels, height, width)

    @property
    def macs_after(self) -> int:
        """Multiply-accumulates of the replacement for one image."""
        outline = deepcopy(self.after).to("meta")
        return total(layer_costs(outline, self.input_shape).values()).macs


def replaced_layers(original: nn.Module, compressed: nn.Module, plan: Plan) -> tuple[ReplacedLayer, ...]:
    """Pair every replaced layer with its replacement.

    Args:
        original: the network before, with any weights; left as it was.
        compressed: the network that the plan made of it.
        plan: of the compression. A plan of another network is a `ModelError`.

    Returns:
        One pair for each replaced layer, in the order of execution.
    """
    plans = {layer.name: layer for layer in plan.layers if layer.method != "none"}
    folded = fold_batchnorms(original, plan.folded)
    return tuple(
        ReplacedLayer(
            info=info,
            plan=plans[info.name],
            before=folded.get_submodule(info.name),
            after=compressed.get_submodule(info.name),
        )
        for info in inspect_layers(folded, plan.input_size)
        if info.name in plans
    )


def rounds_of(pair: ReplacedLayer, setting: Setting, repeats: int) -> tuple[Timed, NDArray[np.float64]]:
    """Time a layer and its replacement in turn.

    Args:
        pair: the two; left as they were.
        setting: the conditions.
        repeats: rounds, in each of which both run.

    Returns:
        The way that they were timed; and milliseconds of both, shape (repeats, 2).
    """
    timed, steps = steps_of(pair, setting.runtime)
    if timed == "network":
        return timed, _as_networks(pair, setting, repeats)
    return timed, _as_parts(layer_part(pair.info), steps, setting, repeats)


def steps_of(pair: ReplacedLayer, runtime: str) -> tuple[Timed, tuple[Part, ...]]:
    """How a replacement is timed in a runtime, and as what.

    Args:
        pair: the layer and its replacement.
        runtime: of `cnncompress.runtimes.RUNTIMES`.

    Returns:
        The way; and what to time, whose times add up to the replacement's, nothing where it is timed as a
        network of its own.
    """
    if runtime not in _PROFILED and pair.info.kind == "conv2d":
        return "module", (_whole(pair),)
    leaves = [module for module in pair.after.modules() if not any(module.children())]
    if any(type(leaf) not in {nn.Conv2d, nn.Linear} for leaf in leaves):
        return "network", ()
    infos = inspect_layers(pair.after, pair.input_shape)
    if not all(info.eligible or info.groups > 1 for info in infos):  # called twice, or never
        return "network", ()
    steps = tuple(map(layer_part, infos))
    # the networks that are profiled pad with zeros alone
    if any(step.padding_mode != "zeros" for step in (*steps, layer_part(pair.info))):
        return "network", ()
    return "profile" if runtime in _PROFILED else "module", steps


def _whole(pair: ReplacedLayer) -> Part:
    """The replacement in one piece; its weights don't matter for its time."""
    return Part(
        kind="module",
        in_channels=pair.info.in_channels,
        out_channels=pair.info.out_channels,
        input_size=pair.info.input_size,
        label=f"in place of {pair.info.name}",
        make=lambda: deepcopy(pair.after),
    )


def _as_parts(layer: Part, steps: Sequence[Part], setting: Setting, repeats: int) -> NDArray[np.float64]:
    """Milliseconds of the layer and of all steps together, shape (rounds, 2)."""
    parts = list(dict.fromkeys((layer, *steps)))  # a bench runs each once; what comes twice counts twice
    pace = Pace(least=repeats, most=repeats, warmup=_WARMUP)
    times = bench_for(setting).times(parts, pace)
    after = sum((times[:, parts.index(step)] for step in steps), np.zeros(len(times)))
    return np.stack((times[:, 0], after), axis=1)


def _as_networks(pair: ReplacedLayer, setting: Setting, repeats: int) -> NDArray[np.float64]:
    """Milliseconds of the layer and of its replacement, each run by itself, shape (rounds, 2)."""
    runtime = runtime_named(setting.runtime)
    device = torch.device(setting.device)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    images = random_images(setting.batch, pair.input_shape, device)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        first, second = (
            stack.enter_context(
                runtime.running(
                    Subject(module, pair.input_shape, layout, Path(folder) / f"{name}.onnx"),
                    device=device,
                    batch=setting.batch,
                    threads=setting.threads,
                )
            )
            for name, module in (("before", pair.before), ("after", pair.after))
        )
        return alternate((first, second), images, repeats=repeats, warmup=_WARMUP)
