"""Tables on stdout: measured speed beside the ratio of MACs."""

from typing import Any

import pytest

from cnncompress.cli.tables import print_layers


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
