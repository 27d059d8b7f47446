"""What can't be told to ``cnncompress MODEL``, found before anything slow is imported."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import click
from click.core import ParameterSource

from cnncompress.cli.names import AUTO, RECIPES, RULES, RUNTIMES, check_methods, check_names
from cnncompress.cli.values import words

_SETTLED_BY_PLAN = (
    "method",
    "align",
    "method_options",
    "layer_ranks",
    "only",
    "skip",
    "no_probes",
    "distortion",
)
_TRAINING = ("train", "epochs", "lr", "distill", "recipe")


def check(context: click.Context, given: dict[str, Any]) -> None:
    """Refuse options that contradict each other or would change nothing, and names that aren't known.

    Args:
        context: of the command; tells what was typed and what is a default.
        given: the options; a rank rule that a plan implies is filled in.

    Raises:
        UsageError: options don't go together.
    """
    if given["ranks"] is None:
        given["ranks"] = "manual" if given["plan"] else ""
    if (given["ranks"] == "manual") != (given["plan"] is not None):
        raise click.UsageError("--ranks manual and --plan FILE go together")
    if given["labels"] is not None and given["evaluation"] is None:
        raise click.UsageError("--labels needs --eval")
    if given["max_drop"] is not None:
        _check_drop(given)
    if given["plan"] is not None:
        _check_beside_plan(context, given)
    _check_finetuning(given)
    _check_names(given)
    _check_used(given)


def _check_drop(given: Mapping[str, Any]) -> None:
    if not (isfinite(given["max_drop"]) and given["max_drop"] > 0):
        raise click.UsageError(f"--max-drop must be above 0 points, got {given['max_drop']:g}")
    if len(given["speedup"] or ()) > 1:
        raise click.UsageError("--max-drop looks for the speedup itself; give --speedup once or not at all")
    if given["data"] is not None and given["evaluation"] is None:  # only the demo's own data bring labels
        raise click.UsageError("--max-drop needs labelled images to measure it by; give --eval too")


def _check_beside_plan(context: click.Context, given: Mapping[str, Any]) -> None:
    if len(given["speedup"] or ()) > 1:
        raise click.UsageError("--plan settles all ranks; several speedups can't be given beside it")
    if given["max_drop"] is not None:
        raise click.UsageError("--max-drop chooses the ranks; it can't be given beside --plan")
    for parameter in context.command.params:
        typed = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if typed and parameter.name in _SETTLED_BY_PLAN:
            raise click.UsageError(
                f"--plan settles all layers; {parameter.opts[0]} can't be given beside it, leave it out"
            )


def _check_finetuning(given: Mapping[str, Any]) -> None:
    if given["finetune"] is None:
        unused = [flag for flag in _TRAINING if given[flag] is not None]
        if unused:
            raise click.UsageError(f"--{unused[0]} needs --finetune EPOCHS, all or upper")
    elif given["finetune"][1] is not None and given["epochs"] is not None:
        raise click.UsageError("--finetune EPOCHS and --epochs are the same; give one of them")


def _check_names(given: Mapping[str, Any]) -> None:
    check_names("runtime", (given["runtime"],), RUNTIMES)
    check_methods(words(given["method"]))
    if given["ranks"]:
        check_names("rank rule", (given["ranks"],), RULES)
    if given["recipe"] is not None:
        check_names("recipe", (given["recipe"],), RECIPES)


def _check_used(given: Mapping[str, Any]) -> None:
    """Refuse what would change nothing."""
    setting = (given["runtime"], given["threads"], given["batch"])
    if given["budget"] != "latency" and setting != ("torch", 1, 1):
        raise click.UsageError("--runtime, --threads and --batch are those of --budget latency; add it")
    rule = _rule(given)
    if rule != "knapsack" and (given["distortion"] != "loss" or given["no_probes"]):
        raise click.UsageError(
            f"--distortion and --no-probes are for --ranks knapsack, not for {rule}; add it, or leave "
            "them out"
        )


def _rule(given: Mapping[str, Any]) -> str:
    """The rank rule that the options come to, as `cnncompress.options.Options` has it."""
    if given["ranks"]:
        return "greedy" if given["ranks"] == "paper" else str(given["ranks"])
    methods = set(words(given["method"]))
    several = len(methods) > 1 or AUTO in methods
    return "knapsack" if several or given["budget"] != "macs" else "greedy"
