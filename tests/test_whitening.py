"""Whitening takes a layer's own covariance away and leaves what ties it to another."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnncompress.solvers.moments import Moments
from cnncompress.solvers.whitening import absolute_correlation, whitened_cross_covariance, zca_whitener


def mixed(rng: np.random.Generator, channels: int, samples: int = 400) -> np.ndarray:
    """Responses whose channels are correlated and of very different scale."""
    scales = 10.0 ** rng.uniform(-1.5, 1.5, channels)
    return scales[:, None] * (rng.normal(size=(channels, channels)) @ rng.normal(size=(channels, samples)))


def test_whitened_covariance_is_the_identity(to_xp: Callable[[Any], Any], rng: np.random.Generator) -> None:
    covariance = np.cov(mixed(rng, 7))
    whitener = np.asarray(zca_whitener(to_xp(covariance)))
    np.testing.assert_allclose(whitener, whitener.T, atol=1e-12 * np.abs(whitener).max())
    np.testing.assert_allclose(whitener @ covariance @ whitener, np.eye(7), atol=1e-7)


def test_dead_and_repeated_channels_leave_the_identity_on_the_range(rng: np.random.Generator) -> None:
    alive = rng.normal(size=(4, 300))
    covariance = np.cov(np.concatenate([alive, alive[:1], np.zeros((2, 300))]))
    whitener = zca_whitener(covariance)
    values, vectors = np.linalg.eigh(covariance)
    span = vectors[:, values > 1e-10]
    assert span.shape[1] == 4
    np.testing.assert_allclose(whitener @ covariance @ whitener, span @ span.T, atol=1e-7)
    assert np.isfinite(whitener).all()


def test_nothing_that_varies_gives_zeros(to_xp: Callable[[Any], Any]) -> None:
    assert not np.asarray(zca_whitener(to_xp(np.zeros((3, 3))))).any()
    assert not np.asarray(absolute_correlation(to_xp(np.zeros((3, 3))))).any()
    assert not np.asarray(whitened_cross_covariance(to_xp(np.zeros((3, 3))), first=1)).any()


def test_small_eigenvalues_are_raised_to_the_floor() -> None:
    whitener = zca_whitener(np.diag([1.0, 1e-6]), floor=1e-4)
    np.testing.assert_allclose(whitener, np.diag([1.0, 1e2]), rtol=1e-12)


def test_moments_give_what_samples_give(to_xp: Callable[[Any], Any], rng: np.random.Generator) -> None:
    first = mixed(rng, 5, 600) + 3
    second = rng.normal(size=(4, 5)) @ first + mixed(rng, 4, 600)
    # directly, as the paper's appendix A.2 writes it
    whitened = []
    for samples in (first, second):
        centred = samples - samples.mean(axis=1, keepdims=True)
        left, values, _ = np.linalg.svd(centred, full_matrices=False)
        whitened.append(np.sqrt(599) * left @ np.diag(1 / values) @ left.T @ centred)
    direct = whitened[0] @ whitened[1].T / 599
    joint = np.concatenate([first, second])
    moments = Moments.of(to_xp(joint[:, :250].copy())) + Moments.of(to_xp(joint[:, 250:].copy()))
    found = whitened_cross_covariance(moments.covariance, first=5)
    np.testing.assert_allclose(np.asarray(found), direct, atol=1e-7)
    assert np.linalg.svd(direct, compute_uv=False).max() > 0.5


def test_blocks_appear_that_the_plain_covariance_hides(rng: np.random.Generator) -> None:
    # two groups of sources feed two groups of the second layer; the first layer's channels are one mixture
    sources = rng.normal(size=(8, 4000))
    blocks = np.kron(np.eye(2), rng.normal(size=(4, 4)))
    common = np.eye(8) + 0.9 * np.ones((8, 8))
    first = common @ sources
    second = blocks @ sources
    joint = np.cov(np.concatenate([first, second]))
    whitened = np.abs(whitened_cross_covariance(joint, first=8))
    plain = np.abs(joint[:8, 8:])
    within = np.kron(np.eye(2), np.ones((4, 4))).astype(bool)
    assert plain[within].sum() / plain.sum() < 0.7
    assert whitened[within].sum() / whitened.sum() > 0.95


def test_scaling_a_whole_layer_changes_nothing(rng: np.random.Generator) -> None:
    joint = np.cov(mixed(rng, 6))
    scale = np.diag([1e3] * 4 + [1e-2] * 2)
    np.testing.assert_allclose(
        whitened_cross_covariance(scale @ joint @ scale, first=4),
        whitened_cross_covariance(joint, first=4),
        atol=1e-8,
    )


@pytest.mark.parametrize("first", [0, 3, -1])
def test_each_layer_needs_a_channel(first: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 2"):
        whitened_cross_covariance(np.eye(3), first=first)


def test_correlation_is_numpys(to_xp: Callable[[Any], Any], rng: np.random.Generator) -> None:
    samples = mixed(rng, 6)
    found = np.asarray(absolute_correlation(to_xp(np.cov(samples))))
    np.testing.assert_allclose(found, np.abs(np.corrcoef(samples)), atol=1e-12)
    assert found.max() <= 1


def test_a_dead_channel_correlates_with_nothing(rng: np.random.Generator) -> None:
    samples = rng.normal(size=(4, 50))
    samples[2] = 7.0
    found = absolute_correlation(np.cov(samples))
    assert not found[2].any()
    assert not found[:, 2].any()
    np.testing.assert_allclose(np.diag(found)[[0, 1, 3]], 1.0)
