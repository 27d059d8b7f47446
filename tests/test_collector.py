"""Moments of the inputs of layers, beside those of their responses."""

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress import collector as collector_module
from cnncompress.collector import Collector
from cnncompress.errors import ModelError, NumericsError
from cnncompress.inspect import inspect_layers


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(64, 6),
    )


def collect(model, images, *, inputs, batch_size=4):
    layers = inspect_layers(model, tuple(images.shape[1:]))
    collector = Collector(layers, positions=lambda layer: 5, seed=0, inputs=inputs)
    with torch.no_grad(), collector.watching(model) as begin:
        for first in range(0, len(images), batch_size):
            part = images[first : first + batch_size]
            begin(range(first, first + len(part)))
            model(part)
    return collector


def pixels(model, images, depth):
    """Inputs of a layer, one column a pixel."""
    with torch.no_grad():
        inputs = model[:depth](images)
    return inputs.movedim(1, 0).flatten(1).double().numpy()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_inputs_are_counted_at_every_pixel(memory_format):
    model, images = network(), torch.randn(6, 3, 9, 9).contiguous(memory_format=memory_format)
    collector = collect(model, images, inputs=["0", "2", "5"])
    for name, depth in (("0", 0), ("2", 2), ("5", 5)):
        expected = pixels(model, images, depth)
        moments = collector.input_moments(name)
        assert moments.count == expected.shape[1]
        assert moments.outer.dtype == torch.float64
        np.testing.assert_allclose(moments.total, expected.sum(1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(moments.outer, expected @ expected.T, rtol=1e-4, atol=1e-4)


def test_inputs_explain_the_responses_of_a_pointwise_layer():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False)).double(), torch.randn(5, 3, 6, 6).double()
    collector = collect(model, images, inputs=["0"])
    weight = model[0].weight.detach()[:, :, 0, 0]
    torch.testing.assert_close(
        collector.moments("0").second, weight @ collector.input_moments("0").second @ weight.T
    )


def test_rows_of_a_linear_layer_are_samples():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Linear(7, 2)), torch.randn(3, 4, 5, 7)
    moments = collect(model, images, inputs=["0"]).input_moments("0")
    rows = images.reshape(-1, 7).double()
    assert moments.count == 60
    torch.testing.assert_close(moments.outer, rows.T @ rows, rtol=1e-5, atol=1e-5)


def test_neither_the_batch_size_nor_the_chunks_matter(monkeypatch):
    model, images = network(), torch.randn(6, 3, 9, 9)
    one = collect(model, images, inputs=["2"], batch_size=6).input_moments("2")
    monkeypatch.setattr(collector_module, "_CHUNK", 17)
    two = collect(model, images, inputs=["2"], batch_size=1).input_moments("2")
    assert one.count == two.count
    torch.testing.assert_close(one.outer, two.outer, rtol=1e-5, atol=1e-5)


def test_inputs_are_watched_only_where_asked():
    model, images = network(), torch.randn(2, 3, 9, 9)
    collector = collect(model, images, inputs=["2"])
    assert collector.numpy_input_moments("0") is None
    assert collector.numpy_input_moments("elsewhere") is None
    with pytest.raises(KeyError):
        collector.input_moments("0")
    found = collector.numpy_input_moments("2")
    assert isinstance(found.outer, np.ndarray)
    assert found is collector.numpy_input_moments("2")
    np.testing.assert_array_equal(found.outer, collector.input_moments("2").outer)


def test_asking_for_inputs_changes_nothing_else():
    model, images = network(), torch.randn(5, 3, 9, 9)
    with_inputs, without = collect(model, images, inputs=["0", "2"]), collect(model, images, inputs=())
    for name in ("0", "2", "5"):
        torch.testing.assert_close(
            with_inputs.moments(name).outer, without.moments(name).outer, rtol=0, atol=0
        )
        torch.testing.assert_close(with_inputs.take_samples(name), without.take_samples(name), rtol=0, atol=0)


def test_an_unknown_layer_is_named():
    layers = inspect_layers(network(), (3, 9, 9))
    with pytest.raises(ModelError, match="unknown layer '7'; known: 0, 2, 5"):
        Collector(layers, positions=lambda layer: 5, seed=0, inputs=["7"])


def test_nan_among_the_inputs_names_the_layer():
    images = torch.randn(2, 3, 9, 9)
    images[0, 0, 0, 0] = float("nan")
    collector = collect(network(), images, inputs=["0"])
    with pytest.raises(NumericsError, match=r"^0: its inputs hold NaN"):
        collector.numpy_input_moments("0")
