"""Comparisons of two networks."""

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress.errors import NumericsError
from cnncompress.evaluate import compare, paired_drop


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )


def test_a_network_agrees_with_itself(tensor_source):
    images = torch.randn(9, 3, 8, 8)
    with torch.no_grad():
        labels = network()(images).argmax(1)
    found = compare(network(), network(), tensor_source(images, labels), features="1", batch_size=4)
    assert found.images == 9
    assert found.output_relative_error == found.feature_relative_error == 0
    assert found.top1_agreement == pytest.approx(1)
    accuracy = found.accuracy("these")
    assert (accuracy["top1_before"], accuracy["drop_top1"], accuracy["n"]) == (100, 0, 9)


def test_errors_equal_those_of_all_outputs_at_once(tensor_source):
    images = torch.randn(9, 3, 8, 8)
    one, two = network(0), network(1)
    found = compare(one, two, tensor_source(images), features="1", batch_size=4)
    with torch.no_grad():
        a, b, fa, fb = one(images), two(images), one[:2](images), two[:2](images)
    assert found.output_relative_error == pytest.approx(float(((a - b).norm() / a.norm()) ** 2), rel=1e-5)
    assert found.feature_relative_error == pytest.approx(float(((fa - fb).norm() / fa.norm()) ** 2), rel=1e-5)
    assert found.top1_agreement == pytest.approx(float((a.argmax(1) == b.argmax(1)).double().mean()))
    assert found.accuracy("none") is None


def test_only_the_asked_images_are_compared(tensor_source):
    images = torch.randn(9, 3, 8, 8)
    found = compare(network(0), network(1), tensor_source(images), batch_size=2, only=frozenset({1, 7}))
    alone = compare(network(0), network(1), tensor_source(images[[1, 7]]))
    assert found.images == 2
    assert found.output_relative_error == pytest.approx(alone.output_relative_error)


def test_nan_in_the_output_is_an_error(tensor_source):
    broken = network()
    with torch.no_grad():
        broken[4].bias[0] = float("nan")
    with pytest.raises(NumericsError, match="NaN"):
        compare(network(), broken, tensor_source(torch.randn(2, 3, 8, 8)))


def test_paired_interval_is_narrower_than_an_unpaired_one_and_covers_the_truth():
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(300):
        before = rng.random(1000) < 0.9
        after = np.where(before, rng.random(1000) > 0.02 / 0.9, rng.random(1000) < 0.1)
        drop, low, high = paired_drop(before, after)
        covered += low <= 100 * (0.02 - 0.01) <= high
        widths.append(high - low)
        assert drop == pytest.approx(100 * (before.mean() - after.mean()))
    assert 0.91 < covered / 300 <= 1
    assert np.mean(widths) < 2.5
