"""Mends a compressed network with unlabelled images, in closed form, before any training."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from torch import nn

from cnncompress.distributed import ALONE, World
from cnncompress.distributed.shard import settle
from cnncompress.errors import NumericsError, OptionError, unknown_name
from cnncompress.events import Reporter, StageAdvanced, StageDone, StageStarted, silent
from cnncompress.folding import copy_sharing_weights
from cnncompress.gather import held_out_images
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo
from cnncompress.repair.candidates import AS_IT_IS, best_of, candidates, errors_of, require_finite
from cnncompress.repair.factor import LastFactor, find_last_factor
from cnncompress.repair.norms import own_norms, reestimate_norms_
from cnncompress.repair.output_error import OutputError
from cnncompress.repair.repaired import LayerRepair, Repaired
from cnncompress.repair.samples import Judges, gather
from cnncompress.repair.walk import Walk, Walked
from cnncompress.training.images import readable

STEPS = ("norms", "bias", "refit")
_STAGE = "repair"


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What stays the same for all layers."""

    source: ImageSource
    judges: Judges
    steps: Sequence[str]
    batch_size: int
    memory: int
    world: World
    report: Reporter


@dataclass(frozen=True)
class _State:
    """A network, how far its output is off, and what led to it."""

    network: nn.Module
    error: float
    layers: tuple[LayerRepair, ...] = ()
    norms: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def repair_network(
    original: nn.Module,
    compressed: nn.Module,
    layers: Sequence[LayerInfo],
    replaced: Sequence[str],
    source: ImageSource,
    *,
    steps: Sequence[str] = STEPS,
    holdout: float = 0.2,
    seed: int = 0,
    batch_size: int = 10,
    memory: int = 1_000_000_000,
    world: World = ALONE,
    report: Reporter = silent,
) -> tuple[nn.Module, Repaired]:
    """Bring a compressed network nearer to the original without labels and without training.

    ``"norms"`` estimates the statistics of the BatchNorms that remain again. ``"bias"`` makes the mean of
    each replaced layer's response that of the original, ``"refit"`` solves the last factor of each replaced
    layer by least squares. Layers follow in the order of execution, each on the prefix that is repaired
    already, and each keeps what has the least error of its response after the activation on held-out images,
    which nothing is fitted to. Norms follow the layers: their statistics shall be those of the network that
    is returned, and layers fitted behind norms that were moved before them come out worse. If layers together
    bring the whole network's output farther from the original's on held-out images, only those stay that each
    bring it nearer; norms stay if they do.

    Args:
        original: in evaluation mode, BatchNorm folded as for the compression; left as it was.
        compressed: the same with replaced layers, channels of their outputs in the original's order; left as
            it was.
        layers: description of the layers, in the order of execution.
        replaced: names of those that were replaced.
        source: images, of all processes or dealt out to them.
        steps: what may be repaired, in any order.
        holdout: share of the images that judge.
        seed: draws those images and the places that are sampled.
        batch_size: images run at a time.
        memory: bytes that kept values may take.
        world: the processes that share the work.
        report: receives the progress.

    Returns:
        A copy that shares all weights that weren't changed, and what was done.

    Raises:
        OptionError: a step or a layer is unknown.
        NumericsError: a response or an output is NaN or infinite.
    """  # noqa: DOC502  # some are raised by what is called
    begun = time.perf_counter()
    _check(steps, layers, replaced)
    settle(source)
    usable = readable(source)
    held_out = held_out_images(usable, share=holdout, seed=seed)
    settings = _Settings(
        source=source,
        judges=Judges(held_out=held_out, fitted=len(usable) - len(held_out), seed=seed),
        steps=steps,
        batch_size=batch_size,
        memory=memory,
        world=world,
        report=report,
    )
    chosen = [layer for layer in layers if layer.name in set(replaced)]
    report(StageStarted(_STAGE, len(chosen), "layers"))
    judge = OutputError(original, source, held_out, batch_size=batch_size, world=world)
    start = copy_sharing_weights(compressed).eval()
    before = judge.of(start)
    best = _State(start, before)
    if chosen and set(steps) - {"norms"}:
        best = _better_layers(original, best, chosen, settings, judge)
    if "norms" in steps:
        best = _better_norms(best, _norms(original, best, settings), judge)
    if best.error == inf:  # a layer that is at fault has been named by then
        raise NumericsError(
            "the original or the compressed network's output holds NaN or infinity on calibration images, so "
            "it can't be repaired; check the images and the weights"
        )
    settle(source)
    seconds = time.perf_counter() - begun
    report(StageDone(_STAGE, seconds))
    repaired = Repaired(
        layers=best.layers,
        norms=best.norms,
        output_before=before,
        output_after=best.error,
        seconds=seconds,
        kept=best.network is not start,
        note="; ".join(best.notes),
    )
    return best.network, repaired


def _check(steps: Sequence[str], layers: Sequence[LayerInfo], replaced: Sequence[str]) -> None:
    for step in steps:
        if step not in STEPS:
            raise OptionError(unknown_name("repair step", step, STEPS))
    known = {layer.name for layer in layers}
    for name in replaced:
        if name not in known:
            raise OptionError(unknown_name("layer", name, known))


def _better_layers(
    original: nn.Module, best: _State, chosen: Sequence[LayerInfo], settings: _Settings, judge: OutputError
) -> _State:
    """All layers together, or if that is worse, those that each bring the output nearer."""
    trial, notes = _layers(original, best, chosen, settings), best.notes
    if not all(layer.chosen == AS_IT_IS for layer in trial.layers):
        error = judge.of(trial.network)
        if error < best.error:
            return replace(trial, error=error)
        trial = _layers(original, best, chosen, settings, judge)
        notes = (*notes, *_undone("layers", error, best.error))
    if all(layer.chosen == AS_IT_IS for layer in trial.layers):
        return replace(best, layers=trial.layers, notes=notes)
    return replace(trial, notes=notes)


def _better_norms(best: _State, trial: _State, judge: OutputError) -> _State:
    """The trial unless it is worse on held-out images."""
    if not trial.norms:
        return best
    error = judge.of(trial.network)
    if error < best.error:
        return replace(trial, error=error)
    return replace(best, notes=(*best.notes, *_undone("norms", error, best.error)))


def _undone(what: str, error: float, without: float) -> tuple[str, ...]:
    if error == without:  # nothing was lost there
        return ()
    return (
        f"{what} were repaired and put back, all or some: on held-out images the output's relative error was "
        f"{error:.3g} with all of it, {without:.3g} without",
    )


def _norms(original: nn.Module, start: _State, settings: _Settings) -> _State:
    network = copy_sharing_weights(start.network)
    names = reestimate_norms_(
        copy_sharing_weights(original),
        network,
        settings.source,
        without=settings.judges.held_out,
        batch_size=settings.batch_size,
        memory=settings.memory,
        world=settings.world,
    )
    return replace(start, network=network, norms=names)


def _layers(
    original: nn.Module,
    start: _State,
    chosen: Sequence[LayerInfo],
    settings: _Settings,
    judge: OutputError | None = None,
) -> _State:
    """Layer by layer; with a judge of the output each is put back that doesn't bring it nearer."""
    network, error = copy_sharing_weights(start.network), start.error
    plain = {layer.name: original.get_submodule(layer.name) for layer in chosen}
    walk = Walk(
        Walked(copy_sharing_weights(original), own_norms(original)),
        Walked(network, own_norms(network) | plain),
        settings.source,
        batch_size=settings.batch_size,
        memory=settings.memory,
    )
    done = []
    for layer in chosen:
        before = network.get_submodule(layer.name)
        record = _layer(original, network, layer, walk, settings)
        if judge is not None and record.chosen != AS_IT_IS:
            found = judge.of(network)
            if found < error:
                error = found
            else:
                network.set_submodule(layer.name, before)
                record = replace(record, chosen=AS_IT_IS)
        elif judge is None:
            settings.report(StageAdvanced(_STAGE))
        done.append(record)
    return replace(start, network=network, error=error, layers=tuple(done))


def _layer(
    original: nn.Module, network: nn.Module, layer: LayerInfo, walk: Walk, settings: _Settings
) -> LayerRepair:
    """Give one replacement the best last factor."""
    # copies: the walk may stop at the modules themselves whenever they run
    module, replacement = (
        copy_sharing_weights(whole.get_submodule(layer.name)) for whole in (original, network)
    )
    factor = find_last_factor(replacement, layer)
    if not isinstance(factor, LastFactor):
        return LayerRepair(name=layer.name, chosen=AS_IT_IS, errors={}, reason=factor)
    gathered = gather(layer, module, replacement, factor, walk, settings.judges, settings.world)
    require_finite(gathered, layer)
    options = candidates(gathered, factor, settings.steps, settings.world)
    errors = errors_of(options, gathered, factor, layer, settings.world)
    best = settings.world.share(best_of(errors, factor))
    option = options[best]
    if option is not None:
        option.put_(factor.module)
        network.set_submodule(layer.name, replacement)
    reason = factor.obstacle if "refit" in settings.steps else ""
    return LayerRepair(name=layer.name, chosen=best, errors=errors, reason=reason)
