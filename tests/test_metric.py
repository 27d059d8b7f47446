"""Metrics on weights: what they measure, and that they can be absorbed into factors."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from cnncompress.solvers.metric import (
    SeparableMetric,
    _separable_fit,
    euclidean,
    of_covariance,
    of_sensitivity,
)

C, P, F = 6, 9, 5


def moment_of(rng, channels=C, samples=400):
    pixels = rng.standard_normal((channels, channels)) @ rng.standard_normal((channels, samples)) + 1
    return pixels @ pixels.T / samples


def weights_of(rng, size, spread=3.0):
    return np.exp(rng.uniform(-1, 1, size) * np.log(spread))


def mixed(rng, to_xp=np.asarray):
    """A metric that weighs all three axes."""
    parts = moment_of(rng), weights_of(rng, P), weights_of(rng, F)
    return SeparableMetric(*(to_xp(part) for part in parts))


def product(factors):
    return np.einsum("ck,pk,fk->cpf", *(np.asarray(factor) for factor in factors))


def test_euclidean_changes_nothing(to_xp, rng):
    tensor = rng.standard_normal((C, P, F))
    metric = euclidean(C, P, F, like=to_xp(tensor))
    np.testing.assert_array_equal(np.asarray(metric.weigh(to_xp(tensor))), tensor)
    for unweigh, size in (
        (metric.unweigh_inputs, C),
        (metric.unweigh_spatial, P),
        (metric.unweigh_outputs, F),
    ):
        vectors = rng.standard_normal((size, 3))
        np.testing.assert_array_equal(np.asarray(unweigh(to_xp(vectors))), vectors)
    assert metric.squared_norm(to_xp(tensor)) == pytest.approx((tensor**2).sum())


def test_factors_found_in_the_weighed_space_come_back(to_xp, rng):
    metric = mixed(rng, to_xp)
    factors = [rng.standard_normal((size, 4)) for size in (C, P, F)]
    back = (
        metric.unweigh_inputs(to_xp(factors[0])),
        metric.unweigh_spatial(to_xp(factors[1])),
        metric.unweigh_outputs(to_xp(factors[2])),
    )
    weighed = np.asarray(metric.weigh(to_xp(product(back))))
    np.testing.assert_allclose(weighed, product(factors), atol=1e-12)


def test_a_low_rank_tensor_keeps_its_rank_and_is_reproduced(rng):
    metric = mixed(rng)
    tensor = product([rng.standard_normal((size, 2)) for size in (C, P, F)])
    left, values, right = np.linalg.svd(metric.weigh(tensor).reshape(C, -1), full_matrices=False)
    assert values[2] < 1e-12 * values[0]
    rest = np.einsum(
        "pq,kqg,fg->kpf",
        metric.unweigh_spatial(np.eye(P)),
        (values[:2, None] * right[:2]).reshape(2, P, F),
        metric.unweigh_outputs(np.eye(F)),
    )
    found = np.tensordot(metric.unweigh_inputs(left[:, :2]), rest, 1)
    np.testing.assert_allclose(found, tensor, atol=1e-12)


def test_the_norm_is_that_of_the_weighed_tensor_and_of_the_definition(to_xp, rng):
    metric, tensor = mixed(rng, to_xp), rng.standard_normal((C, P, F))
    inputs, spatial, outputs = (np.asarray(one) for one in (metric.inputs, metric.spatial, metric.outputs))
    expected = np.einsum("cpf,cd,dpf,p,f->", tensor, inputs, tensor, spatial, outputs)
    assert metric.squared_norm(to_xp(tensor)) == pytest.approx(expected)
    assert (np.asarray(metric.weigh(to_xp(tensor))) ** 2).sum() == pytest.approx(expected)


def test_covariance_measures_the_responses_of_a_pointwise_layer(rng):
    images = torch.from_numpy(rng.standard_normal((3, C, 7, 8)) * weights_of(rng, C)[:, None, None] + 1)
    weight = torch.from_numpy(rng.standard_normal((F, C, 1, 1)))
    pixels = images.movedim(1, 0).flatten(1)
    metric = of_covariance(pixels @ pixels.T / pixels.shape[1], 1, F)
    energy = functional.conv2d(images, weight).square().sum(1).mean()
    assert metric.squared_norm(weight.flatten(2).permute(1, 2, 0)) == pytest.approx(float(energy))


def test_the_isotropic_part_is_the_plain_norm_at_equal_energy(to_xp, rng):
    moment, tensor = moment_of(rng), rng.standard_normal((C, P, F))
    pure, both = of_covariance(to_xp(moment), P, F), of_covariance(to_xp(moment), P, F, isotropic=0.5)
    expected = pure.squared_norm(to_xp(tensor)) + 0.5 * np.trace(moment) / C * (tensor**2).sum()
    assert both.squared_norm(to_xp(tensor)) == pytest.approx(expected)


def test_truncation_by_the_metric_is_better_by_the_metric(rng):
    metric, tensor = of_covariance(moment_of(rng), P, F), rng.standard_normal((C, P, F))
    plain = euclidean(C, P, F, like=tensor)

    def error(by):
        weighed = by.weigh(tensor).reshape(C, -1)
        left = np.linalg.svd(weighed, full_matrices=False)[0][:, :2]
        fitted = by.unweigh_inputs(left) @ (left.T @ weighed)
        return metric.squared_norm(fitted.reshape(C, P, F) - tensor)

    discarded = np.linalg.svd(metric.weigh(tensor).reshape(C, -1), compute_uv=False)[2:] ** 2
    assert error(metric) == pytest.approx(discarded.sum())
    assert error(metric) < 0.9 * error(plain)


@pytest.mark.parametrize("kernel", [False, True])
def test_separable_weights_are_recovered_exactly(to_xp, rng, kernel):
    squared = np.einsum("c,p,f->cpf", *(weights_of(rng, size) for size in (C, P, F)))
    tensor = rng.standard_normal((C, P, F))
    given = squared.transpose(2, 0, 1).reshape(F, C, 3, 3) if kernel else squared
    metric = of_sensitivity(to_xp(np.ascontiguousarray(given)))
    assert metric.explained == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(np.asarray(metric.weigh(to_xp(tensor))), np.sqrt(squared) * tensor, rtol=1e-10)


@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_equal_weights_are_the_plain_norm(to_xp, rng, alpha):
    tensor = rng.standard_normal((C, P, F))
    metric = of_sensitivity(to_xp(np.full((C, P, F), alpha)))
    np.testing.assert_allclose(np.asarray(metric.weigh(to_xp(tensor))), tensor, rtol=1e-12)
    assert metric.explained == pytest.approx(1)


def test_dividing_by_weights_that_are_not_separable_loses_the_rank(rng):
    """What the paper skips, and why the separable fit is needed."""
    alpha = weights_of(rng, (C, P, F))
    low_rank = product([rng.standard_normal((size, 1)) for size in (C, P, F)])
    assert np.linalg.matrix_rank((low_rank / alpha).reshape(C, -1)) == C
    metric = of_sensitivity(alpha**2)
    assert 0.3 < metric.explained < 0.95
    back = low_rank / metric.weigh(np.ones((C, P, F)))
    assert np.linalg.matrix_rank(back.reshape(C, -1)) == 1


def test_no_sweep_of_the_fit_loses_and_its_end_cannot_be_bettered(rng):
    tensor = weights_of(rng, (C, P, F), 20.0)
    kept = [_separable_fit(tensor, sweeps=sweeps)[3] for sweeps in range(1, 30)]
    assert (np.diff(kept) >= -1e-14).all()
    *factors, explained = _separable_fit(tensor)
    fitted = np.einsum("c,p,f->cpf", *factors)
    assert all((factor > 0).all() for factor in factors)
    assert explained == pytest.approx(1 - ((tensor - fitted) ** 2).sum() / (tensor**2).sum())
    for _ in range(50):
        moved = np.einsum("c,p,f->cpf", *(one * weights_of(rng, one.shape, 1.1) for one in factors))
        moved *= (moved * tensor).sum() / (moved**2).sum()
        assert ((tensor - moved) ** 2).sum() >= ((tensor - fitted) ** 2).sum()


def test_weights_that_no_image_asked_for_still_count(rng):
    squared = np.einsum("c,p,f->cpf", *(weights_of(rng, size) for size in (C, P, F)))
    squared[2], squared[:, :, 1] = 0, 0
    metric = of_sensitivity(squared)
    scale = metric.weigh(np.ones((C, P, F)))
    assert (scale > 0).all()
    assert (scale[2] < 0.01 * scale[0]).all()
    assert (scale[:, :, 1] < 0.01 * scale[:, :, 0]).all()
    assert np.isfinite(metric.unweigh_inputs(np.eye(C))).all()


@pytest.mark.parametrize("case", ["one dead", "all dead", "doubled", "fewer samples than channels"])
def test_degenerate_inputs_give_no_nan(to_xp, rng, case):
    pixels = rng.standard_normal((C, 3 if case.startswith("fewer") else 200))
    pixels[{"one dead": [1], "all dead": range(C)}.get(case, [])] = 0
    pixels[4] = pixels[3] if case == "doubled" else pixels[4]
    metric = of_covariance(to_xp(pixels @ pixels.T / pixels.shape[1]), P, F)
    tensor = to_xp(rng.standard_normal((C, P, F)))
    weighed = np.asarray(metric.weigh(tensor))
    back = np.asarray(metric.unweigh_inputs(to_xp(weighed.reshape(C, -1))))
    np.testing.assert_allclose(back.reshape(C, P, F), np.asarray(tensor), atol=1e-12)
    assert 0 < metric.squared_norm(tensor) < np.inf


def test_unweighing_is_bounded(rng):
    """The inverse root magnifies no direction by more than the floor allows."""
    moment = np.diag([1.0, 1.0, 1e-30, 0.0])
    basis = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    metric = of_covariance(basis @ moment @ basis.T, 1, 1)
    assert np.linalg.norm(metric.unweigh_inputs(np.eye(4)), 2) == pytest.approx((1e-3 * 0.5) ** -0.5)


def test_a_part_is_the_metric_of_a_block(to_xp, rng):
    metric = mixed(rng, to_xp)
    rows, columns = np.array([4, 0, 3]), np.array([2, 1])
    block = rng.standard_normal((3, P, 2))
    whole = np.zeros((C, P, F))
    whole[np.ix_(rows, range(P), columns)] = block
    part = metric.part(to_xp(rows), to_xp(columns))
    assert part.squared_norm(to_xp(block)) == pytest.approx(metric.squared_norm(to_xp(whole)))
    np.testing.assert_array_equal(np.asarray(part.inputs), np.asarray(metric.inputs)[np.ix_(rows, rows)])
    both = metric.part(None, None)
    assert both.squared_norm(to_xp(whole)) == pytest.approx(metric.squared_norm(to_xp(whole)))


def test_a_dead_block_counts_no_more_than_the_floor_of_the_whole(rng):
    moment = np.diag([1.0, 1.0, 0.0, 0.0])
    part = of_covariance(moment, P, F).part(np.array([2, 3]), None)
    block = rng.standard_normal((2, P, F))
    assert part.squared_norm(block) == pytest.approx(1e-3 * 0.5 * (block**2).sum())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_library_and_dtype_are_kept(to_xp, rng, dtype):
    metric = mixed(rng, to_xp)
    tensor = to_xp(rng.standard_normal((C, P, F)).astype(dtype))
    found = [metric.weigh(tensor)]
    for unweigh, size in (
        (metric.unweigh_inputs, C),
        (metric.unweigh_spatial, P),
        (metric.unweigh_outputs, F),
    ):
        found.append(unweigh(to_xp(rng.standard_normal((size, 2)).astype(dtype))))
    for one in found:
        assert type(one) is type(tensor)
        assert one.dtype == tensor.dtype
