"""One session: several speedups of one calibration, and the search for the fastest within a drop."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnncompress.api import compress, compress_speedups, compress_within_drop
from cnncompress.data import ImageSource
from cnncompress.drop_search import FINEST, TRIALS, search_within_drop
from cnncompress.errors import BudgetError, OptionError
from cnncompress.evaluate import OriginalOutputs, compare
from cnncompress.events import Event, Note, StageStarted
from cnncompress.network import Network, Preprocess
from cnncompress.options import Options
from cnncompress.result import Result

Opening = Callable[..., Any]

GREEDY = Options(align=1, measure=False, batch_size=8)
KNAPSACK = replace(GREEDY, method="auto", ranks="", probes=False)


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).eval()  # fmt: skip
    preprocess = Preprocess(resize=None, crop=(10, 10), mean=(0.0,) * 3, std=(1.0,) * 3)
    return Network(name="tiny", model=model, preprocess=preprocess)


@pytest.fixture
def calibration(tensor_source: Opening) -> Any:
    return source_of(tensor_source, seed=1)


@pytest.fixture
def evaluation(tensor_source: Opening) -> Any:
    labels = torch.randint(4, (24,), generator=torch.Generator().manual_seed(3))
    return source_of(tensor_source, seed=2, labels=labels)


def source_of(opening: Opening, *, seed: int, labels: Tensor | None = None) -> Any:
    noise = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    source = opening(torch.nn.functional.avg_pool2d(noise, 3, stride=1), labels)
    source.keys = [f"{seed}/{key}" for key in source.keys]
    return source


def started(events: Sequence[Event], stage: str) -> int:
    return sum(isinstance(event, StageStarted) and event.stage == stage for event in events)


def assert_same_network(one: Result, other: Result) -> None:
    assert one.plan.layers == other.plan.layers
    values, expected = one.model.state_dict(), other.model.state_dict()
    assert list(values) == list(expected)
    for name, value in values.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("options", [GREEDY, KNAPSACK], ids=["greedy", "knapsack"])
def test_a_speedup_after_another_is_the_one_of_a_run_of_its_own(
    network: Network, calibration: ImageSource, options: Options
) -> None:
    both = list(compress_speedups(network, calibration, None, options, (2.0, 3.0)))
    assert both[0].plan.layers != both[1].plan.layers
    for speedup, found in zip((2.0, 3.0), both, strict=True):
        alone = compress(network, calibration, None, replace(options, speedup=speedup))
        assert_same_network(found, alone)
        assert found.report["fidelity"] == alone.report["fidelity"]
        assert found.report["asked"] == alone.report["asked"]
        assert found.report["macs"]["conv_speedup"] >= speedup


def test_the_order_of_speedups_changes_no_network(network: Network, calibration: ImageSource) -> None:
    options = replace(KNAPSACK, probes=True)
    upwards = list(compress_speedups(network, calibration, None, options, (2.0, 3.0)))
    downwards = list(compress_speedups(network, calibration, None, options, (3.0, 2.0)))
    for one, other in zip(upwards, reversed(downwards), strict=True):
        assert_same_network(one, other)


@pytest.mark.parametrize(
    ("options", "judged"), [(GREEDY, 0), (replace(KNAPSACK, probes=True), 1)], ids=["greedy", "knapsack"]
)
def test_images_are_calibrated_on_and_judged_once_whatever_the_number_of_speedups(
    network: Network, calibration: Any, evaluation: Any, options: Options, judged: int
) -> None:
    events: list[Event] = []
    passes = [0]
    results = compress_speedups(network, calibration, evaluation, options, (2.0, 2.5, 3.0), events.append)
    for _ in results:
        passes.append(calibration.passes)
    assert started(events, "calibrate") == 1
    assert {started(events, stage) for stage in ("judge", "gradients", "probe")} == {judged}
    # behind the first network each takes but the one pass in which its layers are solved one after another
    assert [later - earlier for earlier, later in pairwise(passes[1:])] == [1, 1]
    assert (passes[1] == 2) == (judged == 0)
    assert evaluation.passes == 3


class Counting(nn.Module):
    """A network that counts how often it runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.runs = model, 0

    def forward(self, images: Tensor) -> Tensor:
        self.runs += 1
        answer: Tensor = self.model(images)
        return answer


@pytest.mark.parametrize("features", [None, "model.5"])
@pytest.mark.parametrize("only", [None, frozenset({1, 2, 9, 20})])
def test_kept_answers_compare_as_new_ones_and_the_original_runs_once(
    network: Network, evaluation: ImageSource, features: str | None, only: frozenset[int] | None
) -> None:
    torch.manual_seed(5)
    other = Counting(network.model)
    changed = Counting(nn.Sequential(*network.model))
    changed.model[2] = nn.Conv2d(8, 12, 3, padding=1)
    found, runs = {}, {}
    for memory in (0, 10**9):
        other.runs = 0
        answers = OriginalOutputs(other, features, memory=memory)
        found[memory] = [
            compare(answers, changed.eval(), evaluation, features=features, batch_size=8, only=only)
            for _ in range(2)
        ]
        runs[memory] = other.runs
    plain = compare(other, changed, evaluation, features=features, batch_size=8, only=only)
    described = [one.fidelity() | (one.accuracy("") or {}) for one in (*found[0], *found[10**9], plain)]
    assert all(one == described[0] for one in described)
    assert (features is None) == (plain.feature_relative_error is None)
    assert runs == {0: 6, 10**9: 3}


def test_answers_beyond_the_memory_are_given_again(network: Network, evaluation: ImageSource) -> None:
    other = Counting(network.model)
    one_batch = 8 * 4 * 4  # images, outputs, bytes
    answers = OriginalOutputs(other, None, memory=one_batch)
    first, second = (compare(answers, network.model, evaluation, batch_size=8) for _ in range(2))
    assert first.fidelity() == second.fidelity()
    assert other.runs == 3 + 2


class Pretended:
    """Makes networks whose drop rises with their speedup, and says which were asked for."""

    def __init__(self, drop: Callable[[float], float], *, reachable: float = float("inf")) -> None:
        self.drop, self.reachable, self.asked = drop, reachable, []

    def __call__(self, options: Options) -> Result:
        self.asked.append(options.speedup)
        if options.speedup > self.reachable:
            raise BudgetError(f"a speedup of {options.speedup:g}x can't be reached")
        accuracy = {"drop_top1": self.drop(options.speedup), "n": 50}
        report = {"asked": {"speedup": options.speedup}, "accuracy": accuracy, "planner": {"unit": "MACs"}}
        return Result(nn.Identity(), None, None, report)  # type: ignore[arg-type]


@pytest.mark.parametrize("begin", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("boundary", [1.13, 1.5, 2.0, 2.9, 3.99, 4.0, 5.0, 7.9])
def test_the_search_ends_close_to_the_boundary_and_never_beyond(begin: float, boundary: float) -> None:
    run = Pretended(lambda speedup: speedup / boundary)
    result = search_within_drop(run, Options(speedup=begin), 1.0, lambda _: None)
    speedup = result.report["asked"]["speedup"]
    assert result.report["accuracy"]["drop_top1"] <= 1.0
    assert boundary / (FINEST + 1e-3) <= speedup <= boundary
    assert run.asked[0] == begin
    assert len(run.asked) <= TRIALS
    assert len(set(run.asked)) == len(run.asked)


@pytest.mark.parametrize("boundary", [40.0, 1e9])
def test_a_boundary_far_away_ends_the_search_all_the_same(boundary: float) -> None:
    run = Pretended(lambda speedup: speedup / boundary)
    result = search_within_drop(run, Options(), 1.0, lambda _: None)
    assert len(run.asked) == TRIALS
    assert result.report["asked"]["speedup"] == max(asked for asked in run.asked if asked <= boundary)


def test_speedups_out_of_reach_count_as_beyond() -> None:
    run = Pretended(lambda _: 0.0, reachable=5.5)
    notes: list[Event] = []
    result = search_within_drop(run, Options(), 1.0, notes.append)
    assert 5.5 / FINEST <= result.report["asked"]["speedup"] <= 5.5
    planner = result.report["planner"]
    assert planner["unit"] == "MACs"
    assert [trial["speedup"] for trial in planner["trials"]] == run.asked
    assert all(trial["within"] == (trial["speedup"] <= 5.5) for trial in planner["trials"])
    assert all(("problem" in trial) == (trial["drop"] is None) for trial in planner["trials"])
    assert sum("can't be reached" in note.message for note in notes if isinstance(note, Note)) > 0
    assert len(notes) == len(run.asked)


def test_more_is_asked_of_the_network_that_gains_accuracy() -> None:
    run = Pretended(lambda speedup: -1.0 if speedup < 6 else 3.0)
    assert search_within_drop(run, Options(), 0.5, lambda _: None).report["accuracy"]["drop_top1"] == -1.0


@pytest.mark.parametrize("reachable", [1.01, float("inf")])
def test_nothing_within_the_drop_says_what_was_tried(reachable: float) -> None:
    run = Pretended(lambda _: 10.0, reachable=reachable)
    with pytest.raises(OptionError, match=r"no speedup that was tried \(4x, .*keeps the drop within 0\.5"):
        search_within_drop(run, Options(), 0.5, lambda _: None)
    assert len(run.asked) <= TRIALS
    assert min(run.asked) > 1


@pytest.mark.parametrize("drop", [0.0, -1.0, float("nan"), float("inf")])
def test_a_drop_that_is_none_is_refused(
    network: Network, calibration: Any, evaluation: ImageSource, drop: float
) -> None:
    with pytest.raises(OptionError, match="must be above 0 points"):
        compress_within_drop(network, calibration, evaluation, GREEDY, drop)


def test_a_drop_needs_labels(network: Network, calibration: Any) -> None:
    with pytest.raises(OptionError, match="--eval"):
        compress_within_drop(network, calibration, None, GREEDY, 1.0)


def test_a_drop_needs_class_scores(network: Network, calibration: Any, evaluation: ImageSource) -> None:
    maps = replace(network, model=network.model[:5])
    with pytest.raises(OptionError, match="no class scores"):
        compress_within_drop(maps, calibration, evaluation, GREEDY, 1.0)


def test_the_fastest_within_a_drop_is_a_network_of_the_session(
    network: Network, calibration: Any, evaluation: Any
) -> None:
    events: list[Event] = []
    result = compress_within_drop(network, calibration, evaluation, GREEDY, 60.0, events.append)
    trials = result.report["planner"]["trials"]
    asked = result.report["asked"]["speedup"]
    assert trials[0]["speedup"] == GREEDY.speedup
    assert [trial["within"] for trial in trials if trial["speedup"] == asked] == [True]
    assert asked == max(trial["speedup"] for trial in trials if trial["within"])
    assert started(events, "calibrate") == 1
    assert_same_network(result, compress(network, calibration, evaluation, replace(GREEDY, speedup=asked)))
