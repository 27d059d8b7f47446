"""The nonlinear solver against brute force, and what it promises."""

from itertools import pairwise

import numpy as np
import pytest

from cnncompress.solvers.nonlinear import auxiliary, nonlinear_map, rectified_error, rectify
from cnncompress.solvers.reduced_rank import Regression, descending_eigh, principal_map


def penalised(activated, z, prediction, penalty):
    return (activated - np.maximum(z, 0)) ** 2 + penalty * (z - prediction) ** 2


@pytest.mark.parametrize("penalty", [0.01, 0.3, 1.0, 20.0])
def test_auxiliary_is_never_worse_than_a_grid(rng, penalty):
    activated = np.maximum(rng.standard_normal(60), 0)
    prediction = 3 * rng.standard_normal(60)
    grid = np.linspace(-12, 12, 48_001)[:, None]
    best = penalised(activated, grid, prediction, penalty).min(0)
    found = penalised(activated, auxiliary(activated, prediction, penalty=penalty), prediction, penalty)
    assert (found <= best + 1e-6).all()


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_auxiliary_equals_the_two_candidates_of_the_paper(rng, penalty):
    t, p = np.maximum(rng.standard_normal(500), 0), 2 * rng.standard_normal(500)
    z0, z1 = np.minimum(0, p), np.maximum(0, (penalty * p + t) / (penalty + 1))
    first = penalised(t, z0, p, penalty) <= penalised(t, z1, p, penalty)
    np.testing.assert_allclose(auxiliary(t, p, penalty=penalty), np.where(first, z0, z1), atol=1e-12)


@pytest.fixture
def problem(rng):
    """Responses of a layer with sparse outputs, and a disturbed copy as the regressor."""
    hidden = rng.standard_normal((12, 1200))
    target = rng.standard_normal((16, 12)) @ hidden - 1.5
    regressor = target + 0.3 * rng.standard_normal(target.shape) - 0.2
    return target, regressor


def solve(target, regressor, rank, cut=900, **options):
    fit, held = slice(None, cut), slice(cut, None)
    start = principal_map(descending_eigh(np.cov(target, bias=True))[1], target.mean(1), rank=rank)
    regression = Regression.on(regressor[:, fit], prior=np.eye(len(target)))
    found = nonlinear_map(
        target[:, fit],
        regression,
        regressor[:, fit],
        target[:, held],
        regressor[:, held],
        rank=rank,
        start=start,
        **options,
    )
    return found, start


@pytest.mark.parametrize("rank", [2, 5, 9])
def test_never_worse_than_its_start_on_held_out_samples(problem, rank):
    target, regressor = problem
    found, start = solve(*problem, rank)
    held = slice(900, None)
    before = rectified_error(target[:, held], start(regressor[:, held]))
    after = rectified_error(target[:, held], found.map(regressor[:, held]))
    assert after <= before
    np.testing.assert_allclose(after, min(found.errors), rtol=1e-6)
    assert found.errors[found.best] == min(found.errors)


def test_beats_the_linear_solution_on_the_samples_it_fits(problem):
    target, _ = problem
    found, start = solve(target, target, 4)
    assert rectified_error(target, found.map(target)) < 0.95 * rectified_error(target, start(target))


def test_penalised_objective_never_rises_at_a_fixed_penalty(problem):
    target, regressor = problem
    regression = Regression.on(regressor, prior=np.zeros((16, 16)))
    activated, penalty, values = rectify(target), 0.3, []
    mapping = regression.solve(target, rank=4)
    for _ in range(20):
        prediction = mapping(regressor)
        z = auxiliary(activated, prediction, penalty=penalty)
        values.append(penalised(activated, z, prediction, penalty).sum())
        mapping = regression.solve(z, rank=4)
        values.append(penalised(activated, z, mapping(regressor), penalty).sum())
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(values))
    assert values[-1] < 0.99 * values[0]


def test_all_libraries_agree(problem, to_xp):
    target, regressor = problem
    expected, _ = solve(*problem, 4)
    start = principal_map(descending_eigh(np.cov(target, bias=True))[1], target.mean(1), rank=4)
    arrays = [to_xp(a) for a in (target[:, :900], regressor[:, :900], target[:, 900:], regressor[:, 900:])]
    start = type(start)(to_xp(start.left.copy()), to_xp(start.right.copy()), to_xp(start.bias))
    found = nonlinear_map(
        arrays[0],
        Regression.on(arrays[1], prior=to_xp(np.eye(16))),
        arrays[1],
        arrays[2],
        arrays[3],
        rank=4,
        start=start,
    )
    np.testing.assert_allclose(found.errors, expected.errors, rtol=1e-6)
