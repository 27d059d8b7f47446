"""Stacks and pairs of single intra-channel convolutions, fitted to responses on crops."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as nnf

from cnncompress.layers import SICBottleneck2d, SICConv2d, UnraveledConv2d
from cnncompress.solvers.free_targets import free_targets, response_error, with_targets
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.sic import LayerSettings, fit_stack
from cnncompress.solvers.sic_bottleneck import fit_bottleneck, split
from cnncompress.solvers.sic_layers import Crops, IntraChannel, stacked

CHANNELS, OUTPUTS, REACH = 4, 5, 3


def cropped(images, reach):
    """Crops around every pixel of images of shape (images, channels, rows, columns)."""
    count, _, rows, columns = images.shape
    side = 2 * reach + 1
    tensor, ones = torch.from_numpy(images), torch.ones(count, 1, rows, columns, dtype=torch.float64)
    found, inside = (
        nnf.unfold(part, side, padding=reach).reshape(count, -1, side, side, rows * columns).numpy()
        for part in (tensor, ones)
    )
    values, within = (
        part.transpose(1, 2, 3, 0, 4).reshape(part.shape[1], side, side, -1) for part in (found, inside)
    )
    return values, within[0] > 0


@pytest.fixture
def problem(rng):
    """Correlated, rectified maps, the crops around all their pixels and a convolution's responses there."""
    images = np.maximum(rng.normal(size=(6, CHANNELS, 7, 6)) + rng.normal(size=(6, CHANNELS, 1, 1)), 0)
    values, inside = cropped(images, REACH)
    weight = rng.normal(size=(CHANNELS, CHANNELS * 9)) / 4
    target = weight @ Crops(values).trimmed(3).patches() - 0.1
    return images, values, inside, weight, target


def on_maps(images, values):
    """(outputs, samples) as maps."""
    count, _, rows, columns = images.shape
    return np.asarray(values).reshape(-1, count, rows, columns).transpose(1, 0, 2, 3)


def load_(module, convolution, suffix=""):
    """Copy a fitted convolution into torch's layers."""
    depthwise, pointwise = (getattr(module, f"{part}{suffix}") for part in ("depthwise", "pointwise"))
    filters = torch.as_tensor(np.asarray(convolution.depthwise))
    with torch.no_grad():
        depthwise.weight.copy_(filters.reshape(-1, 1, 3, 3))
        pointwise.weight.copy_(torch.as_tensor(np.asarray(convolution.pointwise))[:, :, None, None])
        pointwise.bias.copy_(torch.as_tensor(np.asarray(convolution.bias)))


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_history_never_rises_and_is_the_error_of_the_stack(problem, to_xp, residual, rectified):
    _, values, inside, weight, target = problem
    crops = Crops(to_xp(values), to_xp(inside))
    found = fit_stack(
        crops,
        to_xp(target),
        bases=3,
        settings=LayerSettings(3, rectified=rectified, ridge=0.03),
        residual=residual,
        prior=None if residual else to_xp(weight),
    )
    assert (np.diff(found.history) <= 0).all()
    assert found.history[-1] < 0.9 * found.history[1] < 0.8 * found.history[0]
    for count in (1, 2, 3):
        answer = np.asarray(stacked(found.layers[:count], crops, rectified=rectified))
        energy = response_error(target, np.zeros_like(target), rectified=rectified)
        expected = response_error(target, answer, rectified=rectified) / energy
        assert found.history[count] == pytest.approx(expected)


def test_a_stack_may_change_the_number_of_channels(problem, rng):
    _, values, inside, _, _ = problem
    target = rng.normal(size=(OUTPUTS, CHANNELS * 9)) @ Crops(values).trimmed(3).patches()
    found = fit_stack(Crops(values, inside), target, bases=2, settings=LayerSettings(3))
    assert [layer.residual for layer in found.layers] == [False, True]
    assert found.history[0] == pytest.approx(1)
    assert found.history[2] < found.history[1] < found.history[0]


@pytest.mark.parametrize("residual", [True, False])
def test_a_layer_that_would_raise_the_error_stays_empty(problem, rng, residual):
    _, values, inside, weight, target = problem
    crops, settings = Crops(values, inside), LayerSettings(3, ridge=1e3)
    wrong = 10 * rng.normal(size=weight.shape)
    found = fit_stack(crops, target, bases=1, settings=settings, residual=residual, prior=wrong)
    assert found.history[1] == found.history[0]
    assert not found.layers[0].pointwise.any()
    assert not found.layers[0].bias.any()


@pytest.mark.parametrize("rounds", [0, 5])
def test_targets_that_follow_the_rectifier_lower_the_error(problem, rounds):
    _, values, inside, weight, target = problem
    fits = [
        fit_stack(
            Crops(values, inside), target, bases=1, settings=LayerSettings(3, rounds=count), prior=weight
        )
        for count in (0, rounds)
    ]
    assert (fits[1].history[1] < 0.97 * fits[0].history[1]) == (rounds > 0)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("rectified", [True, False])
def test_a_planted_layer_is_found(problem, rng, residual, rectified):
    _, values, inside, _, _ = problem
    planted = IntraChannel(
        rng.normal(size=(CHANNELS, 1, 3, 3)),
        rng.normal(size=(CHANNELS, CHANNELS)),
        rng.normal(size=CHANNELS),
        residual,
    )
    crops = Crops(values, inside)
    target = stacked([planted], crops, rectified=rectified)
    settings = LayerSettings(3, rectified=rectified, sweeps=500, rounds=50)
    found = fit_stack(crops, target, bases=1, settings=settings, residual=residual)
    assert found.history[0] > 0.5
    assert found.history[1] < 2e-3


@pytest.mark.parametrize("residual", [True, False])
def test_the_stack_is_that_of_torch_layers_up_to_the_borders(problem, residual):
    images, values, inside, _, target = problem
    crops = Crops(values, inside)
    found = fit_stack(crops, target, bases=3, settings=LayerSettings(3), residual=residual)
    modules = [
        SICConv2d(CHANNELS, CHANNELS, residual=residual or index > 0, activation=index < 2).double()
        for index in range(3)
    ]
    for module, layer in zip(modules, found.layers, strict=True):
        load_(module, layer)
    with torch.no_grad():
        expected = nn.Sequential(*modules)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(
        on_maps(images, stacked(found.layers, crops, rectified=True)), expected, atol=1e-10
    )


@pytest.mark.parametrize("given", [True, False])
def test_several_filters_a_channel_are_those_of_an_unravelled_layer(problem, to_xp, given):
    images, values, inside, weight, target = problem
    crops = Crops(to_xp(values), to_xp(inside))
    errors = []
    for filters in (1, 2, 9):
        settings = LayerSettings(3, filters=filters, rounds=1, sweeps=10)
        prior = to_xp(weight) if given else None
        found = fit_stack(crops, to_xp(target), bases=1, settings=settings, prior=prior)
        errors.append(found.history[1])
    assert errors[0] > 2 * errors[1]
    assert errors[2] < (1e-9 if given else 1e-2)
    module = UnraveledConv2d(CHANNELS, CHANNELS, 3, padding=1, bases=9).double()
    load_(module, found.layers[0])
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    answer = stacked(found.layers, crops, rectified=True)
    np.testing.assert_allclose(on_maps(images, answer), expected, atol=1e-10)


def test_samples_in_parts_give_the_same_stack(problem, monkeypatch):
    _, values, inside, weight, target = problem
    crops = Crops(values, inside)
    whole = fit_stack(crops, target, bases=2, settings=LayerSettings(3), prior=weight)
    monkeypatch.setattr("cnncompress.solvers.sic_layers._ENTRIES", 3000)
    assert len(crops.parts()) > 10
    parted = fit_stack(crops, target, bases=2, settings=LayerSettings(3), prior=weight)
    np.testing.assert_allclose(parted.history, whole.history, rtol=1e-6)
    np.testing.assert_allclose(
        stacked(parted.layers, crops, rectified=True),
        stacked(whole.layers, crops, rectified=True),
        atol=1e-4,
    )


@pytest.mark.parametrize("damage", ["dead input", "twins", "few samples", "dead outputs", "no data"])
@pytest.mark.parametrize("residual", [True, False])
def test_degenerate_data(problem, damage, residual):
    _, values, inside, _, target = problem
    match damage:
        case "dead input":
            values[0] = 0
        case "twins":
            values[0] = values[1]
        case "few samples":
            values, inside, target = values[..., :3], inside[..., :3], target[:, :3]
        case "dead outputs":
            target = np.zeros_like(target)
        case "no data":
            values = np.zeros_like(values)
    crops, settings = Crops(values, inside), LayerSettings(3)
    found = fit_stack(crops, target, bases=2, settings=settings, residual=residual)
    pair = fit_bottleneck(crops, target, hidden=2, settings=settings, residual=residual, inner_rectified=True)
    for layer in (*found.layers, pair.pair.first, pair.pair.second):
        assert all(np.isfinite(part).all() for part in (layer.depthwise, layer.pointwise, layer.bias))
    for history in (found.history, pair.history):
        assert np.isfinite(history).all()
        assert (np.diff(history) <= 0).all()


@pytest.mark.parametrize("inner_rectified", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_a_split_layer_is_the_layer_with_a_projected_1x1(problem, rng, to_xp, residual, inner_rectified):
    _, values, inside, _, _ = problem
    layer = IntraChannel(
        rng.normal(size=(CHANNELS, 1, 3, 3)),
        rng.normal(size=(CHANNELS, CHANNELS)),
        rng.normal(size=CHANNELS),
        residual,
    )
    crops = Crops(to_xp(values), to_xp(inside))
    given = IntraChannel(*map(to_xp, (layer.depthwise, layer.pointwise, layer.bias)), residual)
    pair = split(given, crops, hidden=2, inner_rectified=inner_rectified)
    directions = np.asarray(pair.second.pointwise)
    centre = Crops(values).trimmed(3)
    filtered = np.einsum("ckl,ckls->cs", layer.depthwise[:, 0], centre.values)
    expected = directions @ directions.T @ layer.pointwise @ filtered + layer.bias[:, None]
    expected += centre.trimmed(1).patches() if residual else 0
    np.testing.assert_allclose(np.asarray(pair(crops)), expected, atol=1e-10)
    # no other directions keep more of the responses' variance
    varying = layer.pointwise @ (filtered - filtered.mean(1, keepdims=True))
    kept = np.sum((directions.T @ varying) ** 2) / np.sum(varying**2)
    spectrum = np.linalg.svd(varying, compute_uv=False) ** 2
    assert kept == pytest.approx(spectrum[:2].sum() / spectrum.sum())


@pytest.mark.parametrize("inner_rectified", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_the_pair_is_that_of_a_torch_layer_up_to_the_borders(problem, residual, inner_rectified):
    images, values, inside, weight, target = problem
    crops = Crops(values, inside)
    found = fit_bottleneck(
        crops,
        target,
        hidden=2,
        settings=LayerSettings(3),
        residual=residual,
        inner_rectified=inner_rectified,
        prior=None if residual else weight,
    )
    assert found.history[2] < 0.99 * found.history[1] < found.history[0]
    module = SICBottleneck2d(
        CHANNELS, hidden=2, residual=residual, activation=False, inner_activation=inner_rectified
    ).double()
    load_(module, found.pair.first, "1")
    load_(module, found.pair.second, "2")
    with torch.no_grad():
        expected = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(on_maps(images, found.pair(crops)), expected, atol=1e-10)
    energy = response_error(target, np.zeros_like(target), rectified=True)
    error = response_error(target, found.pair(crops), rectified=True)
    assert found.history[2] == pytest.approx(error / energy)


def test_other_targets_leave_the_moments_of_the_regressors(rng, to_xp):
    x, old, new = (rng.normal(size=(rows, 20)) for rows in (3, 2, 2))
    known = JointMoments.of(to_xp(x), to_xp(old))
    parts = [(to_xp(x[:, at]), to_xp(new[:, at])) for at in (slice(7), slice(7, None))]
    changed, expected = with_targets(known, parts), JointMoments.of(to_xp(x), to_xp(new))
    for field in ("regressor_outer", "cross_outer", "target_total", "target_square", "regressor_total"):
        np.testing.assert_allclose(np.asarray(getattr(changed, field)), np.asarray(getattr(expected, field)))


def test_targets_are_free_where_the_rectifier_hides_them():
    target, prediction = np.array([2.0, -1.0, -1.0]), np.array([1.0, -3.0, 4.0])
    found = free_targets(target, prediction)
    np.testing.assert_allclose(found, [2.0, -3.0, 0.0], atol=0.05)
