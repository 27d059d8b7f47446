"""Depthwise filters and a 1 x 1, on the weight and on moments."""

import numpy as np
import pytest
import torch
from torch.nn import functional as nnf

from cnncompress.solvers.conjugate_gradients import conjugate_gradients
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.separable import (
    Separable,
    fit_separable,
    separable_energies,
    separate,
    solve_depthwise,
    solve_pointwise,
)

CHANNELS, POSITIONS, OUTPUTS = 4, 9, 7


def flat(tensor):
    return tensor.transpose(2, 0, 1).reshape(tensor.shape[2], -1)


@pytest.fixture
def problem(rng):
    """A weight, correlated patches and the responses of the weight with noise."""
    tensor = rng.normal(size=(CHANNELS, POSITIONS, OUTPUTS))
    mixing = rng.normal(size=(CHANNELS * POSITIONS,) * 2) * np.linspace(1, 0.1, CHANNELS * POSITIONS)
    patches = mixing @ rng.normal(size=(CHANNELS * POSITIONS, 400)) + 1
    return tensor, patches, flat(tensor) @ patches + 0.3


def test_error_on_the_weight_is_the_discarded_energy(problem, to_xp):
    tensor, _, _ = problem
    energies = np.asarray(separable_energies(to_xp(tensor)))
    for bases in range(1, 8):
        kept = separate(to_xp(tensor), bases=bases)
        error = np.sum((np.asarray(kept.weight) - flat(tensor)) ** 2)
        np.testing.assert_allclose(error, energies[bases:].sum(), atol=1e-10)
    assert error < 1e-20  # seven outputs: no channel's filters have a greater rank


def test_bases_beyond_the_rank_are_zero(problem, to_xp):
    tensor, _, _ = problem
    kept = separate(to_xp(tensor), bases=9)
    assert kept.depthwise.shape == (CHANNELS, 9, POSITIONS)
    assert not np.asarray(kept.depthwise)[:, 7:].any()
    np.testing.assert_allclose(np.asarray(kept.weight), flat(tensor), atol=1e-12)


@pytest.mark.parametrize("bases", [1, 2, 3])
def test_history_never_rises_and_is_the_error_on_the_samples(problem, to_xp, bases):
    tensor, patches, target = problem
    covariances = JointMoments.of(to_xp(patches), to_xp(target)).covariances
    found = fit_separable(covariances, separate(to_xp(tensor), bases=bases), tolerance=0)
    assert (np.diff(found.history) <= 0).all()
    assert found.history[-1] < 0.9 * found.history[0]
    weight = np.asarray(found.factors.weight)
    answer = weight @ patches + np.asarray(covariances.bias(found.factors.weight))[:, None]
    centred = target - target.mean(1, keepdims=True)
    assert np.sum((answer - target) ** 2) / np.sum(centred**2) == pytest.approx(found.history[-1])


def test_planted_factors_are_reached(rng):
    planted = Separable(rng.normal(size=(3, 1, 9)), rng.normal(size=(6, 3)))
    patches = rng.normal(size=(27, 500)) * np.linspace(0.1, 1, 27)[:, None]
    covariances = JointMoments.of(patches, planted.weight @ patches).covariances
    # the weight is another one: only the responses tell
    start = separate(rng.normal(size=(3, 9, 6)), bases=1)
    found = fit_separable(covariances, start, sweeps=500, tolerance=0)
    assert found.history[0] > 0.3
    assert found.history[-1] < 1e-8


def test_each_step_is_the_least_squares_solution(problem):
    tensor, patches, target = problem
    covariances = JointMoments.of(patches, target).covariances
    start = separate(tensor, bases=2)
    x, y = (values - values.mean(1, keepdims=True) for values in (patches, target))

    pointwise = solve_pointwise(covariances, start, iterations=500).pointwise
    expected = np.linalg.lstsq(start.features(x).T, y.T, rcond=None)[0].T
    np.testing.assert_allclose(pointwise, expected, rtol=1e-4, atol=1e-5)

    depthwise = solve_depthwise(covariances, start, iterations=2000).depthwise
    # one column of the design for each filter weight
    mixed = start.pointwise.reshape(OUTPUTS, CHANNELS, 2)
    design = np.einsum("jit,ips->jsitp", mixed, x.reshape(CHANNELS, POSITIONS, -1))
    expected = np.linalg.lstsq(design.reshape(y.size, -1), y.ravel(), rcond=None)[0]
    error = np.sum((design.reshape(y.size, -1) @ depthwise.ravel() - y.ravel()) ** 2)
    best = np.sum((design.reshape(y.size, -1) @ expected - y.ravel()) ** 2)
    assert error <= (1 + 1e-6) * best


@pytest.mark.parametrize("damage", ["dead input", "twins", "few samples", "dead outputs", "no data"])
def test_degenerate_data(problem, damage):
    tensor, patches, target = problem
    match damage:
        case "dead input":
            patches[:9] = 0
        case "twins":
            patches[:9] = patches[9:18]
        case "few samples":
            patches, target = patches[:, :5], target[:, :5]
        case "dead outputs":
            target = np.zeros_like(target)
        case "no data":
            patches = np.zeros_like(patches)
    found = fit_separable(JointMoments.of(patches, target).covariances, separate(tensor, bases=2))
    assert np.isfinite(found.factors.depthwise).all()
    assert np.isfinite(found.factors.pointwise).all()
    assert (np.diff(found.history) <= 0).all()


def test_a_ridge_is_samples_for_which_the_prior_is_right(problem):
    tensor, patches, target = problem
    covariances = JointMoments.of(patches, target).covariances
    prior = flat(tensor)
    drawn = covariances.drawn_towards(prior, ridge=0.5)
    strength = 0.5 * np.trace(covariances.regressor) / len(patches)
    weight = np.random.default_rng(1).normal(size=prior.shape)
    expected = covariances.error(weight) + strength * np.sum((weight - prior) ** 2, axis=1)
    np.testing.assert_allclose(drawn.error(weight), expected)


def test_features_are_those_of_a_depthwise_convolution(rng):
    factors = Separable(rng.normal(size=(3, 2, 9)), rng.normal(size=(5, 6)))
    image = torch.from_numpy(rng.normal(size=(1, 3, 6, 5)))
    patches = nnf.unfold(image, 3)[0].numpy()
    kernels = torch.from_numpy(factors.depthwise.reshape(6, 1, 3, 3))
    expected = nnf.conv2d(image, kernels, groups=3)[0].flatten(1).numpy()
    np.testing.assert_allclose(factors.features(patches), expected, atol=1e-12)
    dense = torch.from_numpy(factors.weight.reshape(5, 3, 3, 3))
    mixed = factors.pointwise @ factors.features(patches)
    np.testing.assert_allclose(mixed, nnf.conv2d(image, dense)[0].flatten(1).numpy(), atol=1e-12)


def test_separate_problems_of_conjugate_gradients_are_solved_as_if_alone(rng, to_xp):
    root = rng.normal(size=(6, 6))
    curvature, right = root @ root.T, rng.normal(size=(3, 6))
    matrix = to_xp(curvature)

    def solve(rows, separate):
        start = to_xp(np.zeros_like(rows))
        diagonal = to_xp(np.diag(curvature).copy()[None, :])
        return np.asarray(
            conjugate_gradients(
                lambda x: x @ matrix, to_xp(rows), start, diagonal, iterations=4, separate=separate
            )
        )

    together = solve(right, separate=True)
    for row in range(3):
        np.testing.assert_allclose(together[row], solve(right[row : row + 1], separate=False)[0], rtol=1e-9)


def test_every_iteration_of_conjugate_gradients_lowers_the_objective(rng):
    root = rng.normal(size=(8, 5))  # singular: rank 5
    curvature = root @ root.T
    right = curvature @ rng.normal(size=8)
    start = rng.normal(size=8)
    objectives = []
    for iterations in range(6):
        x = conjugate_gradients(
            lambda x: curvature @ x, right, start, np.diag(curvature), iterations=iterations
        )
        objectives.append(x @ curvature @ x - 2 * x @ right)
    assert (np.diff(objectives) < 1e-9).all()
    assert objectives[-1] == pytest.approx(-right @ np.linalg.pinv(curvature) @ right)
