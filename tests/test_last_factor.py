"""The refit of a last factor is least squares, and stays where samples tell nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.last_factor import refit

Floats = NDArray[np.float64]


def samples(rng: np.random.Generator, count: int = 200) -> tuple[Floats, Floats, Floats]:
    """What a factor reads, the truth, and weights near it."""
    read = rng.normal(size=(6, 6)) @ rng.normal(size=(6, count)) + 2
    truth = rng.normal(size=(4, 6))
    return read, truth, truth + 0.3 * rng.normal(size=truth.shape)


def test_exact_where_the_truth_is_linear(rng: np.random.Generator, to_xp: Callable[[Any], Any]) -> None:
    read, truth, prior = samples(rng)
    covariances = JointMoments.of(to_xp(read), to_xp(truth @ read + 5)).covariances
    (found,) = refit(covariances, to_xp(prior), ridges=[0.0])
    np.testing.assert_allclose(np.asarray(found), truth, atol=1e-8)
    np.testing.assert_allclose(np.asarray(covariances.bias(found)), 5, atol=1e-7)


@pytest.mark.parametrize("ridge", [0.01, 0.5])
def test_a_ridge_is_that_of_drawn_towards(rng: np.random.Generator, ridge: float) -> None:
    read, truth, prior = samples(rng)
    covariances = JointMoments.of(read, truth @ read + rng.normal(size=(4, 200))).covariances
    (found,) = refit(covariances, prior, ridges=[ridge])
    drawn = covariances.drawn_towards(prior, ridge=ridge)
    np.testing.assert_allclose(found @ drawn.regressor, drawn.cross, atol=1e-9)


def test_a_stronger_ridge_stays_nearer(rng: np.random.Generator) -> None:
    read, truth, prior = samples(rng)
    covariances = JointMoments.of(read, truth @ read).covariances
    moved = [np.linalg.norm(found - prior) for found in refit(covariances, prior, ridges=(0, 0.1, 1, 10))]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.5 * moved[0]


def test_dead_and_doubled_regressors_keep_their_weights_or_share(rng: np.random.Generator) -> None:
    read, truth, prior = samples(rng)
    read[2], read[4] = 7.0, read[3]
    covariances = JointMoments.of(read, truth @ read).covariances
    for found in refit(covariances, prior, ridges=(0.0, 0.1)):
        np.testing.assert_allclose(found[:, 2], prior[:, 2], atol=1e-9)
        np.testing.assert_allclose(found[:, 3] - prior[:, 3], found[:, 4] - prior[:, 4], atol=1e-6)


def test_fewer_samples_than_regressors(rng: np.random.Generator) -> None:
    read, truth, prior = samples(rng, count=4)
    covariances = JointMoments.of(read, truth @ read).covariances
    (found,) = refit(covariances, prior, ridges=[0.0])
    np.testing.assert_allclose(covariances.error(found), 0, atol=1e-8)
    centred = read - read.mean(1, keepdims=True)
    unseen = np.linalg.svd(centred)[0][:, 3:]
    np.testing.assert_allclose((found - prior) @ unseen, 0, atol=1e-8)


def test_nothing_that_varies_changes_nothing(rng: np.random.Generator) -> None:
    prior = rng.normal(size=(4, 6))
    covariances = JointMoments.of(np.zeros((6, 9)), rng.normal(size=(4, 9))).covariances
    for found in refit(covariances, prior, ridges=(0.0, 0.1)):
        np.testing.assert_array_equal(found, prior)
