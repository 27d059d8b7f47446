"""From requests to a table: what is missing is timed, the rest comes from the disk."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.inspect import LayerInfo
from cnncompress.latency.benches import bench_for
from cnncompress.latency.knots import Channels, knots
from cnncompress.latency.parts import Part, Placed, layer_part, placed_steps, step_part
from cnncompress.latency.rounds import Pace
from cnncompress.latency.setting import Request, Setting
from cnncompress.latency.store import Store
from cnncompress.latency.table import LatencyTable
from cnncompress.latency.torch_bench import Bench, TorchBench
from cnncompress.runtimes import check_runtime

Times = Mapping[Part, float]

GROUP_BYTES = 1 << 28
"""Of weights and images that are held at a time; what needs more is timed in several groups."""


def latency_table(
    requests: Sequence[Request],
    setting: Setting,
    *,
    cache: Path | None = None,
    remeasure: bool = False,
    report: Reporter = silent,
) -> LatencyTable:
    """Measure all that was asked for, unless it is known from before.

    All layers are timed in turn, then each layer in turn with the parts of its replacements: a part's time is
    the median of its ratios to the layer within a round, times the layer's. Weights and images are random,
    on which times don't depend. Members of a family (convolutions equal but for their numbers of channels)
    are all measured if they are few, else at some of these.

    torch.compile takes about a second for every convolution, which is why families are measured at fewer
    places there. onnxruntime and OpenVINO run the parts of a group as branches of one network, and their own
    profiles tell the times of each; paddings other than zeros count as zeros there. What they have no form of
    here (permutations of channels and the layers of `cnncompress.layers`) is timed in torch, relative to the
    layer.

    Args:
        requests: layers with their replacements.
        setting: the conditions; a runtime that can't run here is an `OptionError`.
        cache: folder that cached files live in; that of downloads by default.
        remeasure: whether to measure what is known, too.
        report: receives the progress, and why a table from before isn't used.

    Returns:
        The table, with all that is known under this setting.
    """
    check_runtime(setting.runtime)
    store = Store(setting, cache, report)
    kept = store.read()
    wanted = wanted_parts(requests, along=_ALONG.get(setting.runtime, 6))
    known = {part: ms for part, ms in kept.items() if not remeasure or part not in _all(wanted)}
    found = Stopwatch(bench_for(setting), TorchBench(setting), report).take(wanted, known)
    if found != kept:
        store.write(found)
    return LatencyTable(setting, found)


_ALONG = {"torch.compile": 3}


def wanted_parts(requests: Sequence[Request], *, along: int = 6) -> dict[Part, set[Part]]:
    """What has to be known, without what equal layers share.

    Args:
        requests: layers with their replacements.
        along: values to keep of each number of channels in large families.

    Returns:
        For each layer the parts that are timed relative to it.
    """
    families: dict[Part, set[Channels]] = {}
    modules: dict[Part, Part] = {}
    home: dict[Part, Part] = {}
    layers = {layer_part(request.layer): set[Part]() for request in requests}
    for request in requests:
        layer = layer_part(request.layer)
        for part in _parts(request.layer, _placed(request)):
            if part.kind == "module":
                modules.setdefault(part, part)
                home.setdefault(part, layer)
            else:
                families.setdefault(part.family, set()).add((part.in_channels, part.out_channels))
                home.setdefault(part.family, layer)
    for part in modules:
        layers[home[part]].add(part)
    for family, asked in families.items():
        layers[home[family]] |= {_member(family, at) for at in knots(asked, along=along)}
    return {layer: parts - layers.keys() for layer, parts in layers.items()}


def _placed(request: Request) -> set[Placed]:
    return {placed for chain in request.chains for placed in placed_steps(request.layer, chain)}


def _parts(layer: LayerInfo, placed: set[Placed]) -> Iterator[Part]:
    return (step_part(layer, *one) for one in placed)


def _member(family: Part, at: Channels) -> Part:
    values = family.to_json() | {"in_channels": at[0], "out_channels": at[1]}
    return Part.from_json(values)


def _all(wanted: Mapping[Part, set[Part]]) -> set[Part]:
    return set(wanted).union(*wanted.values())


class Stopwatch:
    """Times what isn't known.

    Args:
        bench: of the runtime.
        for_modules: of what the runtime has no form of.
        report: receives one step for each part.
        pace: of a group.
    """

    stage = "latency table"

    def __init__(self, bench: Bench, for_modules: Bench, report: Reporter, pace: Pace | None = None) -> None:
        self._bench, self._for_modules, self._report = bench, for_modules, report
        self._pace = pace or Pace()

    def take(self, wanted: Mapping[Part, set[Part]], known: Times) -> dict[Part, float]:
        """Time all that is wanted and not known.

        Args:
            wanted: parts of each layer.
            known: times from before.

        Returns:
            Times of both.
        """
        found = dict(known)
        missing = {layer: sorted(parts - known.keys(), key=_size) for layer, parts in wanted.items()}
        layers = sorted(wanted.keys() - known.keys(), key=_size)
        count = len(layers) + sum(map(len, missing.values()))
        if not count:
            return found
        begun = time.perf_counter()
        self._report(StageStarted(self.stage, count, "parts"))
        if layers:
            reference = max(wanted.keys() & known.keys() or layers, key=_size)
            found |= self._relative(self._bench, reference, layers, found)
        for layer, parts in missing.items():
            modules = [part for part in parts if part.kind == "module"]
            others = [part for part in parts if part.kind != "module"]
            found |= self._relative(self._bench, layer, others, found)
            found |= self._relative(self._for_modules, layer, modules, found)
        self._report(StageDone(self.stage, time.perf_counter() - begun))
        return found

    def _relative(self, bench: Bench, reference: Part, parts: Sequence[Part], known: Times) -> Times:
        found: dict[Part, float] = {}
        for group in _groups(parts):
            others = [part for part in group if part != reference]
            times = bench.times([reference, *others], self._pace)
            whole = {**found, **known}.get(reference, float(np.median(times[:, 0])))
            found[reference] = whole
            ratios = np.median(times[:, 1:] / times[:, :1], axis=0)
            found |= {part: float(ratio) * whole for part, ratio in zip(others, ratios, strict=True)}
            self._report(StageAdvanced(self.stage, len(group)))
        return found


def _groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts that fit into memory together."""
    group: list[Part] = []
    held = 0
    for part in parts:
        if group and held + part.bytes > GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(part)
        held += part.bytes
    if group:
        yield group


def _size(part: Part) -> tuple[int, str]:
    return part.macs, repr(part)
