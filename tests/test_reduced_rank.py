"""Reduced rank regression against independent solutions of the same problem."""

import numpy as np
import pytest

from cnncompress.solvers.reduced_rank import LowRankMap, Regression, descending_eigh, principal_map, whitener


def centred_error(y, x, mapping):
    return float(((y - mapping(x)) ** 2).sum())


def regress(y, x, rank, **options):
    prior = np.zeros((y.shape[0], x.shape[0]))
    return Regression.on(x, prior=prior, **options).solve(y, rank=rank)


@pytest.fixture
def pair(rng):
    """A target and a regressor that share part of their variation."""
    shared = rng.standard_normal((6, 400))
    x = rng.standard_normal((10, 6)) @ shared + 0.3 * rng.standard_normal((10, 400)) + 2
    y = rng.standard_normal((8, 6)) @ shared + 0.3 * rng.standard_normal((8, 400)) - 1
    return y, x


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_equals_the_generalised_singular_value_decomposition(pair, rank):
    y, x = (a - a.mean(1, keepdims=True) for a in pair)
    unconstrained = y @ x.T @ np.linalg.inv(x @ x.T)
    values, vectors = np.linalg.eigh(x @ x.T)
    root = vectors * np.sqrt(values) @ vectors.T
    u, s, vt = np.linalg.svd(unconstrained @ root)
    literal = u[:, :rank] * s[:rank] @ vt[:rank] @ np.linalg.inv(root)
    mapping = regress(*pair, rank)
    np.testing.assert_allclose(mapping.left @ mapping.right, literal, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("rank", [2, 4])
def test_alternating_least_squares_finds_nothing_better(pair, rng, rank):
    y, x = (a - a.mean(1, keepdims=True) for a in pair)
    left = rng.standard_normal((8, rank))
    for _ in range(3000):
        right = np.linalg.lstsq(left, y @ np.linalg.pinv(x), rcond=None)[0]
        left = y @ np.linalg.pinv(right @ x)
    alternating = ((y - left @ right @ x) ** 2).sum()
    assert centred_error(*pair, regress(*pair, rank)) <= alternating * (1 + 1e-6)


def test_error_is_the_tail_of_the_spectrum(pair):
    y, x = pair
    whitening = whitener(np.cov(x, bias=True))
    cross = np.cov(y, x, bias=True)[:8, 8:]
    values, _ = descending_eigh(cross @ whitening @ (cross @ whitening).T)
    for rank in range(1, 9):
        expected = y.shape[1] * (np.trace(np.cov(y, bias=True)) - values[:rank].sum())
        np.testing.assert_allclose(centred_error(y, x, regress(y, x, rank)), expected, rtol=1e-9)


def test_on_itself_it_is_principal_component_analysis(pair):
    y, _ = pair
    principal = principal_map(descending_eigh(np.cov(y, bias=True))[1], y.mean(1), rank=3)
    mapping = regress(y, y, 3)
    np.testing.assert_allclose(mapping.left @ mapping.right, principal.left @ principal.right, atol=1e-9)
    np.testing.assert_allclose(mapping(y), principal(y), atol=1e-9)


def test_principal_map_leaves_the_tail_eigenvalues(pair):
    y, _ = pair
    values, _ = descending_eigh(np.cov(y, bias=True))
    error = centred_error(y, y, principal_map(descending_eigh(np.cov(y, bias=True))[1], y.mean(1), rank=5))
    np.testing.assert_allclose(error, values[5:].sum() * y.shape[1], rtol=1e-9)


@pytest.mark.parametrize("case", ["dead", "duplicated", "constant", "few samples"])
def test_rank_deficient_regressors_are_harmless(pair, case):
    y, x = pair[0].copy(), pair[1].copy()
    if case == "dead":
        x[3] = 0
    elif case == "duplicated":
        x[4] = x[5]
    elif case == "constant":
        x[:] = 7
    else:
        y, x = y[:, :4], x[:, :4]
    for ridge in (0, 0.03):
        mapping = regress(y, x, 8, ridge=ridge)
        assert np.isfinite(mapping.left).all()
        assert np.isfinite(mapping.right).all()
        spread = ((y - y.mean(1, keepdims=True)) ** 2).sum()
        assert centred_error(y, x, mapping) <= spread * (1 + 1e-9)


def test_ridge_pulls_towards_the_prior(pair, rng):
    y, x = pair
    prior = rng.standard_normal((8, 10))
    gaps = []
    for ridge in (0.0, 0.1, 10.0, 1e6):
        mapping = Regression.on(x, prior=prior, ridge=ridge).solve(y, rank=8)
        gaps.append(np.linalg.norm(mapping.left @ mapping.right - prior))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 * gaps[0]


def test_exact_target_stays_exact_under_a_ridge_towards_it(pair, rng):
    _, x = pair
    prior = rng.standard_normal((8, 10))
    mapping = Regression.on(x, prior=prior, ridge=0.5).solve(prior @ x + 3, rank=8)
    np.testing.assert_allclose(mapping(x), prior @ x + 3, rtol=1e-9)


def test_balanced_is_the_same_map_with_equal_factors(rng):
    mapping = LowRankMap(
        100 * rng.standard_normal((6, 3)), rng.standard_normal((3, 5)), rng.standard_normal(6)
    )
    balanced = mapping.balanced()
    np.testing.assert_allclose(balanced.left @ balanced.right, mapping.left @ mapping.right, rtol=1e-10)
    singular = [np.linalg.svd(f, compute_uv=False) for f in (balanced.left, balanced.right)]
    np.testing.assert_allclose(singular[0], singular[1], rtol=1e-9)


def test_all_libraries_agree(pair, to_xp):
    y, x = pair
    prior = np.ones((8, 10))
    expected = Regression.on(x, prior=prior, ridge=0.01).solve(y, rank=3)(x)
    regression = Regression.on(to_xp(x), prior=to_xp(prior), ridge=0.01)
    np.testing.assert_allclose(np.asarray(regression.solve(to_xp(y), rank=3)(to_xp(x))), expected, rtol=1e-8)
