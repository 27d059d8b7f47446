"""The whole of ``cnncompress train``: find the images, build the network, train it, write the results."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnncompress.data import open_source
from cnncompress.devices import usable_device
from cnncompress.distributed import ALONE, World
from cnncompress.errors import DataError, OutputError
from cnncompress.events import Reporter, silent
from cnncompress.export import write_safetensors
from cnncompress.image_loading import CACHE_BYTES
from cnncompress.image_source import ImageSource
from cnncompress.models import load_network
from cnncompress.network import Network
from cnncompress.output import write_json
from cnncompress.training import folders
from cnncompress.training.costs import outputs_of
from cnncompress.training.keeping import KEEP_SECONDS
from cnncompress.training.recipe import Recipe
from cnncompress.training.whole import Trained, stored, train_network


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on what, and where the results go.

    Attributes:
        name: of the network, as `cnncompress.models.load_network` knows it.
        data: folder with ``train`` and perhaps ``test`` or ``val``, or folder of class folders.
        evaluation: folder of the test images; None where it lies in ``data``.
        recipe: how to train.
        output: folder for model.safetensors and train.json.
        checkpoint: weights to start from; None for random ones.
        input_size: height and width of the input, in pixels; None for the network's own.
        device: torch device.
        cache_bytes: most memory for the decoded pixels of each of the two folders.
        max_bad: largest share of images that may be unreadable.
        keep_seconds: between two states in the middle of an epoch, at least.
        resume: go on with the training that was interrupted in ``output``.
        overwrite: earlier results there may be replaced.
    """

    name: str
    data: Path
    evaluation: Path | None = None
    recipe: Recipe
    output: Path
    checkpoint: Path | None = None
    input_size: int | None = None
    device: str = "cpu"
    cache_bytes: int = 4 * CACHE_BYTES
    max_bad: float = 0.01
    keep_seconds: float = KEEP_SECONDS
    resume: bool = False
    overwrite: bool = False


def run_job(job: Job, report: Reporter = silent, world: World = ALONE) -> Trained:
    """Train a network on a folder of images.

    Args:
        job: what to do.
        report: receives the progress.
        world: the processes that share the training; the first writes and reports.

    Returns:
        The trained network; model.safetensors and train.json are written.

    Raises:
        DataError: the images can't be found or read, or don't fit together.
        ModelError: there is no such network, or it gives no class scores.
        NumericsError: the loss became NaN or infinite.
        OptionError: an interrupted training had other settings, or the device can't be used.
        OutputError: results can't be written, or there is nothing to resume.
    """  # noqa: DOC502  # most are raised by what is called
    report = report if world.is_first else silent
    device = usable_device(job.device)
    found = folders.find_images(job.data.expanduser(), job.evaluation and job.evaluation.expanduser())
    network = _start(job, folders.class_names(found.training), report)
    training, test = _open_both(job, network, found)
    world.first(lambda: folders.prepare_output(job.output, resume=job.resume, overwrite=job.overwrite))
    try:
        trained = train_network(
            network,
            training,
            test,
            job.recipe,
            device=device,
            keep=job.output / folders.STATE,
            keep_seconds=job.keep_seconds,
            resume=job.resume,
            world=world,
            report=report,
        )
        world.first(lambda: _write(job.output, trained))
    except BaseException:
        if world.is_first:
            folders.remove_if_empty(job.output)
        raise
    return trained


def _start(job: Job, categories: tuple[str, ...], report: Reporter) -> Network:
    """The network before its training."""
    random = {"weights": "none", "num_classes": len(categories), "seed": job.recipe.seed}
    given = random if job.checkpoint is None else {"checkpoint": job.checkpoint}
    network = load_network(job.name, **given, input_size=job.input_size, report=report)
    outputs = outputs_of(network.model, network.input_size).shape[1]
    if outputs != len(categories):
        raise DataError(
            f"the images are of {len(categories)} classes, but {network.name} ({network.weights}) has "
            f"{outputs} outputs; give images of as many classes, or leave out the checkpoint"
        )
    return replace(network, categories=categories, notes=())


def _open_both(job: Job, network: Network, found: folders.ImageFolders) -> tuple[ImageSource, ImageSource]:
    common: Mapping[str, Any] = {
        "categories": network.categories,
        "need_labels": True,
        "max_bad": job.max_bad,
        "cache_bytes": job.cache_bytes,
    }
    folders.check_classes(found.test, network.categories)
    prepared = stored(network.preprocess, job.recipe.augmentation)
    training = open_source(found.training, preprocess=prepared, **common)
    test = open_source(found.test, preprocess=network.preprocess, **common)
    shared = set(training.keys) & set(test.keys)
    if shared:
        raise DataError(
            f"{min(shared)}: is both a training and a test image, and {len(shared) - 1} others; "
            "the accuracy would flatter: take them out of one of the two"
        )
    return training, test


def _write(folder: Path, trained: Trained) -> None:
    """The weights, then the summary that says that they are whole; each file appears at once."""
    # more would come in any order, and the same training shall give the same file
    write_safetensors(trained.network.model, folder / folders.WEIGHTS, {"format": "pt"})
    temporary = folder / f".{folders.SUMMARY}.tmp"
    try:
        write_json(temporary, trained.summary)
        temporary.replace(folder / folders.SUMMARY)
        (folder / folders.STATE).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be written ({error.strerror}); free space there") from None
    finally:
        temporary.unlink(missing_ok=True)
