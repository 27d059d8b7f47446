"""Seconds of each stage of a run."""

import time

from cnncompress.events import Event, LayerDone, Reporter, StageDone


class Clock:
    """Passes events on and keeps the seconds of each stage."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._begun = time.perf_counter()
        self._stages: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Receive an event.

        Args:
            event: passed on to the reporter.
        """
        if isinstance(event, StageDone):
            self._stages[event.stage] = self._stages.get(event.stage, 0.0) + event.seconds
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
