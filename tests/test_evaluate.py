"""Comparisons of two networks."""

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress.errors import ModelError, NumericsError
from cnncompress.evaluate import compare


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


def test_outputs_may_be_nested(tensor_source):
    class Nested(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.net = network(seed)

        def forward(self, images):
            maps = self.net[:2](images)
            return {"maps": maps, "pair": (self.net[2:](maps), None)}

    images = torch.randn(5, 3, 8, 8)
    found = compare(Nested(0), Nested(1), tensor_source(images))
    with torch.no_grad():
        one, two = (
            torch.cat([part.flatten(1) for part in (out["maps"], out["pair"][0])], 1)
            for out in (Nested(0)(images), Nested(1)(images))
        )
    assert found.output_relative_error == pytest.approx(
        float(((one - two).norm() / one.norm()) ** 2), rel=1e-5
    )
    assert found.before is None
    assert found.top1_agreement is None


@pytest.mark.parametrize("output", [[torch.zeros(2), torch.zeros(3)], {"scores": 1.0}, [], torch.zeros(())])
def test_outputs_without_a_row_an_image_are_refused(output, tensor_source):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, images):
            return output

    with pytest.raises(ModelError, match="output"):
        compare(Odd(), Odd(), tensor_source(torch.randn(2, 3, 8, 8)))


def test_the_five_best_answers_count_where_there_are_more_classes(tensor_source):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(12, 9))
    images = torch.randn(40, 3, 2, 2)
    with torch.no_grad():
        ranks = wide(images).argsort(1, descending=True)
    places = torch.arange(40) % 9
    found = compare(wide, wide, tensor_source(images, ranks.gather(1, places[:, None])[:, 0]), batch_size=7)
    np.testing.assert_array_equal(found.after.in_top5, (places < 5).numpy())
    np.testing.assert_array_equal(found.after.correct, (places == 0).numpy())
    np.testing.assert_array_equal(found.after.indices, np.arange(40))
    assert found.accuracy("these")["top5_after"] == pytest.approx(100 * float((places < 5).double().mean()))
    assert found.accuracy("these")["drop_top5"] == 0
