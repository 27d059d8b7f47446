"""Pictures of a plan are valid, hide nothing, and stay away where there is nothing to draw."""

from typing import Any
from xml.etree import ElementTree

import pytest

from cnncompress.planner_figures import loss_bars, probe_scatter, time_scatter

SETTING = {"runtime": "torch", "threads": 1, "batch": 1, "device": "cpu"}
NAMESPACE = "{http://www.w3.org/2000/svg}"


def line(name: str, **values: Any) -> dict[str, Any]:
    probe = {"method": "gsvd", "ranks": [32], "predicted": 0.01, "real": 0.013}
    planned = {"name": name, "method": "gsvd3d", "ranks": [8], "loss": 0.02, "ms": 1.2, "probe": probe}
    return planned | {"measured_ms": 1.5} | values


def planner(*lines: dict[str, Any]) -> dict[str, Any]:
    return {"unit": "ms", "setting": SETTING, "layers": list(lines)}


def texts(svg: str) -> list[str]:
    drawn = ElementTree.fromstring(svg)  # noqa: S314  # our own drawing
    return ["".join(text.itertext()).strip() for text in drawn.iter(f"{NAMESPACE}text")]


@pytest.mark.parametrize("draw", [time_scatter, probe_scatter, loss_bars])
def test_names_are_drawn_as_text_whatever_they_hold(draw: Any) -> None:
    evil = "<b>&$x_1"
    shown = texts(draw(planner(line(evil, ms=0.5), line("conv2"))))
    assert evil in shown


@pytest.mark.parametrize("draw", [time_scatter, probe_scatter, loss_bars])
@pytest.mark.parametrize("part", [{}, {"layers": []}, {"layers": None}])
def test_nothing_known_is_no_picture(draw: Any, part: dict[str, Any]) -> None:
    assert draw(part) == ""


def test_layers_without_the_values_are_no_picture() -> None:
    bare = {"name": "conv", "method": "none", "ranks": [], "loss": 0, "ms": None, "probe": None}
    for draw in (time_scatter, probe_scatter, loss_bars):
        assert draw(planner(bare)) == ""


def test_losses_of_zero_and_unknown_times_are_left_out_of_the_scatters() -> None:
    nothing = {"method": "gsvd", "ranks": [4], "predicted": 0.0, "real": 0.0}
    lost = line("lossless", probe=nothing, measured_ms=None)
    kept = line("conv2")
    assert probe_scatter(planner(lost, kept)) == probe_scatter(planner(kept))
    assert time_scatter(planner(lost, kept)) == time_scatter(planner(kept))


def test_only_points_off_the_diagonal_bear_a_name() -> None:
    true = [line(f"true{number}", ms=1.0 + number, measured_ms=1.0 + number) for number in range(4)]
    shown = texts(time_scatter(planner(*true, line("late", ms=1.0, measured_ms=2.0))))
    assert "late" in shown
    assert not any(text.startswith("true") for text in shown)


def test_times_of_finished_layers_count_only_in_the_planners_setting() -> None:
    plan = planner(line("conv", measured_ms=None))
    layers = [{"name": "conv", "ms_after": 3.0}]
    assert time_scatter(plan, layers, SETTING) != ""
    assert time_scatter(plan, layers, SETTING | {"threads": 2}) == ""
    assert time_scatter(plan, layers) == ""


def test_shares_of_the_loss_add_up() -> None:
    shown = texts(loss_bars(planner(line("a", loss=0.03), line("b", loss=0.01), line("c", loss=0.0))))
    assert {"75.0 %", "25.0 %", "0.0 %"} <= set(shown)


def test_a_wide_range_of_losses_keeps_its_ticks_readable() -> None:
    def probed(name: str, loss: float) -> dict[str, Any]:
        return line(name, probe={"method": "gsvd", "ranks": [8], "predicted": loss, "real": 1.3 * loss})

    shown = texts(probe_scatter(planner(probed("a", 1e-11), probed("b", 1.0))))
    assert not any("$" in text or "\\" in text for text in shown)
    assert 4 <= len(shown) <= 30


def test_pictures_are_the_same_each_time() -> None:
    plan = planner(line("a"), line("b", method="gsvd"))
    for draw in (time_scatter, probe_scatter, loss_bars):
        assert draw(plan) == draw(plan)
