"""Tables on stdout: measured speed beside the ratio of MACs."""

from typing import Any

import pytest

from cnncompress.cli.tables import print_layers, verdict


def layer(name: str, **values: Any) -> dict[str, Any]:
    return {
        "name": name,
        "method": "gsvd3d",
        "ranks": [8],
        "macs_before": 4_000_000,
        "macs_after": 1_000_000,
        "energy_kept": 0.97,
        "error_heldout": 0.11,
        "reason": "",
    } | values


def test_speed_stands_beside_the_ratio_and_says_where_it_is_a_loss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        layer("fast", layer_speedup=2.5),
        layer("slow", layer_speedup=0.87),
        layer("even", layer_speedup=0.999),
        layer("untimed", layer_speedup=None),
        layer("old"),
    ]
    print_layers({"layers": rows})
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[5:7] == ["ratio", "speed"]
    speeds = {line.split()[0]: line.split("4x")[1].split("97.0 %")[0].strip() for line in lines}
    assert speeds == {"fast": "2.50x", "slow": "slower 0.87x", "even": "1.00x", "untimed": "-", "old": "-"}
    # numbers stay aligned to the right
    assert len({line.index("97.0 %") for line in lines}) == 1


def finished(budget: str, **values: Any) -> dict[str, Any]:
    latency = {"runtime": "onnxruntime", "threads": 2, "batch": 1, "speedup": 3.96}
    return {
        "name": "net",
        "asked": {"speedup": 4.0, "budget": budget},
        "macs": {"conv_before": 8e6, "conv_after": 1.6e6, "conv_speedup": 5.0, "speedup": 4.6},
        "params": {"before": 3000, "after": 1000},
        "bytes": {"before": 12_000, "after": 4000},
        "fidelity": {"heldout_images": 60, "output_relative_error": 0.084},
        "accuracy": None,
        "planner": {"total": 4000, "spent": 1000},
        "latency": [latency],
    } | values


def test_the_verdict_on_a_budget_of_time_begins_with_the_clock() -> None:
    line = verdict(finished("latency"))
    assert line.startswith(
        "net: measured speed 3.96x (onnxruntime, 2 threads) (asked 4x), 5x fewer conv MACs;"
    )
    # said once
    assert line.count("measured speed") == 1
    assert "output error 0.084 on 60 held-out images" in line
    alone = verdict(finished("latency", latency=[{**finished("")["latency"][0], "threads": 1}]))
    assert "1 thread)" in alone


def test_the_verdict_on_a_budget_of_parameters_counts_these_and_tells_the_speed_beside() -> None:
    line = verdict(finished("parameters"))
    assert line.startswith("net: 4x fewer parameters (asked 4x);")
    assert "measured speed 3.96x (onnxruntime, 2 threads)" in line
    assert "MACs" not in line
    assert "measured" not in verdict(finished("parameters", latency=[]))


@pytest.mark.parametrize(
    ("budget", "delivered"), [("conv MACs", "5x"), ("MACs of convolutions and linear layers", "4.60x")]
)
def test_the_verdict_on_a_budget_of_macs_tells_those_that_count(budget: str, delivered: str) -> None:
    assert verdict(finished(budget)).startswith(f"net: {delivered} fewer {budget} (asked 4x);")


def test_the_verdict_on_ranks_that_were_given_claims_no_wish() -> None:
    given = {"speedup": None, "budget": "conv MACs"}
    assert "(ranks as asked)" in verdict(finished("", asked=given))


def test_the_verdict_without_a_measurement_says_so() -> None:
    assert "not measured (asked 4x)" in verdict(finished("latency", latency=[]))
