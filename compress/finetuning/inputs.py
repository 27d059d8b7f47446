"""What a fine-tuning of a folder starts from: both networks, the plan, the earlier report, the images."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnncompress.data import check_disjoint, open_source
from cnncompress.default_data import default_data
from cnncompress.devices import usable_device
from cnncompress.distributed import World
from cnncompress.errors import CompressError, DataError, OutputError
from cnncompress.events import Note, Reporter
from cnncompress.finetuning.options import FinetuneJob
from cnncompress.folding import fold_batchnorms
from cnncompress.image_source import ImageSource
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.loading import load
from cnncompress.memory_layout import faster_layout
from cnncompress.models import rebuild
from cnncompress.network import Network
from cnncompress.originals import fed_as_planned, from_own_code, load_original
from cnncompress.plan import Plan
from cnncompress.training.whole import stored
from cnncompress.zoo.elpv_networks import BACKBONE_OF


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a caller in Python has in memory already.

    Attributes:
        original: the network that was compressed, as it was given to the run.
        training: images.
        evaluation: images with labels.
    """

    original: nn.Module | None = None
    training: ImageSource | None = None
    evaluation: ImageSource | None = None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a fine-tuning needs.

    Attributes:
        plan: of the folder.
        report: what its report.json holds.
        network: the original architecture, fed as in the plan.
        original: the original network, BatchNorm folded, on the device; None where it can't be had.
        compressed: the network of the folder, on the device.
        layers: of the original, BatchNorm folded.
        training: images to train on.
        evaluation: images with labels, if any.
    """

    plan: Plan
    report: Mapping[str, Any]
    network: Network
    original: nn.Module | None
    compressed: nn.Module
    layers: tuple[LayerInfo, ...]
    training: ImageSource
    evaluation: ImageSource | None

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the replaced layers."""
        return tuple(layer.name for layer in self.plan.layers if layer.method != "none")


def open_inputs(job: FinetuneJob, given: Given, world: World, report: Reporter) -> Inputs:
    """Read the folder, load the networks, open the images.

    Args:
        job: what to do.
        given: what is in memory already.
        world: processes of the run; the first one downloads what is missing.
        report: receives progress and notes.

    Returns:
        All that is needed.

    Raises:
        DataError: images are missing or can't be read, or some both train and evaluate.
        ModelError: the original network is needed and can't be had.
        OutputError: the folder can't be read.
        OptionError: the device can't be used.
    """  # noqa: DOC502  # some are raised by what is called
    device = usable_device(job.device)
    plan, written = Plan.read(job.folder / "plan.json"), _read_report(job.folder)
    with world.first_goes():  # what must be downloaded is downloaded once
        network, problem = _original(job, plan, str(written.get("weights", "")), given.original, report)
    training, evaluation = _images(job, network, given)
    if problem is not None:
        if job.distill is not None or not training.has_labels:
            raise problem
        report(Note(f"the original network isn't at hand, so nothing is compared with it: {problem}"))
    layout = faster_layout(network.model, network.input_size)
    folded = fold_batchnorms(network.model, plan.folded).to(device).to(memory_format=layout)
    compressed = load(job.folder, network.model).to(device).to(memory_format=layout)
    return Inputs(
        plan=plan,
        report=written,
        network=network,
        original=folded if problem is None else None,
        compressed=compressed,
        layers=inspect_layers(folded, network.input_size),
        training=training,
        evaluation=evaluation,
    )


def _read_report(folder: Path) -> dict[str, Any]:
    file = folder / "report.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise OutputError(f"{file}: can't be read as a report: {error}; compress the network again") from None
    if not isinstance(found, dict) or not isinstance(found.get("macs"), dict):
        raise OutputError(f"{file}: is no report of cnncompress; compress the network again")
    return found


def _original(
    job: FinetuneJob, plan: Plan, weights: str, given: nn.Module | None, report: Reporter
) -> tuple[Network, CompressError | None]:
    """The original network; where it can't be had its architecture with random weights, and why."""
    if given is not None:
        return fed_as_planned(plan, given), None
    try:
        return (
            load_original(
                job.folder,
                plan,
                weights,
                name=job.network,
                checkpoint=job.checkpoint,
                asked=job.weights,
                report=report,
            ),
            None,
        )
    except CompressError as error:
        if job.network or job.checkpoint or job.weights != "default" or from_own_code(plan):
            raise
        return fed_as_planned(plan, rebuild(plan.source)), error


def _images(job: FinetuneJob, network: Network, given: Given) -> tuple[ImageSource, ImageSource | None]:
    training, evaluation = given.training, given.evaluation
    common: dict[str, Any] = {"categories": network.categories, "max_bad": job.max_bad}
    if evaluation is None and job.evaluation is not None:
        evaluation = open_source(job.evaluation, preprocess=network.preprocess, need_labels=True, **common)
    if training is None and job.training is not None:
        training = open_source(
            job.training,
            preprocess=stored(network.preprocess, job.recipe.augmentation),
            limit=job.images,
            seed=job.recipe.seed,
            cache_bytes=job.memory,
            **common,
        )
    if training is None:
        if network.name not in BACKBONE_OF:
            raise DataError(
                f"{network.name} brings no training images of its own; give some with --train: a folder of "
                "class folders, or any images where no labels are needed"
            )
        training, beside, _ = default_data(network, job.images or sys.maxsize, job.recipe.seed)
        evaluation = evaluation or beside
    if evaluation is not None:
        check_disjoint(training, evaluation)
    return training, evaluation
