"""From the calibration to menus: the losses of all candidates, in a unit that adds up over the layers."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cnncompress.calibration import Calibration
from cnncompress.candidates import enumerate_candidates
from cnncompress.distortion.output_gradients import gradient_moments
from cnncompress.distortion.probes import probe_losses
from cnncompress.distributed.world import ALONE, World
from cnncompress.errors import OptionError
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted
from cnncompress.gather import held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.options import Options
from cnncompress.planner.losses import Evidence, candidate_losses, fitted, regressors
from cnncompress.planner.menus import Entry, LayerMenu, Probe
from cnncompress.planning import Outline
from cnncompress.solvers import Array
from cnncompress.solvers.moments import Moments

SETTINGS = 300
"""Of one method on one layer; each first rank takes a spectrum of the responses."""

REGRESSORS = 2304
"""Beyond these a replacement saves little and takes long to judge."""

PROBE_IMAGES = 16
PROBE_SPEEDUP = 3.0
"""Of the layer by its probe: always the same, so that a plan doesn't depend on what else was asked for."""

GRADIENT_IMAGES = 48

FLAT_SHARE = 0.1
"""Share of the loss metric that counts all channels alike: the gradients of some images don't tell all."""

LEFT_BY_LATER = 0.9
"""Share of a layer's loss that every later layer leaves, since it is fitted to the true responses on the
disturbed inputs. A probe can't show it: there the later layers are the original ones.

Chosen on VGG-16 at 4x fewer MACs, crops of two photographs, 60 images: the output's error on 12 of them was
0.195 without it (1), 0.194 with 0.9, 0.193 with 0.8 and 0.199 with 0.7: anything from 0.8 to 1 will do."""

LIMITS = (0.05, 20.0)
"""Of the factor by which a probe changes a layer's losses."""


def unjudged(found: Outline, options: Options) -> list[LayerMenu]:
    """What may replace the layers, before anything is known of the losses.

    Args:
        found: the outline.
        options: of the run.

    Returns:
        The menus in the order of execution; all losses are 0.
    """
    return [_unjudged(found, layer, options) for layer in found.layers if layer.name in found.menus]


def _unjudged(found: Outline, layer: LayerInfo, options: Options) -> LayerMenu:
    methods = found.menus[layer.name]
    settled = found.settled(layer, options)
    if settled is not None:
        return LayerMenu(layer, (Entry.of(layer, methods[0], settled, 0.0),), settled=True)
    candidates = enumerate_candidates(layer, methods, options.step(layer.out_channels), most=SETTINGS)
    for method, ranks in candidates:
        if method.projection is None and (method.margin(layer, ranks) or method.blocks.side > 1):
            raise OptionError(
                f"{method.name} looks beyond single patches and can't be one of several methods to choose "
                "from; ask for it alone, or for single layers"
            )
    entries = (
        Entry.of(layer, method, ranks, 0.0)
        for method, ranks in candidates
        if regressors(method, layer, ranks) <= REGRESSORS
    )
    return LayerMenu(layer, (Entry.staying(layer), *entries))


class Judge:
    """Compares what may replace the layers of one network; everything here is independent of the speedup.

    Args:
        menus: what may replace the layers, from `unjudged`.
        original: the network, BatchNorm folded.
        weights: and biases of the layers that may be replaced.
        known: of the calibration, patches included.
        source: the calibration images.
        options: of the run.
        report: receives the progress.
        world: the processes that share the work.
    """

    def __init__(
        self,
        menus: Sequence[LayerMenu],
        original: nn.Module,
        weights: Mapping[str, tuple[Array, Array]],
        known: Calibration,
        source: ImageSource,
        options: Options,
        report: Reporter,
        *,
        world: World = ALONE,
    ) -> None:
        self._world = world
        self._menus, self._original, self._weights = menus, original, weights
        self._known, self._source, self._options, self._report = known, source, options, report
        self._judges = held_out_images(known.collector.indices, share=options.holdout, seed=options.seed)

    def menus(self) -> list[LayerMenu]:
        """The menus of all layers that may be replaced.

        Returns:
            In the order of execution.
        """
        layers = [menu.layer for menu in self._menus]
        metrics = self._metrics(layers)
        stage, begun = "judge", time.perf_counter()
        self._report(StageStarted(stage, len(layers), "layers"))

        def judged(menu: LayerMenu) -> LayerMenu:
            found = self._judged(menu, metrics.get(menu.layer.name))
            self._report(StageAdvanced(stage))
            return found

        menus = self._world.each(self._menus, judged)
        self._report(StageDone(stage, time.perf_counter() - begun))
        if self._options.probes and self._options.distortion != "energy":
            menus = self._world.first(lambda: self._probed(menus, metrics))
        if self._options.distortion == "energy":
            return [_as_energy(menu) for menu in menus]
        return [_mended(menu, len(menus) - 1 - place) for place, menu in enumerate(menus)]

    def _metrics(self, layers: Sequence[LayerInfo]) -> Mapping[str, NDArray[np.float64]]:
        if self._options.distortion != "loss":
            return {}
        return self._world.first(
            lambda: gradient_moments(
                self._original,
                layers,
                self._source,
                images=GRADIENT_IMAGES,
                seed=self._options.seed,
                report=self._report,
            )
        )

    def _evidence(self, layer: LayerInfo, metric: NDArray[np.float64] | None) -> Evidence:
        assert self._known.patches is not None
        statistics = self._known.statistics(layer.name)
        assert statistics is not None
        fit, held_out = self._known.patches.of(layer.name, self._judges)
        weight, bias = self._weights[layer.name]
        return Evidence(
            layer=layer,
            weight=weight,
            bias=bias,
            fit=fit,
            held_out=held_out,
            statistics=statistics,
            metric=_relative(statistics.outputs) if metric is None else _mixed(metric),
        )

    def _judged(self, menu: LayerMenu, metric: NDArray[np.float64] | None) -> LayerMenu:
        replaced = [(e.method, e.ranks) for e in menu.entries if e.method is not None]
        if menu.settled or not replaced:
            return menu
        losses = iter(candidate_losses(self._evidence(menu.layer, metric), replaced))
        entries = (e if e.method is None else replace(e, loss=float(next(losses))) for e in menu.entries)
        return replace(menu, entries=tuple(entries))

    def _probed(
        self, menus: Sequence[LayerMenu], metrics: Mapping[str, NDArray[np.float64]]
    ) -> list[LayerMenu]:
        chosen = {menu.layer.name: entry for menu in menus if (entry := _typical(menu)) is not None}

        def replacements() -> Iterator[tuple[str, nn.Module]]:
            for menu in menus:
                name = menu.layer.name
                if name in chosen:
                    entry = chosen[name]
                    assert entry.method is not None
                    evidence = self._evidence(menu.layer, metrics.get(name))
                    yield name, fitted(evidence, entry.method, entry.ranks, menu.layer)

        real = probe_losses(
            self._original,
            replacements(),
            self._source,
            only=sorted(self._judges)[:PROBE_IMAGES],
            report=self._report,
        )
        scale = 1.0
        if (
            self._options.distortion == "response"
        ):  # relative errors of responses have no unit of the output's
            ratios = [real[name] / entry.loss for name, entry in chosen.items() if entry.loss > 0]
            scale = float(np.median(ratios)) if ratios else 1.0
        probed = []
        for menu in menus:
            entry = chosen.get(menu.layer.name)
            if entry is None:
                probed.append(menu)
                continue
            probe = Probe(entry.label, entry.ranks, entry.loss * scale, real[menu.layer.name])
            scaled = replace(menu, entries=tuple(replace(one, loss=one.loss * scale) for one in menu.entries))
            probed.append(scaled.calibrated(probe, LIMITS))
        return probed


def _typical(menu: LayerMenu) -> Entry | None:
    """The replacement with the least loss at about the cost that a usual speedup leaves the layer."""
    replaced = [entry for entry in menu.entries if entry.method is not None]
    if menu.settled or not replaced:
        return None
    within = [entry for entry in replaced if entry.macs * PROBE_SPEEDUP <= menu.layer.macs]
    return min(within or [min(replaced, key=lambda entry: entry.macs)], key=lambda entry: entry.loss)


def _mended(menu: LayerMenu, later: int) -> LayerMenu:
    share = LEFT_BY_LATER**later
    entries = tuple(replace(entry, loss=entry.loss * share) for entry in menu.entries)
    return replace(menu, entries=entries, weight=menu.weight * share)


def _as_energy(menu: LayerMenu) -> LayerMenu:
    """Relative errors as the logarithms of a product of energies."""
    entries = tuple(
        replace(entry, loss=float(-np.log(np.clip(1 - entry.loss, 1e-12, 1.0)))) for entry in menu.entries
    )
    return replace(menu, entries=entries)


def _mixed(metric: NDArray[np.float64]) -> NDArray[np.float64]:
    """The metric with a little of every channel."""
    count = len(metric)
    return (1 - FLAT_SHARE) * metric + FLAT_SHARE * float(np.trace(metric)) / count * np.eye(count)


def _relative(outputs: Moments) -> NDArray[np.float64]:
    """Errors as a share of the responses' variance."""
    energy = float(np.maximum(outputs.spectrum[0], 0).sum())
    count = len(outputs.mean)
    return np.eye(count) / energy if energy > 0 else np.eye(count)
