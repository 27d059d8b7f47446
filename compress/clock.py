"""Seconds of each stage of a run, and how fast it went through its images."""

import time
from collections.abc import Mapping

from cnncompress.events import Event, LayerDone, Reporter, StageDone


class Clock:
    """Passes events on and keeps the seconds and images of each stage."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._begun = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._reads: dict[str, StageDone] = {}

    def __call__(self, event: Event) -> None:
        """Receive an event.

        Args:
            event: passed on to the reporter.
        """
        if isinstance(event, StageDone):
            self._stages[event.stage] = self._stages.get(event.stage, 0.0) + event.seconds
            if event.images:
                self._reads[event.stage] = _added(self._reads.get(event.stage), event)
        if isinstance(event, LayerDone):
            self._stages["solve"] = self._stages.get("solve", 0.0) + event.seconds
        self._report(event)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage (of which ``solve`` is a part of ``factorize``), and in total so far."""
        return {**self._stages, "total": time.perf_counter() - self._begun}

    def with_shared(self, shared: "Clock") -> dict[str, float]:
        """Seconds of each stage, those of a clock included that ran before.

        Args:
            shared: of what several runs have in common.

        Returns:
            The sums; the total is that of this run and of the shared stages.
        """
        before = shared.stages
        stages = {name: before.get(name, 0.0) + seconds for name, seconds in self._stages.items()}
        total = self.seconds["total"] + sum(seconds for name, seconds in before.items() if name != "solve")
        return {**before, **stages, "total": total}

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        return dict(self._stages)

    @property
    def throughput(self) -> dict[str, dict[str, float]]:
        """By stage that read images: ``images``, ``seconds``, ``waited`` of these, ``images_per_second``."""
        return _rates(self._reads)

    def throughput_with_shared(self, shared: "Clock") -> dict[str, dict[str, float]]:
        """As `throughput`, what a clock counted included that ran before.

        Args:
            shared: of what several runs have in common.

        Returns:
            The sums, and the rates of these.
        """
        before = shared._reads
        stages = {name: _added(before.get(name), done) for name, done in self._reads.items()}
        return _rates({**before, **stages})


def _added(before: StageDone | None, done: StageDone) -> StageDone:
    if before is None:
        return done
    return StageDone(
        done.stage,
        before.seconds + done.seconds,
        images=before.images + done.images,
        waited=before.waited + done.waited,
    )


def _rates(reads: Mapping[str, StageDone]) -> dict[str, dict[str, float]]:
    return {
        stage: {
            "images": done.images,
            "seconds": done.seconds,
            "waited": done.waited,
            "images_per_second": done.images / max(done.seconds, 1e-9),
        }
        for stage, done in reads.items()
    }
