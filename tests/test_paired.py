"""Paired differences of accuracies and their intervals."""

from math import comb

import numpy as np
import pytest
from scipy.stats import norm

from cnncompress.paired import images_needed, paired_drop


def outcomes(lost, gained, images):
    """Right answers before and after with so many changes."""
    before, after = np.zeros(images, dtype=bool), np.zeros(images, dtype=bool)
    before[:lost] = True
    after[lost : lost + gained] = True
    return before, after


def test_drop_is_the_difference_of_accuracies():
    rng = np.random.default_rng(0)
    before, after = rng.random(300) < 0.9, rng.random(300) < 0.8
    found = paired_drop(before, after)
    assert found.drop == pytest.approx(100 * (before.mean() - after.mean()))
    assert found.low < found.drop < found.high


@pytest.mark.parametrize("images", [1, 7, 50, 1000])
def test_networks_that_never_differ_may_still_differ_elsewhere(images):
    found = paired_drop(np.ones(images, dtype=bool), np.ones(images, dtype=bool))
    quantile = norm.ppf(0.975)
    # the closed form of the interval where nothing changed
    expected = 100 * quantile**2 / (images + quantile**2)
    assert found.high == pytest.approx(expected, rel=1e-4)
    assert found.low == pytest.approx(-expected, rel=1e-4)
    assert found.p_value == 1


@pytest.mark.parametrize(("lost", "gained"), [(3, 0), (12, 2), (5, 5), (0, 40), (40, 0), (25, 15)])
def test_exchanging_the_networks_mirrors_the_interval(lost, gained):
    one, other = paired_drop(*outcomes(lost, gained, 40)), paired_drop(*outcomes(gained, lost, 40))
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-6)
    assert one.p_value == pytest.approx(other.p_value)
    assert -100 <= one.low <= one.drop <= one.high <= 100


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_interval_excludes_zero_where_mcnemars_test_does(confidence):
    for lost, gained in [(9, 1), (6, 2), (15, 4), (8, 8), (30, 12)]:
        found = paired_drop(*outcomes(lost, gained, 200), confidence=confidence)
        statistic = (lost - gained) / (lost + gained) ** 0.5
        assert (found.low > 0) == (statistic > norm.ppf((1 + confidence) / 2))


@pytest.mark.parametrize(
    ("share_lost", "share_gained"), [(0.02, 0.01), (0.05, 0.05), (0.1, 0.02), (0.3, 0.1)]
)
def test_interval_covers_the_truth_as_often_as_it_says(share_lost, share_gained):
    images, covered = 30, 0.0
    same = 1 - share_lost - share_gained
    for lost in range(images + 1):
        for gained in range(images + 1 - lost):
            ways = comb(images, lost) * comb(images - lost, gained)
            chance = ways * share_lost**lost * share_gained**gained * same ** (images - lost - gained)
            if chance > 1e-6:
                found = paired_drop(*outcomes(lost, gained, images))
                covered += chance * (found.low <= 100 * (share_lost - share_gained) <= found.high)
    assert covered > 0.93


def test_more_images_narrow_the_interval():
    found = paired_drop(*outcomes(60, 30, 3000))
    wanted = (found.high - found.low) / 4  # half as wide
    needed = images_needed(3000, 2 * wanted, wanted)
    assert needed == pytest.approx(4 * 3000, rel=0.02)
    scaled = paired_drop(*outcomes(60 * needed // 3000, 30 * needed // 3000, needed))
    assert (scaled.high - scaled.low) / 2 == pytest.approx(wanted, rel=0.05)
