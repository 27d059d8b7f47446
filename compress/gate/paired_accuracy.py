"""Accuracies of two networks on the same images, with the interval of their difference."""

from typing import Any

import numpy as np

from cnncompress.errors import DataError
from cnncompress.gate.outcomes import Bits, Outcomes
from cnncompress.paired import paired_drop


def paired_accuracy(before: Outcomes, after: Outcomes) -> dict[str, Any]:
    """Compare two networks on the images that both could read.

    Args:
        before: of the reference.
        after: of the compressed network, on the same list.

    Returns:
        ``n``, the number of images, and ``top1`` and ``top5``, each with ``before``, ``after``, ``drop``,
        its interval from ``low`` to ``high``, ``lost``, ``gained`` and ``p_value``; top5 is None where there
        are no more than five classes.

    Raises:
        DataError: no image was read in both cases.
    """
    both = before.read & after.read
    if not both.any():
        raise DataError("no image could be read both now and when the reference was measured")
    five = None
    if before.top5 is not None and after.top5 is not None:
        five = _entries(before.top5[both], after.top5[both])
    return {"n": int(both.sum()), "top1": _entries(before.top1[both], after.top1[both]), "top5": five}


def _entries(before: Bits, after: Bits) -> dict[str, Any]:
    found = paired_drop(before, after)
    return {
        "before": 100 * float(np.mean(before)),
        "after": 100 * float(np.mean(after)),
        "drop": found.drop,
        "low": found.low,
        "high": found.high,
        "lost": found.lost,
        "gained": found.gained,
        "p_value": found.p_value,
    }
