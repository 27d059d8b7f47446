"""The demo's images: electroluminescence photographs of solar cells, functional or defective.

The dataset `elpv-dataset <https://github.com/zae-bayern/elpv-dataset>`_ (Buerhop-Lutz et al. 2018; Deitsch
et al. 2019 and 2021) has 2,624 grey images of 300 x 300 pixels, licensed CC BY-NC-SA 4.0: not for commercial
use. It is read where its own package installed it and never copied. Four probabilities of a defect occur, 0,
1/3, 2/3 and 1; from 0.5 on a cell counts as defective.

No image occurs twice. But the cells come from 44 modules, and the dataset doesn't say which cell from which,
so cells of one module are on both sides of the split: accuracy on modules never seen is lower, and the heads'
file states an estimate of it (``accuracy_other_modules``).
"""

import hashlib
import importlib.resources
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cnncompress.errors import DataError

CATEGORIES = ("functional", "defective")
THRESHOLD = 0.5
TEST_IMAGES = 656  # a quarter
LICENCE = "elpv-dataset: CC BY-NC-SA 4.0, not for commercial use"


@dataclass(frozen=True)
class Cell:
    """One image of the dataset.

    Attributes:
        path: the PNG file.
        probability: of a defect, as the experts saw it.
        kind: ``"mono"`` or ``"poly"``, the crystal of the module.
    """

    path: Path
    probability: float
    kind: str

    @property
    def label(self) -> int:
        """Index into `CATEGORIES`."""
        return int(self.probability >= THRESHOLD)


@dataclass(frozen=True)
class LabelledImages:
    """Image files with labels.

    Attributes:
        paths: image files.
        labels: for each file an index into `CATEGORIES`.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def elpv_cells() -> list[Cell]:
    """All images of the installed dataset, in its own order.

    Returns:
        The images.

    Raises:
        DataError: the dataset isn't installed or isn't as expected.
    """
    try:
        folder = Path(str(importlib.resources.files("elpv_dataset"))) / "data"
        rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines()]
        return [Cell(folder / name, float(probability), kind) for name, probability, kind in rows]
    except ModuleNotFoundError:
        raise DataError("the demo's images aren't installed; run: pip install 'cnncompress[demo]'") from None
    except (OSError, ValueError) as error:
        raise DataError(f"the installed elpv-dataset can't be read ({error}); reinstall it") from None


def elpv_split(seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
    """Divide the images into a training part and a test part.

    Both parts have the same share of every defect probability and crystal. The head was trained, and a
    compressed network is to be calibrated, on images of the training part only.

    Args:
        seed: chooses the division; the shipped heads belong to seed 0.

    Returns:
        The training part, 1,968 images, and the test part, 656 images; each in a fixed order that
        mixes the classes.
    """
    strata: dict[tuple[float, str], list[Cell]] = defaultdict(list)
    order = partial(_shuffled, seed=seed)
    for cell in elpv_cells():
        strata[cell.probability, cell.kind].append(cell)
    groups = [sorted(strata[key], key=order) for key in sorted(strata)]
    counts = _shares([len(group) for group in groups], TEST_IMAGES)
    train = [cell for group, count in zip(groups, counts, strict=True) for cell in group[count:]]
    test = [cell for group, count in zip(groups, counts, strict=True) for cell in group[:count]]
    return _labelled(sorted(train, key=order)), _labelled(sorted(test, key=order))


def _shuffled(cell: Cell, *, seed: int) -> str:
    # A hash of the name stays the same on every machine and version, unlike a random generator.
    return hashlib.sha256(f"{seed}:{cell.path.name}".encode()).hexdigest()


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    # Whole numbers in proportion to the sizes that add up to the total, by largest remainders.
    exact = [size * total / sum(sizes) for size in sizes]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda index: shares[index] - exact[index])
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def _labelled(cells: Sequence[Cell]) -> LabelledImages:
    return LabelledImages(tuple(cell.path for cell in cells), tuple(cell.label for cell in cells))
