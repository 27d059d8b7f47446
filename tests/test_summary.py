"""The content of report.json that doesn't depend on a fit."""

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from cnncompress.inspect import inspect_layers
from cnncompress.layer_timing import LayerTime
from cnncompress.output import strict_json
from cnncompress.summary import summarize


class Images(list[int]):
    """A source of images as far as the summary looks at it."""

    bad, description, hash = (), "noise", "ab12"


@pytest.fixture
def arguments() -> dict[str, Any]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    layers = inspect_layers(model, (3, 8, 8))
    left = SimpleNamespace(method="none", ranks=(), options={}, reason="no rank is cheaper")
    return {
        "network": SimpleNamespace(name="tiny", weights="", notes=()),
        "asked": 2.0,
        "plan": SimpleNamespace(
            layers=(left, left), options={"speedup": 2.0, "include_linear": False}, preprocess={}
        ),
        "layers": layers,
        "original": model,
        "compressed": model,
        "collector": None,
        "factors": {},
        "alone": {},
        "comparison": SimpleNamespace(fidelity=dict),
        "calibration": Images([1, 2]),
        "evaluation": None,
        "latency": (),
        "timing": {},
    }


def test_times_stand_in_the_lines_of_their_layers(arguments: dict[str, Any]) -> None:
    timed = LayerTime(
        name="1", ms_before=3.0, ms_after=2.0, speedup=1.49, repeats=10, threads=2, batch=4, device="cpu"
    )
    report = strict_json(summarize(**arguments, layer_times={"1": timed}))
    rows = [[row[key] for key in ("ms_before", "ms_after", "layer_speedup")] for row in report["layers"]]
    assert rows == [[None, None, None], [3.0, 2.0, 1.49]]
    assert report["layer_timing"] == {"runtime": "torch", "threads": 2, "batch": 4, "device": "cpu"}


def test_runs_without_times_and_pictures_say_so(arguments: dict[str, Any]) -> None:
    report = summarize(**arguments)
    assert report["layer_timing"] is None
    assert report["filters"] is None
    assert {row["layer_speedup"] for row in report["layers"]} == {None}


def test_filters_are_passed_on(arguments: dict[str, Any]) -> None:
    filters = {"layer": "0", "shape": [1, 3, 1, 1], "before": ["1 2 3"], "after": ["1 2 2"]}
    assert summarize(**arguments, filters=filters)["filters"] == filters
