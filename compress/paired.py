"""Two networks on the same images: how much accuracy one loses to the other, and how sure that is."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

CONFIDENCE = 0.95
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class PairedDrop:
    """Accuracy before less accuracy after, on the same images.

    Attributes:
        images: how many there were.
        lost: images that only the first network got right.
        gained: images that only the second network got right.
        drop: in points, negative for a gain.
        low: lower end of the drop's confidence interval, points.
        high: upper end.
        p_value: of the exact McNemar test, that the two networks are equally accurate.
    """

    images: int
    lost: int
    gained: int
    drop: float
    low: float
    high: float
    p_value: float


def paired_drop(
    before: NDArray[np.bool_], after: NDArray[np.bool_], *, confidence: float = CONFIDENCE
) -> PairedDrop:
    """Compare two networks that saw the same images.

    Only images on which one is right and the other wrong tell anything (McNemar 1947). The interval holds
    all drops that the score test of Tango (1998, "Equivalence test and confidence interval for the
    difference in proportions for the paired-sample design", eq. 8) doesn't refuse; at a drop of 0 that is
    McNemar's test. Unlike the interval of the mean difference it isn't empty where the networks never differ.

    Args:
        before: whether the first network was right, one entry an image.
        after: whether the second one was.
        confidence: of the interval, two-sided.

    Returns:
        The drop with its interval.
    """
    images = len(before)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    low, high = _tango_interval(lost, gained, images, float(norm.ppf((1 + confidence) / 2)))
    return PairedDrop(
        images=images,
        lost=lost,
        gained=gained,
        drop=100 * (lost - gained) / images,
        low=100 * low,
        high=100 * high,
        p_value=float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0,
    )


def images_needed(images: int, half_width: float, wanted: float) -> int:
    """How many images would make an interval so narrow, were they like those that were seen.

    Args:
        images: at hand.
        half_width: of the interval on them, in points.
        wanted: half of the width that is wanted, in points.

    Returns:
        In hundreds, since widths shrink only about with the square root of the number of images.
    """
    return int(np.ceil(images * (half_width / wanted) ** 2 / 100)) * 100


def _tango_interval(lost: int, gained: int, images: int, quantile: float) -> tuple[float, float]:
    drop = (lost - gained) / images

    def beyond(difference: float) -> float:
        return abs(_score(lost, gained, images, difference)) - quantile

    # the score is 0 at the drop itself and grows away from it, beyond all bounds towards -1 and 1
    edge = 1 - _TOLERANCE
    low = -1.0 if beyond(-edge) <= 0 else brentq(beyond, -edge, min(max(drop, -edge), edge))
    high = 1.0 if beyond(edge) <= 0 else brentq(beyond, min(max(drop, -edge), edge), edge)
    return float(low), float(high)


def _score(lost: int, gained: int, images: int, difference: float) -> float:
    """Tango's statistic for the hypothesis that this is the true difference of the accuracies."""
    # the likeliest share of gained images under the hypothesis solves 2 n q² + linear q + constant = 0
    linear = -lost - gained + (2 * images - lost + gained) * difference
    constant = -gained * difference * (1 - difference)
    share = (sqrt(max(linear**2 - 8 * images * constant, 0.0)) - linear) / (4 * images)
    variance = images * (2 * share + difference * (1 - difference))
    distance = lost - gained - images * difference
    if variance <= 0:
        return 0.0 if distance == 0 else float(np.sign(distance)) * float("inf")
    return distance / sqrt(variance)
