"""From class folders or a labels file to class numbers."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from cnncompress.errors import DataError


def class_numbers(names: Sequence[str], categories: Sequence[str]) -> dict[str, int]:
    """Number the classes as the network numbers its outputs.

    Names that are all numbers stand for themselves. Else, where the network's categories are known and
    hold every name (case and underscores don't count), these decide. Else the sorted names are numbered
    from 0, which is right for ImageNet's folders and whatever else was trained from sorted folders.

    Args:
        names: of the classes, in any order.
        categories: the network's class names in the order of its outputs; empty if unknown.

    Returns:
        Class number by name.

    Raises:
        DataError: the names don't fit the network's categories, neither by name nor by count.
    """
    distinct = sorted(set(names))
    if all(name.isascii() and name.isdigit() for name in distinct):
        return {name: _checked(int(name), name, categories) for name in distinct}
    count = Counter(_folded(category) for category in categories)
    # ImageNet has two cranes and two maillots: such a name decides nothing
    known = {_folded(name): n for n, name in enumerate(categories) if count[_folded(name)] == 1}
    if all(_folded(name) in known for name in distinct):
        return {name: known[_folded(name)] for name in distinct}
    if not categories or len(distinct) == len(categories):
        return {name: number for number, name in enumerate(distinct)}
    stranger = next(name for name in distinct if _folded(name) not in known)
    raise DataError(
        f"{len(distinct)} classes, but the network has {len(categories)} and {stranger!r} is none of them; "
        f"name the classes as the network does (for example {categories[0]!r}) or by output number"
    )


def read_labels(file: Path, images: Sequence[str], categories: Sequence[str]) -> list[int]:
    """Read the labels of some images from a file of lines ``filename,label``.

    Comma, semicolon, tab or spaces separate; a header and lines about other images are passed over;
    columns after the second are ignored, except that after a space they belong to the label.

    Args:
        file: text file, UTF-8.
        images: paths of the images relative to their folder, with forward slashes.
        categories: the network's class names; empty if unknown.

    Returns:
        One class number per image.

    Raises:
        DataError: the file can't be read, an image has no label, or a label fits no class.
    """
    written = _rows(file)
    by_file_name = {PurePosixPath(name).name: label for name, label in written.items()}
    names: list[str] = []
    for image in images:
        label = written.get(image, by_file_name.get(PurePosixPath(image).name))
        if label is None:
            raise DataError(f"{file}: no label for {image}; each line must read 'filename,label'")
        names.append(label)
    try:
        numbers = class_numbers(names, categories)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return [numbers[name] for name in names]


def _rows(file: Path) -> Mapping[str, str]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: labels can't be read ({error})") from None
    separator = next((mark for mark in ",;\t" if lines and mark in lines[0]), None)
    if separator is None:
        fields = [line.split(maxsplit=1) for line in lines]
    else:
        fields = list(csv.reader(lines, delimiter=separator))
    return {row[0].strip().removeprefix("./"): row[1].strip() for row in fields if len(row) > 1}


def _folded(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def _checked(number: int, name: str, categories: Sequence[str]) -> int:
    if categories and number >= len(categories):
        raise DataError(
            f"class {name} is out of range, the network has {len(categories)} outputs counted from 0"
        )
    return number
