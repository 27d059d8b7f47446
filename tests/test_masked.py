"""Least squares within a mask, by conjugate gradients and in closed form."""

import numpy as np
import pytest
from scipy.optimize import minimize

from cnncompress.solvers.blocks import (
    block_diagonal,
    diagonal_blocks,
    patch_entries,
    reordered_covariances,
)
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.masked import grouped_least_squares, masked_least_squares

INPUTS, OUTPUTS = 20, 6


@pytest.fixture
def problem(rng):
    """Correlated regressors, responses with noise, and a mask."""
    mixing = rng.normal(size=(INPUTS, INPUTS)) * np.linspace(1, 0.2, INPUTS)
    regressors = mixing @ rng.normal(size=(INPUTS, 300)) + 2
    targets = rng.normal(size=(OUTPUTS, INPUTS)) @ regressors + rng.normal(size=(OUTPUTS, 300))
    return regressors, targets, rng.random((OUTPUTS, INPUTS)) < 0.4


def test_equals_least_squares_on_each_support(problem, to_xp):
    regressors, targets, mask = problem
    covariances = JointMoments.of(to_xp(regressors), to_xp(targets)).covariances
    found = masked_least_squares(covariances, to_xp(mask), iterations=200, tolerance=0)
    weight = np.asarray(found.weight)
    assert not weight[~mask].any()
    centred = regressors - regressors.mean(1, keepdims=True)
    for output, support in enumerate(mask):
        expected = np.linalg.lstsq(centred[support].T, targets[output] - targets[output].mean(), rcond=None)[
            0
        ]
        np.testing.assert_allclose(weight[output, support], expected, rtol=1e-6)


def test_no_optimiser_finds_less(problem):
    regressors, targets, mask = problem
    covariances = JointMoments.of(regressors, targets).covariances

    def error(entries):
        weight = np.zeros(mask.shape)
        weight[mask] = entries
        slope = 2 * (weight @ covariances.regressor - covariances.cross)[mask]
        return covariances.error(weight).sum(), slope

    options = {"maxiter": 10000, "ftol": 1e-15, "gtol": 1e-12}
    other = minimize(error, np.zeros(mask.sum()), jac=True, method="L-BFGS-B", options=options).fun
    found = masked_least_squares(covariances, mask, iterations=200, tolerance=0)
    assert covariances.error(found.weight).sum() == pytest.approx(other, rel=1e-6)


def test_no_output_gets_worse_at_any_iteration(problem, to_xp, rng):
    regressors, targets, mask = problem
    covariances = JointMoments.of(to_xp(regressors), to_xp(targets)).covariances
    start = to_xp(rng.normal(size=mask.shape))
    errors = [
        np.asarray(
            covariances.error(
                masked_least_squares(covariances, to_xp(mask), start, iterations=count, tolerance=0).weight
            )
        )
        for count in range(12)
    ]
    assert (np.diff(errors, axis=0) <= 1e-12).all()
    assert (errors[-1] < 0.9 * errors[0]).all()


def test_history_never_rises_and_ends_at_the_error_on_the_samples(problem, rng):
    regressors, targets, mask = problem
    covariances = JointMoments.of(regressors, targets).covariances
    found = masked_least_squares(covariances, mask, rng.normal(size=mask.shape), iterations=200, tolerance=0)
    assert len(found.history) > 2
    assert (np.diff(found.history) <= 0).all()
    answer = found.weight @ regressors + covariances.bias(found.weight)[:, None]
    variance = targets.var(axis=1).sum()
    assert np.mean((answer - targets) ** 2, axis=1).sum() / variance == pytest.approx(found.history[-1])


@pytest.mark.parametrize("damage", ["dead inputs", "twins", "few samples", "dead outputs", "no data"])
def test_degenerate_data(problem, damage, to_xp):
    regressors, targets, mask = problem
    match damage:
        case "dead inputs":
            regressors[3:9] = 0
        case "twins":
            regressors[3:6] = regressors[6:9]
        case "few samples":
            regressors, targets = regressors[:, :5], targets[:, :5]
        case "dead outputs":
            targets = np.zeros_like(targets)
        case "no data":
            regressors = np.zeros_like(regressors)
    covariances = JointMoments.of(to_xp(regressors), to_xp(targets)).covariances
    found = masked_least_squares(covariances, to_xp(mask), tolerance=0)
    assert np.isfinite(np.asarray(found.weight)).all()
    assert (np.diff(found.history) <= 0).all()
    blocks = np.asarray(grouped_least_squares(covariances, to_xp(np.zeros((2, 3, 10))), groups=2))
    assert np.isfinite(blocks).all()
    centred = regressors - regressors.mean(1, keepdims=True)
    for group, block in enumerate(blocks):
        own = slice(10 * group, 10 * group + 10)
        answered = targets[3 * group : 3 * group + 3]
        best = np.linalg.lstsq(centred[own].T, (answered - answered.mean(1, keepdims=True)).T, rcond=1e-10)[0]
        np.testing.assert_allclose(
            block @ centred[own], best.T @ centred[own], atol=1e-6 * np.abs(targets).max()
        )


def test_what_samples_do_not_tell_stays_as_it_was(problem, rng):
    regressors, targets, mask = problem
    regressors[4] = 0
    covariances = JointMoments.of(regressors, targets).covariances
    start = rng.normal(size=mask.shape)
    iterated = masked_least_squares(covariances, mask, start, tolerance=0).weight
    np.testing.assert_array_equal(iterated[:, 4], np.where(mask[:, 4], start[:, 4], 0))
    solved = grouped_least_squares(covariances, diagonal_blocks(start, 2), groups=2)
    np.testing.assert_allclose(solved[0, :, 4], start[:3, 4])


def test_closed_form_and_iterations_agree_on_a_block_mask(problem, to_xp):
    regressors, targets, _ = problem
    covariances = JointMoments.of(to_xp(regressors), to_xp(targets)).covariances
    blocks = grouped_least_squares(covariances, to_xp(np.zeros((2, 3, 10))), groups=2)
    mask = block_diagonal(np.ones((2, 3, 10))) > 0
    found = masked_least_squares(covariances, to_xp(mask), iterations=200, tolerance=0)
    np.testing.assert_allclose(np.asarray(block_diagonal(blocks)), np.asarray(found.weight), atol=1e-8)


def test_a_prior_draws_weights_towards_it(problem, rng):
    regressors, targets, mask = problem
    covariances = JointMoments.of(regressors, targets).covariances
    prior = rng.normal(size=mask.shape)
    distances = [
        np.linalg.norm(
            (masked_least_squares(covariances.drawn_towards(prior, ridge=ridge), mask).weight - prior)[mask]
        )
        for ridge in (0.01, 1, 1e6)
    ]
    assert distances[0] > distances[1] > 1e3 * distances[2]


def test_blocks_and_orders(to_xp, rng):
    blocks = rng.normal(size=(3, 2, 4))
    matrix = np.asarray(block_diagonal(to_xp(blocks)))
    for group in range(3):
        np.testing.assert_array_equal(
            matrix[2 * group : 2 * group + 2, 4 * group : 4 * group + 4], blocks[group]
        )
    np.testing.assert_array_equal(np.asarray(diagonal_blocks(to_xp(matrix), 3)), blocks)
    assert np.count_nonzero(matrix) == blocks.size


def test_reordering_moments_is_reordering_samples(problem, to_xp, rng):
    regressors, targets, _ = problem
    inputs, outputs = patch_entries(rng.permutation(5), 4), rng.permutation(OUTPUTS)
    covariances = JointMoments.of(to_xp(regressors), to_xp(targets)).covariances
    expected = JointMoments.of(regressors[inputs], targets[outputs]).covariances
    got = reordered_covariances(covariances, inputs, outputs)
    for name in ("regressor", "cross", "target", "regressor_mean", "target_mean"):
        np.testing.assert_allclose(np.asarray(getattr(got, name)), getattr(expected, name), atol=1e-9)
