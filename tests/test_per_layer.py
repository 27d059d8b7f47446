"""Replaced layers beside their replacements: the right pairs, the right times, in every runtime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnncompress.errors import OptionError
from cnncompress.events import Event, StageAdvanced, StageDone, StageStarted
from cnncompress.latency.parts import Part, layer_part
from cnncompress.latency.setting import Setting
from cnncompress.per_layer import LayerLatencies, LayerLatency, layer_latencies
from cnncompress.per_layer_times import ReplacedLayer, replaced_layers, rounds_of, steps_of
from cnncompress.plan import LayerPlan, Plan
from cnncompress.runtimes import runtime_named

SIZE = (3, 12, 10)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


REPLACED = {
    "0": LayerPlan(name="0", method="spatial", ranks=(4,)),
    "3": LayerPlan(name="3", method="groups", ranks=(2,)),
    "5": LayerPlan(name="5", method="svd-out", ranks=(4,)),
    "8": LayerPlan(name="8", method="svd-out", ranks=(2,)),
}


def plan(*names: str) -> Plan:
    stay = LayerPlan(name="3", method="none", reason="as it is")
    layers = tuple(REPLACED[name] for name in names) + (() if "3" in names else (stay,))
    return Plan(network="net", source={}, input_size=SIZE, folded=(("0", "1"),), layers=layers)


def pairs(*names: str) -> dict[str, ReplacedLayer]:
    model, made = net(), plan(*names)
    return {pair.info.name: pair for pair in replaced_layers(model, made.build(model), made)}


def test_only_replaced_layers_are_paired_in_the_order_of_execution() -> None:
    assert list(pairs("8", "0")) == ["0", "8"]
    assert pairs() == {}


def test_the_layer_has_its_batchnorm_folded_in_and_the_original_keeps_it() -> None:
    model, made = net(), plan("0")
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.running_mean = torch.randn(8)
    images = torch.randn(2, *SIZE)
    (pair,) = replaced_layers(model, made.build(model), made)
    torch.testing.assert_close(pair.before(images), norm(model[0](images)))
    assert model[1] is norm
    assert model[0].bias is None


@pytest.mark.parametrize("name", list(REPLACED))
def test_macs_are_those_that_torch_counts(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    pair = pairs(name)[name]
    for module, macs in ((pair.before, pair.info.macs), (pair.after, pair.macs_after)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.zeros(1, *pair.input_shape))
        assert counter.get_total_flops() == 2 * macs


@pytest.mark.parametrize(
    ("name", "runtime", "timed"),
    [
        ("0", "torch", "module"),
        ("0", "torch.compile", "module"),
        ("0", "cuda-graphs", "module"),
        ("0", "onnxruntime", "profile"),
        ("0", "openvino", "profile"),
        ("3", "torch", "module"),
        ("3", "onnxruntime", "network"),  # permutations of channels have no profile of their own
        ("5", "openvino", "network"),  # the networks that are profiled pad with zeros
        ("8", "torch", "module"),
        ("8", "onnxruntime", "profile"),
    ],
)
def test_each_runtime_times_replacements_its_own_way(name: str, runtime: str, timed: str) -> None:
    pair = pairs(name)[name]
    found, steps = steps_of(pair, runtime)
    assert found == timed
    if any(step.kind == "module" for step in steps):
        (whole,) = steps
        assert whole.make is not None
        module = whole.make()
        assert module is not pair.after  # whoever times it fills in weights of his own
        images = torch.randn(1, *pair.input_shape)
        torch.testing.assert_close(module(images), pair.after(images))
    elif steps:
        assert sum(step.macs for step in steps) == pair.macs_after


class FakeBench:
    """Answers with known times, a column for each part."""

    def __init__(self, setting: Setting) -> None:
        self.asked: list[Sequence[Part]] = []

    def times(self, parts: Sequence[Part], pace: Any) -> np.ndarray:
        self.asked.append(parts)
        assert pace.least == pace.most
        columns = np.array([10.0, *(2.0**place for place in range(len(parts) - 1))])
        return np.tile(columns, (pace.least, 1)) * np.arange(1, pace.least + 1)[:, None]


def test_times_of_steps_add_up_and_the_layer_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = FakeBench(Setting())
    monkeypatch.setattr("cnncompress.per_layer_times.bench_for", lambda setting: bench)
    pair = pairs("0")["0"]
    timed, times = rounds_of(pair, Setting(runtime="onnxruntime"), 4)
    assert timed == "profile"
    assert bench.asked[0][0] == layer_part(pair.info)
    np.testing.assert_allclose(times, np.outer(np.arange(1, 5), (10, 1 + 2)))


def test_medians_spread_and_ratio_are_those_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnncompress.per_layer_times.bench_for", FakeBench)
    model, made = net(), plan("0")
    (found,) = layer_latencies(model, made.build(model), made, runtimes=("onnxruntime",), repeats=5)
    (line,) = found.layers
    assert (line.ms_before, line.ms_after) == pytest.approx((30, 9))
    assert (line.iqr_before, line.iqr_after) == pytest.approx((20, 6))
    assert line.speedup == pytest.approx(10 / 3)
    assert not line.slower


def test_what_comes_twice_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnncompress.per_layer_times.bench_for", FakeBench)
    pair = pairs("8")["8"]
    step = nn.Linear(16, 16, bias=False)
    twice = ReplacedLayer(
        info=pair.info,
        plan=pair.plan,
        before=pair.before,
        after=nn.Sequential(step, nn.Linear(16, 16, False)),
    )
    _, times = rounds_of(twice, Setting(runtime="openvino"), 1)
    np.testing.assert_allclose(times, [[10, 2]])


def check_times(runtime: str, names: Sequence[str]) -> None:
    if obstacle := runtime_named(runtime).obstacle():
        pytest.skip(obstacle)
    model, made = net(), plan(*names)
    compressed = made.build(model)
    weights = [weight.clone() for weight in (*model.state_dict().values(), *compressed.state_dict().values())]
    threads = torch.get_num_threads()
    (found,) = layer_latencies(model, compressed, made, runtimes=(runtime,), batches=(2,), repeats=2)
    assert [line.name for line in found.layers] == list(names)
    assert all(line.ms_before > 0 and line.ms_after > 0 for line in found.layers)
    after = (*model.state_dict().values(), *compressed.state_dict().values())
    assert all(map(torch.equal, weights, after))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("runtime", "names"),
    [
        ("torch", "0358"),
        ("cuda", "0358"),
        ("cuda-graphs", "0358"),
        ("onnxruntime", "08"),
        ("openvino", "08"),
    ],
)
def test_layers_are_timed_in_every_runtime_and_left_as_they_were(runtime: str, names: str) -> None:
    check_times(runtime, names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "names"), [("onnxruntime", "3"), ("openvino", "5"), ("torch.compile", "08")]
)
def test_layers_are_timed_where_that_takes_longer(runtime: str, names: str) -> None:
    check_times(runtime, names)


def test_the_replacement_runs_as_it_is() -> None:
    seen: list[Tensor] = []

    class Counted(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            if images.device.type != "meta":  # where multiply-accumulates are counted
                seen.append(images)
            return super().forward(images)

    model, made = net(), plan("0")
    compressed = made.build(model)
    compressed.set_submodule("0", nn.Sequential(Counted(3, 8, 3, padding=1)))
    layer_latencies(model, compressed, made, repeats=2, batches=(3,))
    assert {images.shape for images in seen} == {(3, *SIZE)}
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in seen)


def test_every_combination_is_measured_and_reported() -> None:
    events: list[Event] = []
    model, made = net(), plan("0", "8")
    found = layer_latencies(
        model, made.build(model), made, threads=(1, 2), batches=(1, 2), repeats=1, report=events.append
    )
    assert [(one.threads, one.batch) for one in found] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert isinstance(events[0], StageStarted)
    assert events[0].total == sum(isinstance(event, StageAdvanced) for event in events) == 8
    assert isinstance(events[-1], StageDone)


def test_a_network_in_which_nothing_was_replaced_has_no_lines() -> None:
    model, made = net(), plan()
    (found,) = layer_latencies(model, made.build(model), made, repeats=1)
    assert found.layers == ()
    assert found.to_json()["ms_before"] == 0


def line(name: str, before: float, after: float) -> LayerLatency:
    return LayerLatency(
        name=name,
        method="spatial",
        ranks=(4,),
        macs_before=20,
        macs_after=10,
        ms_before=before,
        iqr_before=0.1,
        ms_after=after,
        iqr_after=0.1,
        speedup=before / after,
        timed="module",
    )


def test_sums_and_slower_layers_are_told_in_json() -> None:
    found = LayerLatencies(
        runtime="torch",
        threads=1,
        batch=1,
        device="cpu",
        repeats=3,
        layers=(line("a", 3, 1), line("b", 2, 4)),
    ).to_json()
    assert (found["ms_before"], found["ms_after"]) == (5, 5)
    assert [one["slower"] for one in found["layers"]] == [False, True]
    assert found["layers"][0]["ranks"] == [4]


@pytest.mark.parametrize(
    "wrong", [{"threads": (0,)}, {"batches": (1, 0)}, {"repeats": 0}, {"runtimes": ("onnxrutime",)}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    model, made = net(), plan("0")
    with pytest.raises(OptionError):
        layer_latencies(model, made.build(model), made, **wrong)
