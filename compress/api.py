"""The whole run: calibrate, plan, factorize, evaluate, measure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from cnncompress.data import Source, open_source
from cnncompress.default_data import default_data
from cnncompress.distributed import ALONE, World
from cnncompress.drop_search import check_drop, search_within_drop
from cnncompress.errors import OptionError
from cnncompress.events import Reporter, silent
from cnncompress.image_source import ImageSource
from cnncompress.loading import load
from cnncompress.network import Network, Preprocess
from cnncompress.options import Options
from cnncompress.result import Result
from cnncompress.session import Session

__all__ = [
    "Options",
    "Result",
    "compress",
    "compress_model",
    "compress_speedups",
    "compress_within_drop",
    "default_data",
    "load",
]

_UNLABELLED = "a largest drop needs labelled images to measure it by; pass evaluation images (--eval)"


def compress_model(
    model: nn.Module,
    data: Source,
    *,
    speedup: float = 4.0,
    eval_data: Source | None = None,
    train_data: Source | None = None,
    report: Reporter = silent,
    world: World = ALONE,
    **options: Any,
) -> Result:
    """Compress any torch network.

    Args:
        model: never changed.
        data: calibration images, preprocessed batches or anything that
            `cnncompress.data.open_source` reads; labels aren't needed.
        speedup: original over compressed cost of the convolutions.
        eval_data: images with labels, to measure the accuracy.
        train_data: images to fine-tune on; None takes the calibration images.
        report: receives the progress.
        world: the processes that share the work, from `cnncompress.joined`; all get the result, the first
            one should save it.
        **options: further fields of `Options`.

    Returns:
        The compressed network with its plan and report.
    """
    chosen = Options(speedup=speedup, **options)
    raw = Preprocess()
    opened = open_source(data, preprocess=None, limit=chosen.images, seed=chosen.seed)
    first = next(iter(opened.batches(1))).images
    channels, height, width = first.shape[1:]
    plain = Preprocess(resize=None, crop=(height, width), mean=(0.0,) * channels, std=(1.0,) * channels)
    shaped = raw if (channels, height, width) == (3, *raw.crop) else plain
    network = Network(name=type(model).__name__, model=model, preprocess=shaped)
    evaluation = (
        open_source(eval_data, preprocess=shaped, need_labels=True) if eval_data is not None else None
    )
    training = open_source(train_data, preprocess=shaped) if train_data is not None else None
    return compress(network, opened, evaluation, chosen, report, training=training, world=world)


def compress(
    network: Network,
    calibration: ImageSource | None,
    evaluation: ImageSource | None,
    options: Options,
    report: Reporter = silent,
    *,
    training: ImageSource | None = None,
    world: World = ALONE,
) -> Result:
    """Compress a network.

    Args:
        network: never changed.
        calibration: images; None takes `default_data`.
        evaluation: images with labels; None compares the two networks on held-out calibration images.
        options: of the run.
        report: receives the progress.
        training: images to fine-tune on; None takes the calibration images.
        world: the processes that share the work, from `cnncompress.joined`; all get the result, the first
            one should save it.

    Returns:
        The compressed network with its plan and report.
    """
    session = Session(network, calibration, evaluation, options, report, training=training, world=world)
    return session.run()


def compress_speedups(
    network: Network,
    calibration: ImageSource | None,
    evaluation: ImageSource | None,
    options: Options,
    speedups: Sequence[float],
    report: Reporter = silent,
    *,
    training: ImageSource | None = None,
    world: World = ALONE,
) -> Iterator[Result]:
    """Compress a network to several speedups after one calibration.

    Args:
        network: never changed.
        calibration: images; None takes `default_data`.
        evaluation: images with labels; None compares on held-out calibration images.
        options: of the run; their speedup is not used.
        speedups: asked for, in this order.
        report: receives the progress.
        training: images to fine-tune on; None takes the calibration images.
        world: the processes that share the work, from `cnncompress.joined`; all get the result, the first
            one should save it.

    Yields:
        A result for each, as soon as it is made.

    Raises:
        OptionError: there is no speedup.
    """
    if not speedups:
        raise OptionError("name at least one speedup")
    each = [replace(options, speedup=speedup) for speedup in speedups]
    session = Session(
        network, calibration, evaluation, each[0], report, training=training, speedups=speedups, world=world
    )
    for one in each:
        yield session.run(one)


def compress_within_drop(
    network: Network,
    calibration: ImageSource | None,
    evaluation: ImageSource | None,
    options: Options,
    max_drop: float,
    report: Reporter = silent,
    *,
    training: ImageSource | None = None,
    world: World = ALONE,
) -> Result:
    """The fastest network that loses no more accuracy than allowed.

    Args:
        network: never changed.
        calibration: images; None takes `default_data`.
        evaluation: images with labels; None takes the demo's own.
        options: of the run; their speedup is the first one tried.
        max_drop: of top-1 accuracy on the evaluation images, in points.
        report: receives the progress.
        training: images to fine-tune on; None takes the calibration images.
        world: the processes that share the work, from `cnncompress.joined`; all get the result, the first
            one should save it.

    Returns:
        The result, whose report lists all speedups that were tried.

    Raises:
        OptionError: the drop isn't positive, or there are no labels to measure it by.
    """
    check_drop(max_drop)
    if calibration is not None and evaluation is None:  # only default data bring labels of their own
        raise OptionError(_UNLABELLED)
    session = Session(
        network,
        calibration,
        evaluation,
        options,
        report,
        training=training,
        speedups=(options.speedup, 2.0),
        world=world,
    )
    if session.evaluation is None:
        raise OptionError(_UNLABELLED)
    return search_within_drop(session.run, options, max_drop, report if world.is_first else silent)
