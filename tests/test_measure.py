"""Timing: fair, side-effect free, and honest about its settings."""

import time

import pytest
import torch
from torch import nn

from cnncompress.errors import OptionError
from cnncompress.events import Event, StageAdvanced, StageDone, StageStarted
from cnncompress.interleave import torch_threads
from cnncompress.measure import latencies, latency
from cnncompress.memory import peak_rss_mb


class Sleeper(nn.Module):
    """Takes a known time for every call."""

    def __init__(self, seconds: float, calls: list[str], name: str) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.seconds, self.calls, self.name = seconds, calls, name

    def __deepcopy__(self, memo: dict[int, object]) -> "Sleeper":
        return Sleeper(self.seconds, self.calls, self.name)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append(self.name)
        time.sleep(self.seconds)
        return images * self.scale


def small(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


def test_speedup_is_the_ratio_of_the_times() -> None:
    calls: list[str] = []
    found = latency(Sleeper(0.012, calls, "a"), Sleeper(0.004, calls, "b"), (3, 4, 4), repeats=7)
    assert 12 <= found.ms_before < 20
    assert 4 <= found.ms_after < 8
    assert 2 < found.speedup <= 3.1
    assert found.iqr_before >= 0
    assert found.repeats == 7


def test_runs_alternate_after_the_warm_up() -> None:
    calls: list[str] = []
    latency(Sleeper(0, calls, "a"), Sleeper(0, calls, "b"), (3, 4, 4), repeats=5, warmup=2)
    # the original ran before to find the memory format
    assert calls[-14:] == ["a", "b"] * 7
    assert set(calls[:-14]) <= {"a"}


def test_networks_and_thread_count_are_left_as_they_were() -> None:
    before, after = small(8), small(4)
    threads = torch.get_num_threads()
    layout = before[0].weight.stride()
    latency(before, after, (3, 8, 8), threads=threads + 1, repeats=2)
    assert torch.get_num_threads() == threads
    assert before[0].weight.stride() == layout


def test_thread_count_is_restored_after_an_error() -> None:
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError), torch_threads(threads + 1):
        assert torch.get_num_threads() == threads + 1
        raise RuntimeError
    assert torch.get_num_threads() == threads


def test_networks_run_in_channels_last_without_gradients() -> None:
    seen: list[tuple[bool, bool]] = []

    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def __deepcopy__(self, memo: dict[int, object]) -> "Probe":
            twin = Probe()
            twin.load_state_dict(self.state_dict())
            return twin

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            last = self.conv.weight.is_contiguous(memory_format=torch.channels_last)
            seen.append((last, torch.is_inference_mode_enabled()))
            return self.conv(images)

    latency(Probe(), Probe(), (3, 8, 8), repeats=1, warmup=0)
    assert seen[-2:] == [(True, True)] * 2  # the original ran before to find the memory format


def test_every_combination_is_measured_and_reported() -> None:
    events: list[Event] = []
    found = latencies(
        small(8),
        small(4),
        (3, 8, 8),
        runtimes=("torch", "onnxruntime"),
        batches=(1, 2),
        repeats=2,
        report=events.append,
    )
    assert [(one.runtime, one.batch) for one in found] == [
        ("torch", 1),
        ("torch", 2),
        ("onnxruntime", 1),
        ("onnxruntime", 2),
    ]
    assert all(one.ms_before > 0 and one.ms_after > 0 for one in found)
    assert isinstance(events[0], StageStarted)
    assert events[0].total == 4
    assert sum(isinstance(event, StageAdvanced) for event in events) == 4
    assert isinstance(events[-1], StageDone)
    assert set(found[0].to_json()) >= {"runtime", "threads", "batch", "ms_before", "ms_after", "speedup"}


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"batch": 0}, {"repeats": 0}, {"runtime": "onnxrutime"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError) as caught:
        latency(small(4), small(4), (3, 8, 8), **wrong)  # type: ignore[arg-type]  # wrong on purpose
    if "runtime" in wrong:
        assert "did you mean onnxruntime" in str(caught.value)


def test_peak_memory_rises_with_use() -> None:
    before = peak_rss_mb()
    hog = torch.ones(int(before * 1.3e6) // 4 + 30_000_000)
    assert peak_rss_mb() >= before + 60
    del hog
