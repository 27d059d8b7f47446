"""Errors of all numbers of regressors and all ranks from one decomposition."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnncompress.solvers.nested_regression import NestedRegression, least_errors, projection_errors
from cnncompress.solvers.reduced_rank import Regression

INPUTS, OUTPUTS, RIDGE = 12, 6, 0.03
METRIC = np.cov(np.random.default_rng(8).standard_normal((OUTPUTS, 50)))
TRUE = np.random.default_rng(7).standard_normal((OUTPUTS, INPUTS))


def _data(
    rng: np.random.Generator, samples: int, noise: float = 0.3
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    halves = []
    for _ in range(2):
        regressors = rng.standard_normal((INPUTS, samples)) + 2
        halves.append((regressors, TRUE @ regressors + 1 + noise * rng.standard_normal((OUTPUTS, samples))))
    return halves[0], halves[1]


@pytest.mark.parametrize("count", [3, 7, INPUTS])
def test_errors_are_those_of_single_regressions(
    rng: np.random.Generator, to_xp: Callable[[Any], Any], count: int
) -> None:
    fit, held_out = _data(rng, 400)
    prior = rng.standard_normal((OUTPUTS, INPUTS))
    nested = NestedRegression.on(
        (to_xp(fit[0]), to_xp(fit[1])),
        (to_xp(held_out[0]), to_xp(held_out[1])),
        prior=to_xp(prior),
        metric=to_xp(METRIC),
        ridge=RIDGE,
    )
    errors = np.asarray(nested.errors(count, nested.directions(count)))
    root = np.linalg.cholesky(METRIC)
    alone = Regression.on(fit[0][:count], prior=prior[:, :count], ridge=RIDGE)
    for rank in (1, 2, OUTPUTS):
        mapping = alone.solve(fit[1], rank=rank)
        expected = sum(
            ((root.T @ (target - mapping(regressors[:count]))) ** 2).sum(0).mean() / 2
            for regressors, target in (fit, held_out)
        )
        assert errors[rank - 1] == pytest.approx(expected, rel=0.03)
    assert nested.error(count) == pytest.approx(errors[-1], rel=1e-9)


def test_few_samples_leave_it_at_the_prior(rng: np.random.Generator) -> None:
    fit, _ = _data(rng, 4, noise=0)
    _, held_out = _data(rng, 500, noise=0)
    errors = [
        NestedRegression.on(fit, held_out, prior=prior, metric=np.eye(OUTPUTS), ridge=RIDGE).error(INPUTS)
        for prior in (TRUE, np.zeros_like(TRUE))
    ]
    assert errors[0] < 0.7 * errors[1]


def test_the_metric_weighs_errors(rng: np.random.Generator) -> None:
    responses = np.diag([3.0, 1.0]) @ rng.standard_normal((2, 2000))
    plain = projection_errors(responses, responses, metric=np.eye(2))
    weighed = projection_errors(responses, responses, metric=np.diag([0.1, 7.0]))
    assert plain[0] == pytest.approx(1, rel=0.1)
    assert weighed[0] == pytest.approx(7, rel=0.1)
    assert weighed[1] == pytest.approx(0, abs=1e-9)


def test_errors_fall_with_both_numbers_where_the_fit_judges_itself(rng: np.random.Generator) -> None:
    fit, _ = _data(rng, 300)
    nested = NestedRegression.on(fit, fit, prior=0 * TRUE, metric=np.eye(OUTPUTS), ridge=1e-9)
    table = np.array(
        [np.asarray(nested.errors(count, nested.directions(count))) for count in range(1, INPUTS + 1)]
    )
    assert (np.diff(table, axis=0) <= 1e-6 * table[0, 0]).all()
    assert (np.diff(table, axis=1) <= 1e-9 * table[0, 0]).all()


def test_regressing_on_the_responses_themselves_is_their_projection(rng: np.random.Generator) -> None:
    (_, fit), (_, held_out) = _data(rng, 500)
    metric = np.cov(rng.standard_normal((OUTPUTS, 40)))
    identity = np.eye(OUTPUTS)
    nested = NestedRegression.on((fit, fit), (held_out, held_out), prior=identity, metric=metric, ridge=1e-6)
    expected = projection_errors(fit, held_out, metric=metric)
    np.testing.assert_allclose(
        nested.errors(OUTPUTS, nested.directions(OUTPUTS)), expected, atol=1e-4 * expected[0]
    )


@pytest.mark.parametrize("samples", [1, 5, 40])
def test_poor_regressors_are_harmless(rng: np.random.Generator, samples: int) -> None:
    fit, held_out = _data(rng, samples)
    for regressors, _ in (fit, held_out):
        regressors[3:6] = 0  # dead
        regressors[7] = regressors[8]  # equal
    nested = NestedRegression.on(fit, held_out, prior=0 * TRUE, metric=np.eye(OUTPUTS), ridge=RIDGE)
    assert np.isfinite(np.asarray(nested.errors(INPUTS, nested.directions(INPUTS)))).all()
    silent = (np.zeros_like(fit[0]), np.zeros_like(fit[1]))
    nested = NestedRegression.on(silent, silent, prior=TRUE, metric=np.eye(OUTPUTS), ridge=RIDGE)
    assert nested.error(INPUTS) == 0


def test_least_errors_never_rise() -> None:
    assert least_errors([1, 2, 3, 9], np.array([4.0, 5.0, -0.1])) == [4.0, 4.0, 0.0, 0.0]


def test_directions_of_another_number_of_regressors_are_hardly_worse(rng: np.random.Generator) -> None:
    fit, held_out = _data(rng, 400)
    nested = NestedRegression.on(fit, held_out, prior=TRUE, metric=METRIC, ridge=RIDGE)
    own = np.asarray(nested.errors(10, nested.directions(10)))
    others = np.asarray(nested.errors(10, nested.directions(INPUTS)))
    assert others[-1] == pytest.approx(own[-1], rel=1e-9)
    assert (others <= 1.3 * own).all()


def test_freedom_is_not_held_against_a_map(rng: np.random.Generator) -> None:
    """Noise that has nothing to do with the response: fitted errors fall with it, held-out ones rise."""
    noise = 0.5
    fit, held_out = _data(rng, 60, noise)
    wide = [
        (np.concatenate((regressors, rng.standard_normal((20, 60)))), target)
        for regressors, target in (fit, held_out)
    ]
    prior = np.concatenate((TRUE, np.zeros((OUTPUTS, 20))), axis=1)
    nested = NestedRegression.on(wide[0], wide[1], prior=prior, metric=np.eye(OUTPUTS), ridge=1e-6)
    exact = OUTPUTS * noise**2
    assert nested.error(INPUTS) == pytest.approx(exact, rel=0.25)
    assert nested.error(INPUTS + 20) == pytest.approx(exact, rel=0.35)
