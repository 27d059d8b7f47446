"""``cnncompress explain``: the reasons that a report holds, in words."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cnncompress.cli.explain_words import alternatives, why_not
from cnncompress.cli.main import main


def entry(
    method: str, ranks: list[int], *, loss: float, ms: float | None, macs: int, **more: Any
) -> dict[str, Any]:
    return {"method": method, "ranks": ranks, "loss": loss, "ms": ms, "macs": macs} | more


def planned(name: str, chosen: dict[str, Any], others: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    before = {"macs_before": 900, "ms_before": None if chosen["ms"] is None else 9.0}
    rest = {"name": name, "weight": 1.3, "probe": None, "considered": 7, "alternatives": others}
    return chosen | before | rest | more


def reported(
    name: str, method: str = "none", ranks: tuple[int, ...] = (), reason: str = ""
) -> dict[str, Any]:
    costs = {"macs_before": 900, "macs_after": 300, "energy_kept": 0.97 if ranks else None}
    return {"name": name, "method": method, "ranks": list(ranks), "reason": reason} | costs


@pytest.fixture
def report() -> dict[str, Any]:
    chosen = entry("gsvd3d", [48, 64], loss=0.02, ms=3.0, macs=300)
    others = [
        entry("gsvd", [32], loss=0.05, ms=2.5, macs=250, excess=0.01),
        entry("none", [], loss=0.0, ms=9.0, macs=900, excess=0.04),
    ]
    probe = {"method": "gsvd", "ranks": [16], "predicted": 0.1, "real": 0.13}
    layers = [
        planned("features.2", chosen, others, probe=probe),
        planned("[bold]head", entry("svd", [8], loss=0.06, ms=1.0, macs=100), []),
    ]
    planner = {
        "rule": "knapsack",
        "unit": "ms",
        "distortion": "loss",
        "setting": {"runtime": "onnxruntime", "threads": 1, "batch": 1, "device": "cpu"},
        "asked": 4.0,
        "budget": 5.5,
        "spent": 5.0,
        "fixed": 1.0,
        "total": 20.0,
        "loss": 0.08,
        "bound": 0.0796,
        "gap": 0.005,
        "price": 0.04,
        "rounds": [{"aimed": 4.0, "predicted_ms": 5.1, "measured_ms": 5.6, "measured_speedup": 3.57}],
        "layers": layers,
    }
    return {
        "schema": 1,
        "name": "net",
        "asked": {"speedup": 4.0, "budget": "latency"},
        "options": {"ranks": "knapsack"},
        "planner": planner,
        "layers": [
            reported("features.0", reason="the first layer"),
            reported("features.2", "gsvd3d", (48, 64)),
            reported("[bold]head", "svd", (8,), "ranks as asked"),
        ],
    }


def explain(folder: Path, report: Any, *arguments: str) -> Result:
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return CliRunner().invoke(main, ["explain", str(folder), *arguments])


def test_the_headline_says_what_was_asked_spent_and_measured(tmp_path: Path, report: dict[str, Any]) -> None:
    result = explain(tmp_path, report)
    assert result.exit_code == 0
    for part in ("asked 4x", "onnxruntime", "1 thread", "5.5 ms", "5 ms", "4x less", "0.50 %", "3.57x"):
        assert part in result.stdout


def test_the_table_has_a_line_for_every_layer_in_order(tmp_path: Path, report: dict[str, Any]) -> None:
    lines = explain(tmp_path, report).stdout.split("\n\n")[1].splitlines()
    header, *rows = lines
    assert header.split()[:3] == ["layer", "method", "ranks"]
    assert [row.split()[0] for row in rows] == ["features.0", "features.2", "[bold]head"]
    first, second, third = rows
    assert first.endswith("the first layer")
    assert "25.0 %" in second
    assert "gsvd 32" in second
    assert second.endswith("saves 0.5 ms, but loses 0.03 more")
    assert "75.0 %" in third
    assert third.endswith("ranks as asked")


def test_a_layer_is_told_with_its_probe_and_all_alternatives(tmp_path: Path, report: dict[str, Any]) -> None:
    text = explain(tmp_path, report, "features.2").stdout
    assert "predicted to lose 0.1 and lost 0.13" in text
    assert "9 ms -> 3 ms" in text
    assert "7 possibilities" in text
    assert "saves 0.5 ms, but loses 0.03 more" in text
    assert "loses 0.02 less, but costs 6 ms more" in text
    assert "head" not in text


def test_a_layer_without_probe_alternatives_or_choice_says_so(tmp_path: Path, report: dict[str, Any]) -> None:
    settled = explain(tmp_path, report, "[bold]head").stdout
    assert "ranks as asked" in settled
    assert "estimate" in settled
    assert "alternative" not in settled
    assert "stays as it is; the first layer" in explain(tmp_path, report, "features.0").stdout


@pytest.mark.parametrize(
    ("loss", "ms", "excess", "words"),
    [
        (0.05, 2.5, 0.01, "saves 0.5 ms, but loses 0.03 more"),
        (0.05, 1.0, -0.05, "saves 2 ms, but loses 0.03 more: what it saves buys less elsewhere"),
        (0.01, 5.0, 0.07, "loses 0.01 less, but costs 2 ms more"),
        (0.01, 3.1, -0.006, "loses 0.01 less, but costs 0.1 ms more: worth it, but not within the budget"),
        (0.05, 4.0, 0.07, "loses 0.03 more and costs 1 ms more"),
        (0.02, 4.0, 0.04, "loses as much and costs 1 ms more"),
        (0.03, 3.0, 0.01, "loses 0.01 more and costs as much"),
        (0.02, 3.0, 0.0, "exactly as good"),
        (0.01, 2.0, -0.05, "better by these numbers, ruled out elsewhere"),
    ],
)
def test_what_spoke_against_an_alternative(
    report: dict[str, Any], loss: float, ms: float, excess: float, words: str
) -> None:
    planner = report["planner"]
    other = entry("gsvd", [4], loss=loss, ms=ms, macs=1, excess=excess)
    assert why_not(planner, planner["layers"][0], other) == words


def test_macs_and_parameters_are_told_in_their_own_units(tmp_path: Path, report: dict[str, Any]) -> None:
    planner = report["planner"]
    chosen = entry("gsvd", [8], loss=0.02, ms=None, macs=300_000)
    other = entry("gsvd", [4], loss=0.05, ms=None, macs=200_000, excess=0.01)
    line = planned("features.2", chosen, [other])
    planner |= {"unit": "MACs", "setting": None, "rounds": [], "price": 2e-7, "layers": [line]}
    assert why_not(planner, line, other) == "saves 100 k MACs, but loses 0.03 more"
    table = explain(tmp_path, report).stdout
    assert "MACs before" in table
    assert " ms" not in table
    # entries list no parameters: 0.03 of loss less 0.01 of excess buy 1000 of them at this price
    planner |= {"unit": "parameters", "price": 2e-5}
    assert why_not(planner, line, other) == "saves 1.00 k parameters, but loses 0.03 more"
    planner |= {"price": 0}
    assert why_not(planner, line, other) == "loses 0.03 more"


def test_no_loss_at_all_has_no_shares(tmp_path: Path, report: dict[str, Any]) -> None:
    report["planner"] |= {"loss": 0.0, "bound": 0.0, "gap": 0.0}
    assert explain(tmp_path, report).exit_code == 0
    assert "of all loss" not in explain(tmp_path, report, "features.2").stdout


@pytest.mark.parametrize("planner", [{}, {"planner": None}])
def test_other_rules_leave_reasons_and_energies(
    tmp_path: Path, report: dict[str, Any], planner: dict[str, Any]
) -> None:
    del report["planner"]
    report |= planner | {"options": {"ranks": "greedy"}}
    whole = explain(tmp_path, report).stdout
    assert "'greedy'" in whole
    assert "97.0 %" in whole
    assert "the first layer" in whole
    one = explain(tmp_path, report, "features.2").stdout
    assert "48,64" in one
    assert "features.0" not in one


def test_json_is_the_planners_part_or_a_layers_line(tmp_path: Path, report: dict[str, Any]) -> None:
    planner = report["planner"]
    assert json.loads(explain(tmp_path, report, "--json").stdout) == planner
    assert json.loads(explain(tmp_path, report, "features.2", "--json").stdout) == planner["layers"][0]
    stays = json.loads(explain(tmp_path, report, "features.0", "--json").stdout)
    assert (stays["name"], stays["method"], stays["reason"]) == ("features.0", "none", "the first layer")


def test_an_unknown_layer_is_named_with_its_neighbours(tmp_path: Path, report: dict[str, Any]) -> None:
    result = explain(tmp_path, report, "feature.2")
    assert result.exit_code == 2
    assert "unknown layer 'feature.2'; did you mean features.2" in result.stderr


def test_a_missing_folder_and_a_front_are_told_apart(tmp_path: Path, report: dict[str, Any]) -> None:
    missing = CliRunner().invoke(main, ["explain", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
    assert "holds no report.json; name a folder" in missing.stderr
    (tmp_path / "4x").mkdir()
    explain(tmp_path / "4x", report)
    front = CliRunner().invoke(main, ["explain", str(tmp_path)])
    assert front.exit_code == 2
    assert f"did you mean {tmp_path / '4x'}?" in front.stderr


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2, "layers": []}', '{"schema": 1}'])
def test_a_foreign_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    result = CliRunner().invoke(main, ["explain", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "report.json: isn't" in result.stderr


def test_alternatives_keep_the_order_of_the_report(report: dict[str, Any]) -> None:
    planner = report["planner"]
    assert [row[0] for row in alternatives(planner, planner["layers"][0])] == ["gsvd", "the layer"]


def test_the_words_need_no_torch() -> None:
    code = (
        "import sys, cnncompress.cli.explain, cnncompress.cli.explain_words; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - the interpreter itself


def test_a_choice_that_was_proved_the_best_is_called_so(tmp_path: Path, report: dict[str, Any]) -> None:
    assert "loses less than" in explain(tmp_path, report).stdout
    report["planner"] |= {"proved": True}
    stdout = explain(tmp_path, report).stdout
    assert "no other choice within the budget loses less" in stdout
    assert "gap" not in stdout
