"""The planner on ImageNet's VGG-16 and real images, at a quarter of the usual image area."""

from typing import Any

import pytest

from cnncompress import Options, compress, load_network
from cnncompress.network import Network, Preprocess
from cnncompress.photographs import photograph_crops

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real networks")]

SMALL = Preprocess(resize=112, crop=(112, 112))


def report_of(**options: Any) -> dict[str, Any]:
    network = load_network("vgg16", weights="backbone")
    small = Network(name="vgg16", model=network.model, preprocess=SMALL, source=network.source)
    crops = photograph_crops(SMALL, 80, seed=0)
    return compress(small, crops, None, Options(speedup=4, measure=False, **options)).report


def test_a_choice_of_methods_loses_less_than_the_papers_ranks_and_uniform_ones() -> None:
    chosen = report_of(method="auto")
    errors = [
        report["fidelity"]["output_relative_error"]
        for report in (chosen, report_of(ranks="paper"), report_of(ranks="uniform"))
    ]
    assert errors[0] < 0.97 * errors[1], errors
    assert errors[0] < 0.9 * errors[2], errors
    planner = chosen["planner"]
    assert planner["spent"] <= planner["budget"]
    assert planner["gap"] < 0.02
    # the sum of single losses is a ranking, not a forecast, but it isn't of another kind
    assert 0.3 < planner["loss"] / errors[0] < 3
