"""Moments add up and give the covariance."""

import numpy as np

from cnncompress.solvers.moments import Moments


def test_sum_of_batches_equals_all_at_once(to_xp, rng):
    samples = rng.standard_normal((5, 40)) + 3
    parts = Moments.of(to_xp(samples[:, :7])) + Moments.of(to_xp(samples[:, 7:]))
    np.testing.assert_allclose(np.asarray(parts.mean), samples.mean(1), rtol=1e-12)
    np.testing.assert_allclose(
        np.asarray(parts.covariance), np.cov(samples, bias=True), rtol=1e-10, atol=1e-12
    )


def test_float32_products_are_summed_in_float64(rng):
    samples = rng.standard_normal((4, 1000)).astype(np.float32)
    total = Moments.of(samples)
    for _ in range(999):
        total += Moments.of(samples)
    exact = samples.astype(np.float64)
    np.testing.assert_allclose(total.second, exact @ exact.T / 1000, rtol=1e-6, atol=1e-7)
    assert total.outer.dtype == np.float64
