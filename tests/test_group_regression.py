"""A low-rank map for each group of inputs, on the weight and on moments."""

import numpy as np
import pytest
from scipy.optimize import minimize

from cnncompress.solvers.group_regression import (
    GroupedFactors,
    fit_by_groups,
    group_energies,
    split_by_groups,
)
from cnncompress.solvers.input_groups import choose_input_groups
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.reduced_rank import Regression

INPUTS, OUTPUTS, GROUPS = 20, 8, 2


@pytest.fixture
def problem(rng):
    """A weight, correlated regressors and the weight's responses."""
    weight = rng.normal(size=(OUTPUTS, INPUTS))
    mixing = rng.normal(size=(INPUTS, INPUTS)) * np.linspace(1, 0.1, INPUTS)
    regressors = mixing @ rng.normal(size=(INPUTS, 400)) + 1
    return weight, regressors, weight @ regressors + 0.3


def test_error_on_the_weight_is_the_discarded_energy(problem, to_xp):
    weight, _, _ = problem
    energies = np.asarray(group_energies(to_xp(weight), groups=GROUPS))
    assert energies.shape == (8,)
    for rank in range(1, 9):
        kept = split_by_groups(to_xp(weight), groups=GROUPS, rank=rank)
        error = np.sum((np.asarray(kept.weight) - weight) ** 2)
        np.testing.assert_allclose(error, energies[rank:].sum(), atol=1e-10)
    assert error < 1e-20


def test_pointwise_mixes_what_the_filters_give(problem, to_xp):
    weight, regressors, _ = problem
    kept = split_by_groups(to_xp(weight), groups=4, rank=3)
    filters = np.asarray(kept.filters)
    features = np.concatenate([filters[g] @ regressors[5 * g : 5 * g + 5] for g in range(4)])
    np.testing.assert_allclose(np.asarray(kept.pointwise) @ features, np.asarray(kept.weight) @ regressors)


@pytest.mark.parametrize(("groups", "rank"), [(1, 3), (2, 2), (4, 1), (5, 3)])
def test_history_never_rises_and_is_the_error_on_the_samples(problem, to_xp, groups, rank):
    weight, regressors, targets = problem
    covariances = JointMoments.of(to_xp(regressors), to_xp(targets)).covariances
    start = split_by_groups(to_xp(weight), groups=groups, rank=rank)
    found = fit_by_groups(covariances, start, sweeps=50, tolerance=0)
    assert len(found.history) > 2
    assert (np.diff(found.history) <= 0).all()
    assert found.history[-1] < 0.9 * found.history[0]
    fitted = found.factors.weight
    answer = np.asarray(fitted) @ regressors + np.asarray(covariances.bias(fitted))[:, None]
    share = np.mean((answer - targets) ** 2, axis=1).sum() / targets.var(axis=1).sum()
    assert share == pytest.approx(found.history[-1], rel=1e-6, abs=1e-12)


def test_one_group_is_reduced_rank_regression(problem):
    weight, regressors, targets = problem
    covariances = JointMoments.of(regressors, targets).covariances
    found = fit_by_groups(covariances, split_by_groups(weight, groups=1, rank=3)).factors
    expected = Regression.on(regressors, prior=np.zeros_like(weight)).solve(targets, rank=3)
    np.testing.assert_allclose(found.weight, expected.left @ expected.right, atol=1e-7)


def test_no_optimiser_goes_on_from_where_it_ends(problem):
    weight, regressors, targets = problem
    covariances = JointMoments.of(regressors, targets).covariances
    start = split_by_groups(weight, groups=GROUPS, rank=2)
    found = fit_by_groups(covariances, start, sweeps=3000, tolerance=0).factors
    shapes = (found.filters.shape, found.mixing.shape)
    cut = found.filters.size

    def error(entries):
        tried = GroupedFactors(entries[:cut].reshape(shapes[0]), entries[cut:].reshape(shapes[1]))
        slope = 2 * (tried.weight @ covariances.regressor - covariances.cross)
        by_group = slope.reshape(OUTPUTS, GROUPS, -1).transpose(1, 0, 2)
        slopes = tried.mixing.transpose(0, 2, 1) @ by_group, by_group @ tried.filters.transpose(0, 2, 1)
        return covariances.error(tried.weight).sum(), np.concatenate([part.ravel() for part in slopes])

    entries = np.concatenate([found.filters.ravel(), found.mixing.ravel()])
    other = minimize(
        error, entries, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15}
    ).fun
    assert covariances.error(found.weight).sum() == pytest.approx(other, rel=1e-6)


def test_exact_where_the_rank_reaches_that_of_every_part(problem):
    weight, regressors, targets = problem
    covariances = JointMoments.of(regressors, targets).covariances
    found = fit_by_groups(covariances, split_by_groups(weight, groups=4, rank=5)).factors
    np.testing.assert_allclose(found.weight, weight, atol=1e-7)


@pytest.mark.parametrize("damage", ["dead inputs", "twins", "few samples", "dead outputs", "no data"])
def test_degenerate_data(problem, damage, to_xp):
    weight, regressors, targets = problem
    match damage:
        case "dead inputs":
            regressors[:10] = 0
        case "twins":
            regressors[10:] = regressors[:10]
        case "few samples":
            regressors, targets = regressors[:, :5], targets[:, :5]
        case "dead outputs":
            targets = np.zeros_like(targets)
        case "no data":
            regressors = np.zeros_like(regressors)
    covariances = JointMoments.of(to_xp(regressors), to_xp(targets)).covariances
    found = fit_by_groups(covariances, split_by_groups(to_xp(weight), groups=GROUPS, rank=6))
    assert found.factors.filters.shape == (GROUPS, 6, 10)
    assert np.isfinite(np.asarray(found.factors.weight)).all()
    assert (np.diff(found.history) <= 0).all()


def planted_groups(rng):
    """Channels of two positions in three groups behind a secret order, each group of little rank."""
    channels, secret = 12, rng.permutation(12)
    factors = [rng.normal(size=(OUTPUTS, 2)) @ rng.normal(size=(2, 8)) for _ in range(3)]
    weight = np.concatenate(factors, axis=1).reshape(OUTPUTS, channels, 2)
    sources = np.repeat(rng.normal(size=(3, 1, 2000)), 8, axis=1).reshape(24, 2000)
    patches = (sources + 0.5 * rng.normal(size=(24, 2000))).reshape(channels, 2, 2000)
    flat = weight[:, secret].reshape(OUTPUTS, 24)
    return flat, np.cov(patches[secret].reshape(24, 2000)), secret // 4


@pytest.mark.parametrize("trials", [0, 300])
def test_planted_groups_are_found(rng, to_xp, trials):
    weight, covariance, labels = planted_groups(rng)
    found = choose_input_groups(
        to_xp(weight), to_xp(covariance), channels=12, groups=3, rank=2, trials=trials
    )
    assert all(len(set(labels[members])) == 1 for members in found.order.reshape(3, 4))
    assert found.history[-1] < 1e-9


def test_swaps_lower_what_is_lost_and_it_is_what_the_ranks_discard(rng):
    weight = rng.normal(size=(OUTPUTS, 24))
    found = choose_input_groups(weight, None, channels=12, groups=3, rank=2, trials=200)
    assert len(found.history) > 2
    assert (np.diff(found.history) <= 0).all()
    entries = (found.order[:, None] * 2 + np.arange(2)).ravel()
    lost = group_energies(weight[:, entries], groups=3)[2:].sum() / np.sum(weight**2)
    assert lost == pytest.approx(found.history[-1])


@pytest.mark.parametrize("damage", ["dead inputs", "all dead", "one group"])
def test_groups_of_degenerate_inputs(rng, damage):
    weight, covariance, _ = planted_groups(rng)
    groups = 1 if damage == "one group" else 3
    if damage == "dead inputs":
        covariance[:5] = covariance[:, :5] = 0
    elif damage == "all dead":
        covariance[:], weight[:] = 0, 0
    found = choose_input_groups(weight, covariance, channels=12, groups=groups, rank=1, trials=20)
    assert sorted(found.order) == list(range(12))
    assert np.isfinite(found.history).all()


def test_groups_are_deterministic_for_a_seed(rng):
    weight, covariance, _ = planted_groups(rng)
    one, two = (
        choose_input_groups(weight, covariance, channels=12, groups=4, rank=1, seed=3).order for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
