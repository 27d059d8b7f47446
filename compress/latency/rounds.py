"""Rounds in which everything runs in turn, so that whatever else the machine does falls on all."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

Timed = Callable[[], float]
"""Runs something once and returns its milliseconds."""

WORTHWHILE_MS = 0.2
"""What runs for less comes up several times in a round."""

_MOST_OFTEN = 8


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long to go on.

    Attributes:
        least: rounds in any case.
        most: rounds at most.
        seconds: after which no round is begun beyond the least.
        noise: relative standard error of the typical ratio that is good enough.
        warmup: rounds before the clock starts.
    """

    least: int = 5
    most: int = 15
    seconds: float = 6.0
    noise: float = 0.01
    warmup: int = 1

    def enough(self, rows: Sequence[NDArray[np.float64]], seconds: float) -> bool:
        """Whether to stop.

        Args:
            rows: times of each round so far, the reference first.
            seconds: since the first of them began.

        Returns:
            True if nothing is gained, or time is up.
        """
        if len(rows) < self.least:
            return False
        if len(rows) >= self.most or seconds >= self.seconds:
            return True
        ratios = np.array(rows)
        ratios = ratios[:, 1:] / ratios[:, :1] if ratios.shape[1] > 1 else ratios
        middle = np.median(ratios, axis=0)
        # 1.48 times the median deviation estimates a standard deviation, 1.25 / sqrt(n) of it the median's
        errors = 1.85 * np.median(np.abs(ratios - middle), axis=0) / middle / np.sqrt(len(rows))
        return float(np.median(errors)) <= self.noise


def interleaved(
    runs: Sequence[Timed], pace: Pace, *, clock: Callable[[], float] = time.perf_counter
) -> NDArray[np.float64]:
    """Run everything in rounds, in one shuffled order.

    Short ones come up several times in a round, at different places rather than in a loop: in a network too
    their weights have left the fast caches in between.

    Args:
        runs: what to time, the reference first.
        pace: how long to go on.
        clock: seconds.

    Returns:
        Milliseconds, shape (rounds, runs); medians within a round of what came up several times.
    """
    first = [min(run() for _ in range(1 + pace.warmup)) for run in runs]
    order = [
        place
        for place, ms in enumerate(first)
        for _ in range(min(_MOST_OFTEN, max(1, ceil(WORTHWHILE_MS / max(ms, 1e-6)))))
    ]
    random.Random(0).shuffle(order)  # noqa: S311  # no secret
    rows: list[NDArray[np.float64]] = []
    begun = clock()
    while not pace.enough(rows, clock() - begun):
        seen: list[list[float]] = [[] for _ in runs]
        for place in order:
            seen[place].append(runs[place]())
        rows.append(np.array([np.median(times) for times in seen]))
    return np.array(rows)
