"""Where a training finds its images, and where its results go."""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cnncompress.errors import DataError, OutputError
from cnncompress.image_labels import class_numbers

STATE = "training.pt"
WEIGHTS = "model.safetensors"
SUMMARY = "train.json"
_TEST_NAMES = ("test", "val")
_OF_COMPRESS = "plan.json"


class ImageFolders(NamedTuple):
    """Folders of class folders: to train on, and to test on."""

    training: Path
    test: Path


def find_images(data: Path, evaluation: Path | None) -> ImageFolders:
    """Find the two folders of images.

    Args:
        data: holds ``train`` and perhaps ``test`` or ``val``, or is itself a folder of class folders.
        evaluation: the test images, if they lie elsewhere.

    Returns:
        Both.

    Raises:
        DataError: a folder is missing.
    """
    for folder in (data, evaluation):
        if folder is not None and not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
    training = data / "train" if (data / "train").is_dir() else data
    beside = (data / name for name in _TEST_NAMES if training != data)
    test = evaluation or next((folder for folder in beside if folder.is_dir()), None)
    if test is None:
        raise DataError(
            f"{data}: no images to test on; give --eval FOLDER, or put them into {data / 'test'} beside "
            f"{data / 'train'}"
        )
    if test.resolve() == training.resolve():
        raise DataError(f"{test}: are the training images too; give others to test on")
    return ImageFolders(training, test)


def class_names(folder: Path) -> tuple[str, ...]:
    """Names of the classes in the order of the network's outputs.

    Args:
        folder: of class folders. Folders named by numbers keep them, all others are numbered by the alphabet.

    Returns:
        One name for each output.

    Raises:
        DataError: there are fewer than two classes.
    """
    try:
        shown = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
        names = [entry.name for entry in shown if entry.is_dir()]
    except OSError as error:
        raise DataError(f"{folder}: can't be read ({error.strerror})") from None
    if len(names) < 2:
        raise DataError(
            f"{folder}: {len(names)} class folders in it; training needs a sub-folder with images for each "
            "of at least 2 classes"
        )
    by_number = {number: name for name, number in class_numbers(names, ()).items()}
    return tuple(by_number.get(number, str(number)) for number in range(max(by_number) + 1))


def check_classes(test: Path, categories: tuple[str, ...]) -> None:
    """Refuse test images of a class that the training images don't have: they would count as another one.

    Args:
        test: folder of the test images' class folders.
        categories: names of the training images' classes.

    Raises:
        DataError: a class is unknown.
    """
    known = {_spelled(name) for name in categories}
    for entry in sorted(test.iterdir()):
        name = _spelled(entry.name)
        if entry.is_dir() and not name.startswith(".") and name not in known and not name.isdigit():
            raise DataError(
                f"{entry}: no training images are of this class; rename the folder to one of "
                f"{', '.join(categories[:10])}, or take it away"
            )


def _spelled(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def prepare_output(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Find out before the work whether results can be written, and make the folder.

    Args:
        folder: gets `STATE` after each epoch, and `WEIGHTS` and `SUMMARY` in its place at the end.
        resume: it holds an interrupted training to go on with.
        overwrite: earlier results in it may be replaced.

    Raises:
        OutputError: it holds what must not be replaced, has nothing to resume, or can't be written.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, not a folder; choose another output folder")
    if (folder / _OF_COMPRESS).exists():
        raise OutputError(f"{folder}: holds a compressed network; choose another output folder")
    interrupted, finished = (folder / STATE).exists(), (folder / SUMMARY).exists()
    if resume and not interrupted:
        why = "that training has ended" if finished else "no training was interrupted there"
        raise OutputError(f"{folder}: nothing to resume, {why}; leave out --resume")
    if interrupted and not (resume or overwrite):
        raise OutputError(
            f"{folder}: holds an interrupted training; go on with --resume, or begin anew with --overwrite"
        )
    if (finished or (folder / WEIGHTS).exists()) and not (resume or overwrite):
        raise OutputError(
            f"{folder}: holds earlier results; replace them with --overwrite or choose another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be written ({error.strerror}); choose another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: can't be written (no permission); choose another folder")
    if overwrite and not resume:
        (folder / STATE).unlink(missing_ok=True)  # else an early Ctrl-C would leave it as the new training's


def remove_if_empty(folder: Path) -> None:
    """Leave no trace of a training that wrote nothing.

    Args:
        folder: of the results.
    """
    with suppress(OSError):
        folder.rmdir()
