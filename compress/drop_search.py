"""The fastest network within an accuracy drop: speedups are tried, real networks measured."""

from collections.abc import Callable
from dataclasses import replace
from math import isfinite, sqrt
from typing import Any

from cnncompress.errors import BudgetError, OptionError, SlowerError
from cnncompress.events import Note, Reporter
from cnncompress.options import Options
from cnncompress.result import Result

TRIALS = 7
FINEST = 1.05
"""Ratio of two speedups between which no more are tried."""

_SLOWEST = 1.1
_STEP = 1.6  # from a speedup that is within to the next one, until one is not


def check_drop(max_drop: float) -> None:
    """Refuse what is no drop.

    Args:
        max_drop: of top-1 accuracy, in points.

    Raises:
        OptionError: it isn't above 0.
    """
    if not (isfinite(max_drop) and max_drop > 0):
        raise OptionError(f"the largest drop must be above 0 points, got {max_drop:g}")


def search_within_drop(
    run: Callable[[Options], Result], options: Options, max_drop: float, report: Reporter
) -> Result:
    """Bisect the speedup on a logarithmic scale.

    Args:
        run: makes and evaluates a network.
        options: whose speedup is the first one tried.
        max_drop: of top-1 accuracy, in points.
        report: hears of each trial.

    Returns:
        The fastest network within the drop; its report lists all trials.

    Raises:
        OptionError: the drop isn't above 0, or no speedup keeps it.
    """
    check_drop(max_drop)
    trials: list[dict[str, Any]] = []
    best: Result | None = None
    within, beyond, speedup = 1.0, float("inf"), options.speedup
    for _ in range(TRIALS):
        trial, result = _tried(run, replace(options, speedup=round(speedup, 3)), max_drop)
        trials.append(trial)
        report(Note(_described(trial, max_drop)))
        if result is not None and trial["within"]:
            best, within = result, speedup
        else:
            beyond = speedup
        following = _next(within, beyond)
        if following is None:
            break
        speedup = following
    if best is None:
        tried = ", ".join(f"{trial['speedup']:g}x" for trial in trials)
        why = next((f": {trial['problem']}" for trial in reversed(trials) if "problem" in trial), "")
        raise OptionError(
            f"no speedup that was tried ({tried}) keeps the drop within {max_drop:g} points{why}"
        )
    planner = best.report.get("planner") or {}
    searched = {**planner, "trials": trials, "max_drop": max_drop}
    return replace(best, report=best.report | {"planner": searched})


def _tried(
    run: Callable[[Options], Result], options: Options, max_drop: float
) -> tuple[dict[str, Any], Result | None]:
    trial: dict[str, Any] = {"speedup": options.speedup, "drop": None, "images": 0, "within": False}
    try:
        result = run(options)
    except (BudgetError, SlowerError) as problem:
        return trial | {"problem": str(problem)}, None
    accuracy = result.report["accuracy"]
    if accuracy is None:
        raise OptionError(
            "the network's outputs are no class scores: there is no accuracy whose drop could count"
        )
    drop = accuracy["drop_top1"]
    return trial | {"drop": drop, "images": accuracy["n"], "within": drop <= max_drop}, result


def _next(within: float, beyond: float) -> float | None:
    """The speedup to try, None where it is known well enough."""
    if beyond == float("inf"):
        return within * _STEP
    low = max(within, _SLOWEST)
    if beyond / low > FINEST:
        return sqrt(low * beyond)
    return _SLOWEST if within < _SLOWEST < beyond else None


def _described(trial: dict[str, Any], max_drop: float) -> str:
    if trial["drop"] is None:
        return f"{trial['speedup']:g}x: {trial['problem']}"
    verdict = "within" if trial["within"] else "beyond"
    return f"{trial['speedup']:g}x drops {trial['drop']:.2f} points, {verdict} {max_drop:g}"
