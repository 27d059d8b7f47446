"""How long a pass waits for its images: what is counted, and where it is told."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from rich.console import Console

from cnncompress.cli.progress import Progress
from cnncompress.clock import Clock
from cnncompress.data import open_source
from cnncompress.distributed import World, sharded
from cnncompress.errors import DataError
from cnncompress.events import StageAdvanced, StageDone, StageStarted, silent
from cnncompress.image_source import BadImage, Batch, FindsBad, ImageSource
from cnncompress.waiting import Watched


class FakeClock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A source that takes two seconds for a batch, and one to find out that there is none left."""

    def __init__(self, source: Any, clock: FakeClock) -> None:
        self._source, self._clock, self.open = source, clock, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        self.open = True
        try:
            for batch in self._source.batches(batch_size, order):
                self._clock.now += 2
                yield batch
            self._clock.now += 1
        finally:
            self.open = False


def test_it_is_the_source_it_watches() -> None:
    source = open_source((torch.randn(5, 3, 4, 4), torch.arange(5)), preprocess=None)
    watched = Watched(source)
    assert isinstance(watched, ImageSource)
    assert (
        len(watched),
        watched.hash,
        watched.has_labels,
        watched.description,
        watched.keys,
        watched.bad,
    ) == ((len(source), source.hash, source.has_labels, source.description, source.keys, source.bad))
    for order in (None, [4, 0, 2]):
        for ours, theirs in zip(watched.batches(2, order), source.batches(2, order), strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.indices, theirs.indices)
            assert ours.labels is not None
            assert theirs.labels is not None
            assert torch.equal(ours.labels, theirs.labels)


def test_only_the_time_inside_the_source_counts() -> None:
    clock = FakeClock()
    slow = Slow(open_source(torch.randn(5, 3, 4, 4), preprocess=None), clock)
    watched = Watched(slow, clock)
    for _ in watched.batches(2):
        clock.now += 1000  # the network's work
    assert (watched.images, watched.waited) == (5, 7.0)
    next(watched.batches(2, [1]))
    assert (watched.images, watched.waited) == (6, 9.0)
    watched.reset()
    assert (watched.images, watched.waited) == (0, 0.0)


def test_an_abandoned_pass_is_closed_at_once() -> None:
    slow = Slow(open_source(torch.randn(5, 3, 4, 4), preprocess=None), FakeClock())
    batches = Watched(slow).batches(2)
    next(batches)
    assert slow.open
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert not slow.open


def test_an_error_of_the_source_comes_through() -> None:
    source = open_source(torch.randn(5, 3, 4, 4), preprocess=None)
    with pytest.raises(DataError, match="at least 1"):
        next(Watched(source).batches(0))


def test_bad_images_of_other_processes_are_kept() -> None:
    source = open_source(torch.randn(5, 3, 4, 4), preprocess=None)  # it knows its own, and learns none
    watched = Watched(source)
    assert isinstance(watched, FindsBad)
    found = BadImage("x.png", "empty file")
    watched.note_bad([found])
    watched.note_bad([found])
    assert watched.bad == (found,)


def test_each_process_counts_its_own_part() -> None:
    source = open_source(torch.randn(7, 3, 4, 4), preprocess=None)
    parts = [Watched(source) for _ in range(2)]
    for rank, part in enumerate(parts):
        list(sharded(part, World(rank, 2)).batches(2))
    assert [part.images for part in parts] == [4, 3]


def test_throughput_is_summed_by_stage_and_with_what_ran_before() -> None:
    shared, clock = Clock(silent), Clock(silent)
    shared(StageDone("calibrate", 10.0, images=300, waited=1.0))
    for event in (
        StageDone("calibrate", 5.0, images=300, waited=0.5),
        StageDone("calibrate", 5.0, images=0),
        StageDone("evaluate", 2.0, images=10, waited=2.0),
        StageDone("plan", 1.0),
    ):
        clock(event)
    assert clock.throughput.keys() == {"calibrate", "evaluate"}
    assert clock.throughput["calibrate"] == {
        "images": 300,
        "seconds": 5.0,
        "waited": 0.5,
        "images_per_second": 60.0,
    }
    both = clock.throughput_with_shared(shared)
    assert both["calibrate"] == {"images": 600, "seconds": 15.0, "waited": 1.5, "images_per_second": 40.0}
    assert both["evaluate"] == clock.throughput["evaluate"]
    assert Clock(silent).throughput_with_shared(shared) == shared.throughput
    assert clock.stages == {"calibrate": 10.0, "evaluate": 2.0, "plan": 1.0}


def test_a_stage_without_seconds_has_a_finite_rate() -> None:
    clock = Clock(silent)
    clock(StageDone("calibrate", 0.0, images=3))
    assert clock.throughput["calibrate"]["images_per_second"] > 0


def line_of(*events: Any) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    with Progress(console=console) as progress:
        for event in events:
            progress(event)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # a StringIO


@pytest.mark.parametrize(
    ("unit", "done", "expected"),
    [
        (
            "images",
            StageDone("calibrate", 61.0, images=300, waited=0.4),
            "calibrate: 300 images in 61.0 s, 4.9 images/s, 0.4 s of them waiting for images",
        ),
        ("images", StageDone("calibrate", 60.0), "calibrate: 30 images in 60.0 s, 0.50 images/s"),
        (
            "layers",
            StageDone("calibrate", 20.0, images=900, waited=1.0),
            "calibrate: 30 layers in 20.0 s, 45 images/s, 1.0 s of them waiting for images",
        ),
        ("layers", StageDone("calibrate", 20.0), "calibrate: 30 layers in 20.0 s"),
    ],
)
def test_the_line_of_a_finished_stage(unit: str, done: StageDone, expected: str) -> None:
    started = (StageStarted("calibrate", 300, unit), StageAdvanced("calibrate", 30))
    assert line_of(*started, done).strip() == expected


def test_the_line_of_a_stage_that_was_never_begun() -> None:
    assert line_of(StageDone("calibrate", 2.0, images=4, waited=1.0)).strip() == (
        "calibrate: 4 images in 2.0 s, 2 images/s, 1.0 s of them waiting for images"
    )
