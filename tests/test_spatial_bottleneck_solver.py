"""Spatial bottlenecks fitted to blocks of pixels."""

import numpy as np
import pytest
import torch
from array_api_compat import array_namespace

from cnncompress.layers import SpatialBottleneck2d
from cnncompress.solvers.block_alternation import (
    fit_blocks,
    solve_down,
    solve_pointwise,
    solve_up,
)
from cnncompress.solvers.free_targets import response_error
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.pixel_blocks import BlockFactors, BlockMoments, block_means
from cnncompress.solvers.spatial_bottleneck import BlockSettings, fit_spatial_bottleneck

CHANNELS, OUTPUTS, POSITIONS = 4, 5, 4


def planted(rng, outputs=OUTPUTS):
    return BlockFactors(
        rng.random((CHANNELS, POSITIONS)),
        rng.normal(size=(outputs, CHANNELS)),
        rng.random((outputs, POSITIONS)),
        rng.normal(size=outputs),
    )


@pytest.fixture
def blocks(rng):
    """Blocks of pixels that resemble each other, as behind a rectifier."""
    return np.maximum(rng.normal(size=(CHANNELS, POSITIONS, 300)) + rng.normal(size=(CHANNELS, 1, 300)), 0)


@pytest.fixture
def target(rng, blocks):
    """What no bottleneck reaches: every place of a block has weights of its own."""
    weight = rng.normal(size=(OUTPUTS, POSITIONS, CHANNELS, POSITIONS)) + rng.normal(
        size=(OUTPUTS, 1, CHANNELS, 1)
    )
    return np.einsum("jqip,ips->jqs", weight, blocks) / 4 - 0.5


def moments_of(blocks, target):
    xp = array_namespace(blocks)
    return BlockMoments.of(
        JointMoments.of(*(xp.reshape(part, (-1, part.shape[2])) for part in (blocks, target))), POSITIONS
    )


def error(factors, blocks, target):
    """Squared error at the best bias."""
    left = target - np.asarray(factors(blocks))
    return np.sum((left - left.mean((1, 2), keepdims=True)) ** 2)


def test_history_never_rises_and_is_the_error_on_the_samples(blocks, target, to_xp):
    found = fit_blocks(moments_of(to_xp(blocks), to_xp(target)), tolerance=0)
    assert (np.diff(found.history) <= 0).all()
    assert found.history[-1] < 0.9 * found.history[1] < 0.8 * found.history[0]
    answer = np.asarray(found.factors(to_xp(blocks)))
    expected = np.sum((answer - target) ** 2) / np.sum(target**2)
    assert found.history[-1] == pytest.approx(expected)


def test_a_planted_bottleneck_is_found(rng, blocks, to_xp):
    target = planted(rng)(blocks)
    found = fit_blocks(moments_of(to_xp(blocks), to_xp(target)), sweeps=300, tolerance=0)
    assert found.history[1] > 1e-3
    assert found.history[-1] < 1e-8
    np.testing.assert_allclose(np.asarray(found.factors(to_xp(blocks))), target, atol=1e-2)


@pytest.mark.parametrize("step", ["pointwise", "up", "down"])
def test_each_step_is_the_least_squares_solution(rng, blocks, target, step):
    moments, start = moments_of(blocks, target), planted(rng)
    reduced = np.einsum("ip,ips->is", start.down, blocks)
    match step:
        case "pointwise":
            design = np.einsum("jq,is->jqsi", start.up, reduced)
            solved = solve_pointwise(moments, start, iterations=200)
        case "up":
            design = np.einsum("js,qr->jqsr", start.pointwise @ reduced, np.eye(POSITIONS))
            solved = solve_up(moments, start)
        case "down":
            design = np.einsum("jq,ji,ips->jqsip", start.up, start.pointwise, blocks)
            solved = solve_down(moments, start, iterations=500)
    if step == "down":  # one problem for all outputs, each with its own bias
        flat = design.reshape(OUTPUTS, -1, CHANNELS * POSITIONS)
        flat = (flat - flat.mean(1, keepdims=True)).reshape(-1, CHANNELS * POSITIONS)
        aim = target.reshape(OUTPUTS, -1)
        aim = (aim - aim.mean(1, keepdims=True)).ravel()
        best = np.sum((flat @ np.linalg.lstsq(flat, aim, rcond=None)[0] - aim) ** 2)
    else:
        best = 0.0
        for mine, wanted in zip(design, target, strict=True):
            flat = np.concatenate([mine.reshape(wanted.size, -1), np.ones((wanted.size, 1))], axis=1)
            aim = wanted.ravel()
            best += np.sum((flat @ np.linalg.lstsq(flat, aim, rcond=None)[0] - aim) ** 2)
    assert error(solved, blocks, target) <= (1 + 1e-6) * best
    assert error(start, blocks, target) > 1.1 * best


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_fits_behind_a_rectifier_never_rise(rng, blocks, target, to_xp, residual, rectified):
    aim = target[:CHANNELS] + (blocks if residual else 0)
    settings = BlockSettings(residual=residual, rectified=rectified, ridge=0.03)
    prior = rng.normal(size=(CHANNELS, CHANNELS))
    found = fit_spatial_bottleneck(to_xp(blocks), to_xp(aim), settings, prior=to_xp(prior))
    assert (np.diff(found.history) < 0).all()
    assert len(found.history) > (2 if rectified else 1)
    answer = np.asarray(found.factors(to_xp(blocks))) + (blocks if residual else 0)
    energy = response_error(aim, np.zeros_like(aim), rectified=rectified)
    expected = response_error(aim, answer, rectified=rectified) / energy
    assert found.history[-1] == pytest.approx(expected)
    passed_on = blocks if residual else np.zeros_like(aim)
    assert found.history[0] == pytest.approx(response_error(aim, passed_on, rectified=rectified) / energy)


def test_a_residual_that_says_all_is_left_alone(blocks):
    found = fit_spatial_bottleneck(blocks, blocks, BlockSettings(residual=True))
    assert found.history[-1] == 0
    np.testing.assert_allclose(found.factors(blocks), 0, atol=1e-6)


def test_a_ridge_is_samples_for_which_the_prior_is_right(rng, blocks, target):
    prior, factors = rng.normal(size=(OUTPUTS, CHANNELS)), planted(rng)
    centred = blocks.reshape(CHANNELS * POSITIONS, -1)
    strength = 0.5 * np.mean(centred.var(1))
    weight = np.einsum("ji,ip,jq->jqip", factors.pointwise, factors.down, factors.up)
    right = np.repeat(prior[:, :, None], POSITIONS, axis=2) / POSITIONS
    expected = error(factors, blocks, target) / blocks.shape[2]
    expected += strength * np.sum((weight - right[:, None]) ** 2)
    moments = moments_of(blocks, target).drawn_towards(prior, ridge=0.5)
    assert moments.error(factors) == pytest.approx(expected)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_the_factors_are_those_of_a_torch_layer(rng, padding, size):
    factors = planted(rng)
    module = SpatialBottleneck2d(CHANNELS, OUTPUTS, 2, padding, activation=False).double()
    with torch.no_grad():
        for part, values in (("down", factors.down), ("up", factors.up)):
            getattr(module, part).weight.copy_(torch.from_numpy(values).reshape(-1, 1, 2, 2))
        module.pointwise.weight.copy_(torch.from_numpy(factors.pointwise)[:, :, None, None])
        module.up.bias.copy_(torch.from_numpy(factors.bias))
        images = torch.from_numpy(rng.normal(size=(2, CHANNELS, *size)))
        answer = module(images).numpy()
    for row in range(padding, size[0] - 1, 2):
        for column in range(padding, size[1] - 1, 2):
            read, got = (part[:, :, row : row + 2, column : column + 2] for part in (images.numpy(), answer))
            block = read.reshape(2, CHANNELS, POSITIONS).transpose(1, 2, 0)
            expected = factors(block).transpose(2, 0, 1).reshape(got.shape)
            np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("damage", ["dead input", "twins", "few samples", "dead outputs", "no data"])
@pytest.mark.parametrize("residual", [True, False])
def test_degenerate_data(blocks, target, damage, residual):
    target = target[:CHANNELS]
    match damage:
        case "dead input":
            blocks[0] = 0
        case "twins":
            blocks[0] = blocks[1]
        case "few samples":
            blocks, target = blocks[..., :2], target[..., :2]
        case "dead outputs":
            target = np.zeros_like(target)
        case "no data":
            blocks = np.zeros_like(blocks)
    found = fit_spatial_bottleneck(blocks, target, BlockSettings(residual=residual))
    factors = found.factors
    assert all(
        np.isfinite(part).all() for part in (factors.down, factors.pointwise, factors.up, factors.bias)
    )
    assert np.isfinite(found.history).all()
    assert (np.diff(found.history) <= 0).all()


def test_samples_in_parts_give_the_same_fit(blocks, target, monkeypatch):
    whole = fit_spatial_bottleneck(blocks, target, BlockSettings())
    monkeypatch.setattr("cnncompress.solvers.spatial_bottleneck._ENTRIES", 1000)
    parted = fit_spatial_bottleneck(blocks, target, BlockSettings())
    np.testing.assert_allclose(parted.history, whole.history, rtol=1e-6)


def test_block_means_answer_a_block_alike(rng, blocks):
    pointwise, bias = rng.normal(size=(OUTPUTS, CHANNELS)), rng.normal(size=OUTPUTS)
    answer = block_means(pointwise, bias, positions=POSITIONS)(blocks)
    expected = pointwise @ blocks.mean(1) + bias[:, None]
    np.testing.assert_allclose(answer, np.repeat(expected[:, None], POSITIONS, axis=1))
