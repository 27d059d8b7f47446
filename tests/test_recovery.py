"""What follows the replacement: repair and fine-tuning within a run, and what the report says of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnncompress import compress_model


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    return torch.randn(40, 3, 10, 10, generator=torch.Generator().manual_seed(1))


def run(net: nn.Module, images: Tensor, **options: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"speedup": 2.5, "method": "svd-out", "measure": False, "holdout": 0.3}
    return compress_model(net, images, **(given | options)).report


def test_nothing_is_done_unless_asked(net: nn.Module, images: Tensor) -> None:
    report = run(net, images)
    assert report["repair"] is None
    assert report["finetune"] is None
    assert report["before_finetune"] is None


def test_a_repair_brings_the_output_back(net: nn.Module, images: Tensor) -> None:
    plain, repaired = run(net, images), run(net, images, repair=True)
    done = repaired["repair"]
    assert done["kept"]
    assert done["output_error_before"] == pytest.approx(plain["fidelity"]["output_relative_error"], rel=1e-3)
    assert done["output_error_after"] == pytest.approx(
        repaired["fidelity"]["output_relative_error"], rel=1e-3
    )
    assert done["output_error_after"] < 0.9 * done["output_error_before"]
    assert repaired["macs"] == plain["macs"]


@pytest.mark.parametrize("distill", ["logits", "features", "layers"])
def test_fine_tuning_starts_from_the_repaired_network(net: nn.Module, images: Tensor, distill: str) -> None:
    report = run(net, images, finetune="all", epochs=3, learning_rate=0.01, distill=distill, recipe="recover")
    assert report["repair"]["kept"]
    before = report["before_finetune"]["fidelity"]["output_relative_error"]
    assert before == pytest.approx(report["repair"]["output_error_after"], rel=1e-3)
    done = report["finetune"]
    assert done["distill"]["kind"] == distill
    assert 1 <= done["epochs"] <= 3
    assert done["history"][done["kept"]] == min(done["history"])  # the start counts
    after = report["fidelity"]["output_relative_error"]
    assert after <= before * (1 + 1e-6) if done["kept"] == 0 else after != before


@pytest.mark.parametrize(
    ("options", "repaired"),
    [
        ({"method": "svd-out", "finetune": "all"}, True),
        ({"method": "svd-out", "finetune": "upper"}, False),  # the replaced layers stay as they were solved
        ({"method": "gsvd", "finetune": "all"}, False),  # solved on responses
        ({"method": "gsvd", "finetune": "all", "repair": True}, True),
    ],
)
def test_repair_comes_by_itself_where_it_may_help(
    net: nn.Module, images: Tensor, options: dict[str, Any], repaired: bool
) -> None:
    report = run(net, images, epochs=1, **options)
    assert (report["repair"] is not None) == repaired


def test_a_batchnorm_that_is_left_is_worth_a_repair(images: Tensor) -> None:
    torch.manual_seed(0)
    norm_first = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).eval()  # fmt: skip
    report = run(norm_first, images, method="gsvd", finetune="all", epochs=1)
    assert report["repair"] is not None


def test_without_repair_if_the_user_says_so(net: nn.Module, images: Tensor) -> None:
    report = run(net, images, finetune="all", epochs=1, repair=False)
    assert report["repair"] is None
    assert report["finetune"]["recipe"]["learning_rate"] == 1e-5  # Zhang et al., section 3.6


def test_the_report_tells_throughput_and_processes(net: nn.Module, images: Tensor) -> None:
    report = run(net, images, method="gsvd")
    calibration = report["throughput"]["calibrate"]
    assert calibration["images"] == 40
    assert calibration["images_per_second"] == pytest.approx(40 / calibration["seconds"])
    assert 0 <= calibration["waited"] <= calibration["seconds"]
    assert report["processes"] == 1
