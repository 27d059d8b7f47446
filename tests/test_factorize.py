"""Layers are replaced one after another, each on the compressed prefix."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress.calibration import Calibration
from cnncompress.collector import Collector
from cnncompress.errors import DataError
from cnncompress.events import LayerDone
from cnncompress.factorize import factorize_
from cnncompress.gather import Context, held_out_images
from cnncompress.inspect import inspect_layers
from cnncompress.plan import LayerPlan
from cnncompress.prefix import Prefix


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(12, 14, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(14, 16, 3, padding=1), nn.ReLU(inplace=True),
    ).eval()  # fmt: skip


def run(model, images, plans, source_type, *, batch_size=8, memory=10**9, damage=None):
    layers = inspect_layers(model, tuple(images.shape[1:]))
    source = source_type(images)
    collector = Collector(layers, positions=lambda layer: 12, seed=0)
    with torch.no_grad(), collector.watching(model) as begin:
        for batch in source.batches(batch_size):
            begin(batch.indices.tolist())
            model(batch.images)
    compressed = copy.deepcopy(model)
    if damage is not None:
        damage(compressed)
    prefix = Prefix(compressed, source, batch_size=batch_size, memory=memory)
    context = Context(
        calibration=Calibration(collector), prefix=prefix, holdout=0.25, seed=0, backend="numpy"
    )
    events = []
    factors = factorize_(compressed, layers, plans, context, events.append)
    return compressed, factors, events


PLANS = (
    LayerPlan(name="0", method="gsvd", ranks=(6,)),
    LayerPlan(name="2", method="gsvd3d", ranks=(9, 8)),
    LayerPlan(name="5", method="gsvd3d", ranks=(11, 9)),
)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.nn.functional.avg_pool2d(torch.randn(24, 3, 24, 24), 3, stride=1)[:, :, :16, :16]


def test_replaces_what_was_planned_and_reports_each_layer(images, tensor_source):
    plans = (PLANS[0], LayerPlan(name="2", method="none", reason="left"), PLANS[2])
    model, factors, events = run(network(), images, plans, tensor_source)
    assert [type(model[i]) for i in (0, 2, 5)] == [nn.Sequential, nn.Conv2d, nn.Sequential]
    assert set(factors) == {"0", "5"}
    assert [(e.name, e.method, e.ranks) for e in events if isinstance(e, LayerDone)] == [
        ("0", "gsvd", (6,)),
        ("2", "none", ()),
        ("5", "gsvd3d", (11, 9)),
    ]


def test_a_layer_is_fitted_to_its_compressed_prefix(images, tensor_source):
    def disturb(model):
        with torch.no_grad():
            model[0].weight.mul_(0.7)

    one, _, _ = run(network(), images, PLANS[1:], tensor_source)
    two, _, _ = run(network(), images, PLANS[1:], tensor_source, damage=disturb)
    assert not torch.allclose(one[2][2].weight, two[2][2].weight, rtol=1e-2)


def test_asymmetric_repairs_a_disturbed_prefix_better_than_symmetric(images, tensor_source):
    def disturb(model):
        with torch.no_grad():
            model[0].weight.mul_(0.6)
            model[0].bias.add_(0.1)

    errors = {}
    original = network()
    fresh = torch.nn.functional.avg_pool2d(torch.randn(24, 3, 24, 24), 3, stride=1)[:, :, :16, :16]
    for symmetric in (True, False):
        options = {"symmetric": symmetric}
        plans = [LayerPlan(name=p.name, method=p.method, ranks=p.ranks, options=options) for p in PLANS[1:]]
        model, _, _ = run(original, images, plans, tensor_source, damage=disturb)
        with torch.no_grad():
            target = original(fresh)
            errors[symmetric] = float((target - model(fresh)).norm() / target.norm())
    assert errors[False] < 0.9 * errors[True]


@pytest.mark.parametrize("memory", [0, 10**9])
@pytest.mark.parametrize("batch_size", [5, 24])
def test_result_does_not_depend_on_memory_or_batch_size(images, tensor_source, memory, batch_size):
    reference, _, _ = run(network(), images, PLANS, tensor_source)
    other, _, _ = run(network(), images, PLANS, tensor_source, memory=memory, batch_size=batch_size)
    with torch.no_grad():
        torch.testing.assert_close(other(images), reference(images), rtol=2e-3, atol=2e-4)


def test_full_ranks_reproduce_the_network(images, tensor_source):
    plans = (
        LayerPlan(name="0", method="gsvd", ranks=(12,)),
        LayerPlan(name="2", method="gsvd3d", ranks=(36, 14)),
        LayerPlan(name="5", method="gsvd3d", ranks=(42, 16)),
    )
    original = network()
    model, _, _ = run(original, images, plans, tensor_source)
    with torch.no_grad():
        target = original(images)
        assert float((model(images) - target).norm() / target.norm()) < 1e-4


def test_dead_channels_and_too_few_images_give_finite_weights(images, tensor_source):
    model = network()
    with torch.no_grad():
        model[0].weight[:5] = 0
        model[0].bias[:5] = -1
        model[2].weight[7] = model[2].weight[8]
    compressed, _, _ = run(model, images[:2], PLANS, tensor_source)
    assert all(torch.isfinite(p).all() for p in compressed.parameters())


def test_held_out_images_are_a_fixed_share():
    indices = [3, 1, 4, 15, 9, 2, 6, 5, 35, 8]
    drawn = held_out_images(indices, share=0.2, seed=0)
    assert len(drawn) == 2
    assert drawn <= set(indices)
    assert drawn == held_out_images(indices[::-1], share=0.2, seed=0)
    assert len(held_out_images([0, 1], share=0.99, seed=0)) == 1
    with pytest.raises(DataError, match="at least 2"):
        held_out_images([0], share=0.2, seed=0)


def test_half_precision_networks_are_solved_in_float32(images, tensor_source):
    reference, _, _ = run(network(), images, PLANS[:1], tensor_source)
    model, _, _ = run(network().bfloat16(), images.bfloat16(), PLANS[:1], tensor_source)
    assert {p.dtype for p in model[0].parameters()} == {torch.bfloat16}
    with torch.no_grad():
        target = reference(images)
        got = model(images.bfloat16()).float()
    assert np.isfinite(got.numpy()).all()
    assert float((got - target).norm() / target.norm()) < 0.1
