"""Groups of channels are found where there are some, and chance is told where there are none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnncompress.solvers.grouping import (
    block_score,
    common_divisors,
    group_channels,
    group_pair,
    suggested_groups,
)


def planted(rng: np.random.Generator, groups: int, size: int, background: float) -> np.ndarray:
    """Correlations of channels in blocks, in random order."""
    n = groups * size
    within = np.kron(np.eye(groups), np.ones((size, size)))
    strengths = np.where(within > 0, rng.uniform(0.5, 0.9, (n, n)), background * rng.random((n, n)))
    strengths = (strengths + strengths.T) / 2
    np.fill_diagonal(strengths, 1.0)
    order = rng.permutation(n)
    return strengths[np.ix_(order, order)]


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    strengths = rng.random((n, n))
    return (strengths + strengths.T) / 2


def test_score_is_the_share_within_blocks() -> None:
    strengths = np.array([[1.0, -2.0, 3.0, 4.0]] * 2)
    labels = np.array([0, 1]), np.array([0, 0, 1, 1])
    assert block_score(strengths, *labels) == pytest.approx((3 + 7) / 20)
    assert block_score(np.zeros((2, 4)), *labels) == 0.0
    assert block_score(strengths, np.zeros(2, int), np.zeros(4, int)) == 1.0


def test_divisors_leave_two_channels_to_each_group() -> None:
    assert common_divisors(12, 18) == (2, 3, 6)
    assert common_divisors(7) == common_divisors(1) == common_divisors(8, 9) == ()
    assert common_divisors(96, most=8) == (2, 3, 4, 6, 8)


def test_planted_groups_are_found_and_suggested(
    to_xp: Callable[[Any], Any], rng: np.random.Generator
) -> None:
    strengths = planted(rng, groups=4, size=6, background=0.1)
    found = {one.groups: one for one in group_channels(to_xp(strengths), common_divisors(24))}
    assert suggested_groups(tuple(found.values())) == 4
    members = found[4].rows.labels
    together = members[:, None] == members[None, :]
    np.testing.assert_array_equal(together, strengths > 0.4)
    assert found[4].score > 0.75
    assert found[4].contiguous < 0.4


def test_without_background_all_strength_is_within(rng: np.random.Generator) -> None:
    (two, four) = group_channels(planted(rng, groups=4, size=4, background=0.0), (2, 4))
    assert two.score == pytest.approx(1.0)
    assert four.score == pytest.approx(1.0)
    # both hold everything: the finer one tells more
    assert suggested_groups((two, four)) == 4


def test_noise_scores_as_chance_does_and_suggests_nothing(rng: np.random.Generator) -> None:
    groupings = group_channels(noise(rng, 48), common_divisors(48, most=8))
    assert suggested_groups(groupings) == 1
    for grouping in groupings:
        assert grouping.score == pytest.approx(grouping.chance, abs=0.03)
        # the diagonal is left out, so that channels as they stand score a little less than 1 / groups
        expected = (48 / grouping.groups - 1) / 47
        assert grouping.contiguous == pytest.approx(expected, abs=0.03)
        assert grouping.score > expected


def test_a_pair_of_layers_is_grouped_together(rng: np.random.Generator) -> None:
    within = np.kron(np.eye(3), np.ones((4, 6)))
    covariance = within * rng.normal(size=within.shape) + 0.02 * rng.normal(size=within.shape)
    rows, columns = rng.permutation(12), rng.permutation(18)
    (found,) = group_pair(covariance[np.ix_(rows, columns)], (3,))
    together = found.rows.labels[:, None] == found.columns.labels[None, :]
    np.testing.assert_array_equal(together, within[np.ix_(rows, columns)] > 0)
    assert found.gain > 0.2
    ordered = covariance[np.ix_(rows, columns)][np.ix_(found.rows.order, found.columns.order)]
    contiguous = np.kron(np.eye(3), np.ones((4, 6))) > 0
    assert np.abs(ordered)[contiguous].sum() / np.abs(ordered).sum() == pytest.approx(found.score)


@pytest.mark.parametrize("search", [group_channels, group_pair])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_equal_never_worse_than_neighbours_and_repeatable(search: Any, seed: int) -> None:
    strengths = noise(np.random.default_rng(seed), 24) ** 3
    first, again = (search(strengths, (2, 3, 8), seed=seed) for _ in range(2))
    for grouping, same in zip(first, again, strict=True):
        assert set(np.bincount(grouping.rows.labels)) == {24 // grouping.groups}
        assert set(np.bincount(grouping.columns.labels)) == {24 // grouping.groups}
        assert grouping.score >= grouping.contiguous
        np.testing.assert_array_equal(grouping.columns.labels, same.columns.labels)
        assert (grouping.score, grouping.chance) == (same.score, same.chance)


def test_dead_channels_are_harmless(rng: np.random.Generator) -> None:
    strengths = planted(rng, groups=2, size=6, background=0.0)
    strengths[3], strengths[:, 3] = 0.0, 0.0
    (found,) = group_channels(strengths, (2,))
    assert found.score == pytest.approx(1.0)
    (nothing,) = group_channels(np.zeros((4, 4)), (2,))
    assert nothing.score == nothing.chance == 0.0
    assert suggested_groups((nothing,)) == suggested_groups(()) == 1


@pytest.mark.parametrize("search", [group_channels, group_pair])
def test_groups_must_divide_the_channels(search: Any) -> None:
    with pytest.raises(ValueError, match="groups must divide the 6 channels, got 4; valid: 1, 2, 3, 6"):
        search(np.ones((6, 6)), (4,))
    with pytest.raises(ValueError, match="finite"):
        search(np.full((6, 6), np.nan), (2,))
