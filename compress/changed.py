"""Which images the compressed network answers differently, and with what."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncompress.evaluate import Comparison
from cnncompress.image_source import ImageSource
from cnncompress.network import Network
from cnncompress.thumbnails import thumbnails

LOST, GAINED, BOTH_WRONG, CHANGED = "lost", "gained", "both_wrong", "changed"
KINDS = (LOST, GAINED, BOTH_WRONG)
_MOST_PAIRS = 12  # kinds of changes that are listed
_MOST_EXAMPLES = 12
_TURNS = (LOST, LOST, GAINED, BOTH_WRONG, CHANGED)  # what went wrong is asked about most


def changed_answers(
    comparison: Comparison, source: ImageSource, network: Network, *, examples: bool = True
) -> dict[str, Any] | None:
    """Count the images whose class changed, and show some of them.

    Reads those few images once more.

    Args:
        comparison: of the original with the compressed network.
        source: the images that were compared.
        network: for the names of the classes and the preprocessing.
        examples: whether to show some; without, no name and no content of an image gets into the report.

    Returns:
        Entries of the report: counts, the most frequent changes from one class to another, and examples with
        small pictures where the images can be shown. None if the outputs are no scores.
    """
    if comparison.before is None or comparison.after is None:
        return None
    before, after, labels = comparison.before.predicted, comparison.after.predicted, comparison.before.labels
    kinds = _kinds(before, after, labels)
    at = np.flatnonzero(before != after)
    pairs = Counter((int(before[place]), int(after[place])) for place in at)
    shown = _examples(at, kinds, before, after, pairs) if examples else []
    indices = [int(comparison.before.indices[place]) for place in shown]
    pictures = thumbnails(source, indices, network.preprocess)
    names = network.categories
    return {
        "dataset": source.description,
        "images": len(before),
        "changed": len(at),
        **{kind: None if labels is None else int((kinds == kind).sum()) for kind in KINDS},
        "kinds": len(pairs),
        "pairs": [
            {
                "before": class_name(old, names),
                "after": class_name(new, names),
                "images": count,
                **_counts(kinds[(before == old) & (after == new)], known=labels is not None),
            }
            for (old, new), count in sorted(pairs.items(), key=_by_frequency)[:_MOST_PAIRS]
        ],
        "examples": [
            {
                "index": index,
                "file": file_name(source.keys[index], index),
                "kind": str(kinds[place]),
                "label": None if labels is None else class_name(int(labels[place]), names),
                "before": class_name(int(before[place]), names),
                "after": class_name(int(after[place]), names),
                "picture": pictures.get(index),
            }
            for place, index in zip(shown, indices, strict=True)
        ],
    }


def class_name(number: int, names: Sequence[str]) -> str:
    """What people call a class.

    Args:
        number: position among the outputs.
        names: in the order of the outputs; may be too few.

    Returns:
        The name, or the number as text.
    """
    name = names[number] if 0 <= number < len(names) else ""
    return name or str(number)


def file_name(key: str, index: int) -> str:
    """What people call an image.

    Args:
        key: what identifies it in its source.
        index: its position there.

    Returns:
        The last part of a path; the position where the key is no path.
    """
    *folders, name = re.split(r"[/\\]", key)
    if not folders or not name:  # a digest, or a number in a dataset of the user's
        return f"image {index}"
    # names of files may hold bytes that are no text, which no report could be written with
    return name.encode("utf-8", "replace").decode()


def _kinds(
    before: NDArray[np.int64], after: NDArray[np.int64], labels: NDArray[np.int64] | None
) -> NDArray[np.str_]:
    """What became of each image; an empty string where nothing changed."""
    changed = before != after
    if labels is None:
        return np.where(changed, CHANGED, "")
    outcomes = [changed & (before == labels), changed & (after == labels), changed]
    return np.select(outcomes, list(KINDS), "")


def _counts(kinds: NDArray[np.str_], *, known: bool) -> dict[str, int | None]:
    return {kind: int((kinds == kind).sum()) if known else None for kind in KINDS}


def _by_frequency(entry: tuple[tuple[int, int], int]) -> tuple[int, tuple[int, int]]:
    pair, count = entry
    return -count, pair


def _examples(
    at: NDArray[np.intp],
    kinds: NDArray[np.str_],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    pairs: Mapping[tuple[int, int], int],
) -> list[int]:
    """Changed places worth a look, kind by kind; of each kind one of every pair before a second."""
    seen: Counter[tuple[str, int, int]] = Counter()
    ranked: list[tuple[int, int, int]] = []
    for place in map(int, at):
        pair = int(before[place]), int(after[place])
        seen[str(kinds[place]), *pair] += 1
        ranked.append((seen[str(kinds[place]), *pair], -pairs[pair], place))
    waiting = {
        kind: [place for _, _, place in sorted(ranked) if kinds[place] == kind] for kind in (*KINDS, CHANGED)
    }
    taken: dict[str, list[int]] = {kind: [] for kind in waiting}
    for kind in islice(cycle(_TURNS), len(_TURNS) * _MOST_EXAMPLES):
        if waiting[kind] and sum(map(len, taken.values())) < _MOST_EXAMPLES:
            taken[kind].append(waiting[kind].pop(0))
    return [place for places in taken.values() for place in places]
