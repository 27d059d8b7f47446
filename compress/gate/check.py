"""The whole of ``cnncompress check``: measure a folder of results and hold it against thresholds."""

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.data import Source, open_source
from cnncompress.default_data import default_data
from cnncompress.devices import usable_device
from cnncompress.environment import environment
from cnncompress.errors import DataError, OutputError
from cnncompress.events import Note, Reporter, silent
from cnncompress.gate.accuracies import Accuracies, Run, accuracies
from cnncompress.gate.baseline import Baseline
from cnncompress.gate.costs import counted_macs, stored_bytes
from cnncompress.gate.judge import judge
from cnncompress.gate.reference import Reference, architecture, baseline_of
from cnncompress.gate.thresholds import Thresholds
from cnncompress.gate.verdict import Verdict
from cnncompress.image_source import ImageSource
from cnncompress.loading import load
from cnncompress.memory_layout import faster_layout
from cnncompress.originals import fed_as_planned
from cnncompress.plan import Plan
from cnncompress.zoo.elpv_networks import BACKBONE_OF


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The outcome of a check, with what a baseline keeps of it.

    Attributes:
        verdict: the outcome.
        baseline: for `Baseline.write`; None where the original wasn't run.
    """

    verdict: Verdict
    baseline: Baseline | None


_ORIGINAL = Reference()


def check_folder(
    folder: Path,
    thresholds: Thresholds,
    *,
    evaluation: Source | None = None,
    labels: Path | None = None,
    reference: Reference = _ORIGINAL,
    accuracy: bool = False,
    device: str = "cpu",
    batch_size: int = 32,
    max_bad: float = 0.01,
    report: Reporter = silent,
) -> Checked:
    """Measure a compressed network and hold it against thresholds.

    Nothing is taken from report.json but the name of the original's weights: costs are counted on the
    networks, accuracies are measured on images.

    Args:
        folder: that ``cnncompress MODEL`` or `Result.save` wrote.
        thresholds: to be kept; none at all measures only.
        evaluation: images with labels, as `open_source` knows them; None takes the demo's own where
            accuracies are wanted, and measures none otherwise.
        labels: file of lines ``filename,label`` for a flat folder.
        reference: what the network is compared with.
        accuracy: measure accuracies even where no threshold asks for them, for a baseline.
        device: torch device.
        batch_size: images at a time.
        max_bad: largest share of images that may be unreadable.
        report: receives the progress.

    Returns:
        The verdict, and what a baseline keeps.

    Raises:
        DataError: images are missing, can't be read or have no labels, or are others than the baseline's.
        ModelError: the original network is needed and can't be had.
        NumericsError: an output is NaN or infinite.
        OptionError: a threshold makes no sense for this network, or the device can't be used.
        OutputError: the folder or the baseline can't be read.
    """  # noqa: DOC502  # some are raised by what is called
    plan = Plan.read(folder / "plan.json")
    kept = baseline_of(folder, plan, reference)
    source = _images(plan, evaluation, labels, max_bad, wanted=accuracy or thresholds.of_accuracy)
    layers = architecture(plan, reference)
    compressed = load(folder, layers)
    macs, size = counted_macs(plan, layers, compressed), stored_bytes(folder)
    found: Accuracies | None = None
    if source is not None:
        layout = faster_layout(layers, plan.input_size)
        run = Run(source, usable_device(device), layout, batch_size, report)
        found = accuracies(folder, plan, compressed, reference, kept, run)
        _check_most_compared(found.paired["n"], len(source), max_bad)
    paired = None if found is None else found.paired
    findings, coarse = judge(thresholds, accuracy=paired, macs=macs, size=size)
    warnings = (*(found.doubts if found is not None else ()), *coarse)
    for warning in warnings:
        report(Note(warning))
    verdict = Verdict(
        network=plan.network,
        folder=str(folder),
        findings=findings,
        gate=thresholds.gate,
        against=found.against if found is not None else "",
        accuracy=paired,
        macs=macs,
        size=size,
        data=_described(source),
        warnings=warnings,
        environment=environment(),
    )
    return Checked(verdict=verdict, baseline=found.baseline if found is not None else None)


def _images(
    plan: Plan, evaluation: Source | None, labels: Path | None, max_bad: float, *, wanted: bool
) -> ImageSource | None:
    network = fed_as_planned(plan, nn.Identity())
    if network.input_size != plan.input_size:
        raise OutputError(
            f"plan.json of {plan.network} prepares images of size {network.input_size} for an input of "
            f"{plan.input_size}; compress the network again"
        )
    if evaluation is None:
        if not wanted:
            return None
        if plan.network not in BACKBONE_OF:
            raise DataError(
                f"{plan.network} brings no images of its own: give some with labels (--eval: class folders, "
                "a flat folder with --labels, .npz, .pt or tar shards)"
            )
        return default_data(network, 1, 0)[1]
    return open_source(
        evaluation,
        preprocess=network.preprocess,
        labels=labels,
        categories=plan.categories,
        max_bad=max_bad,
        need_labels=True,
    )


def _check_most_compared(compared: int, images: int, max_bad: float) -> None:
    """A source refuses what it can't read itself; a baseline may have been made where more was unreadable."""
    if images - compared > ceil(max_bad * images):
        raise DataError(
            f"{compared} of {images} images could be read both now and for the baseline, which is less than "
            f"--max-bad {max_bad:g} allows; write the baseline anew where all images can be read"
        )


def _described(source: ImageSource | None) -> dict[str, Any] | None:
    if source is None:
        return None
    return {"description": source.description, "hash": source.hash, "images": len(source)}
