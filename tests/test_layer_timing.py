"""Timing of single layers: in turn, on the layer's own input, and without a trace."""

import numpy as np
import pytest
import torch
from torch import nn

from cnncompress.errors import OptionError
from cnncompress.events import Event, StageAdvanced, StageDone, StageStarted
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.layer_timing import LayerTime, is_slower, time_replacement, time_replacements

CONV = LayerInfo(
    name="conv",
    kind="conv2d",
    in_channels=6,
    out_channels=4,
    kernel_size=(3, 3),
    input_size=(9, 7),
    output_size=(7, 5),
)
LINEAR = LayerInfo(
    name="linear",
    kind="linear",
    in_channels=6,
    out_channels=4,
    kernel_size=(1, 1),
    input_size=(1, 5),
    output_size=(1, 5),
)


class Recorder(nn.Module):
    """Notes every call; copies of it write into the same list."""

    def __init__(self, name: str, calls: list[tuple[str, torch.Tensor]]) -> None:
        super().__init__()
        self.name, self.calls = name, calls
        self.conv = nn.Conv2d(6, 4, 3)

    def __deepcopy__(self, memo: dict[int, object]) -> "Recorder":
        return Recorder(self.name, self.calls)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert torch.is_inference_mode_enabled()
        assert not self.training
        assert self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        self.calls.append((self.name, images))
        return images


def recorders() -> tuple[Recorder, Recorder, list[tuple[str, torch.Tensor]]]:
    calls: list[tuple[str, torch.Tensor]] = []
    return Recorder("a", calls), Recorder("b", calls), calls


def order(calls: list[tuple[str, torch.Tensor]]) -> str:
    return "".join(name for name, _ in calls)


def test_runs_alternate_and_all_but_the_warm_up_count() -> None:
    before, after, calls = recorders()
    found = time_replacement(CONV, before, after, repeats=5)
    assert found.repeats == 5
    assert order(calls) == "ab" * (len(calls) // 2)
    assert len(calls) > 2 * found.repeats


def test_a_convolution_sees_images_of_its_own_size_in_channels_last() -> None:
    before, after, calls = recorders()
    time_replacement(CONV, before, after, repeats=1, batch=2)
    for _, images in calls:
        assert images.shape == (2, 6, 9, 7)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.std() > 0.5


def test_a_linear_layer_sees_its_rows() -> None:
    before, after, calls = recorders()
    time_replacement(LINEAR, before, after, repeats=1, batch=2)
    assert {images.shape for _, images in calls} == {(2, 5, 6)}


class Clocked:
    """Stands in for the clock: each pair of runs takes these milliseconds."""

    def __init__(self, before: float, after: float) -> None:
        self.pair = (before, after)

    def __call__(self, runs: object, images: object, *, repeats: int, warmup: int) -> np.ndarray:
        return np.tile(np.array(self.pair), (repeats, 1))


@pytest.mark.parametrize(
    ("before", "after", "repeats"),
    [
        (0.2, 0.1, 30),  # cheap: as many as ever
        (5.0, 2.5, 20),  # as many as fit 150 ms
        (60.0, 20.0, 5),  # costly: as few as ever
        (60.0, 58.0, 15),  # open which is faster: three times as many
        (0.1, 0.11, 90),
    ],
)
def test_repeats_follow_the_cost_and_what_is_open(
    monkeypatch: pytest.MonkeyPatch, before: float, after: float, repeats: int
) -> None:
    monkeypatch.setattr("cnncompress.layer_timing.alternate", Clocked(before, after))
    found = time_replacement(CONV, *recorders()[:2])
    assert found.repeats == repeats
    assert (found.ms_before, found.ms_after) == (before, after)
    assert found.speedup == pytest.approx(before / after)
    assert found.slower == (after > before)


def test_disturbed_runs_are_looked_at_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    def disturbed(runs: object, images: object, *, repeats: int, warmup: int) -> np.ndarray:
        # four of five runs of the faster one were interrupted
        return np.resize(np.array([[20.0, 90.0]] * 4 + [[20.0, 5.0]]), (repeats, 2))

    monkeypatch.setattr("cnncompress.layer_timing.alternate", disturbed)
    assert time_replacement(CONV, *recorders()[:2]).repeats == 18


@pytest.mark.parametrize(
    ("speedup", "slower"),
    [(0.5, True), (0.94, True), (0.96, False), (1.0, False), (3.0, False), (None, False)],
)
def test_slower_is_what_two_measurements_agree_on(speedup: float | None, slower: bool) -> None:
    assert is_slower(speedup) is slower


def test_modules_and_thread_count_are_left_as_they_were() -> None:
    before = nn.Conv2d(6, 4, 3).train()
    after = nn.Sequential(nn.Conv2d(6, 2, 1, bias=False), nn.Conv2d(2, 4, 3)).train()
    threads = torch.get_num_threads()
    states = [
        {key: value.clone() for key, value in module.state_dict().items()} for module in (before, after)
    ]
    strides = before.weight.stride()
    found = time_replacement(CONV, before, after, threads=threads + 1, repeats=2)
    assert found.threads == threads + 1
    assert torch.get_num_threads() == threads
    assert before.training
    assert after.training
    assert before.weight.stride() == strides
    for module, state in zip((before, after), states, strict=True):
        torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)


def test_both_run_with_the_threads_asked_for() -> None:
    counts = []

    class Counter(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            counts.append(torch.get_num_threads())
            return images

    threads = torch.get_num_threads() + 1
    time_replacement(CONV, Counter(6, 4, 3), Counter(6, 4, 3), repeats=1, threads=threads)
    assert set(counts) == {threads}


def test_threads_are_restored_when_a_module_fails() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        time_replacement(CONV, nn.Conv2d(6, 4, 3), nn.Conv2d(5, 4, 3), threads=threads + 1)
    assert torch.get_num_threads() == threads


def test_every_layer_of_a_network_is_timed_and_reported() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).double()
    layers = inspect_layers(model, (3, 8, 8))
    modules = dict(model.named_modules())
    events: list[Event] = []
    found = time_replacements(
        ((layer, modules[layer.name], modules[layer.name]) for layer in layers),
        repeats=2,
        report=events.append,
    )
    assert [one.name for one in found] == ["0", "3"]
    assert all(one.ms_before > 0 and one.ms_after > 0 and one.device == "cpu" for one in found)
    assert isinstance(events[0], StageStarted)
    assert [type(event) for event in events[1:]] == [StageAdvanced, StageAdvanced, StageDone]
    time_replacements([], report=events.append)
    assert events[-2] == StageStarted("time layers", 0, "layers")


def test_json_holds_every_field() -> None:
    found = LayerTime(
        name="conv", ms_before=2.0, ms_after=1.0, speedup=2.0, repeats=10, threads=1, batch=1, device="cpu"
    )
    assert LayerTime(**found.to_json()) == found


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"batch": 0}, {"repeats": 0}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=f"conv: {next(iter(wrong))} must be at least 1, got 0"):
        time_replacement(CONV, nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3), **wrong)
