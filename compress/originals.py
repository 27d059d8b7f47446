"""The original of a folder of results, with the weights that it was compressed from."""

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from cnncompress.errors import ModelError
from cnncompress.events import Note, Reporter, silent
from cnncompress.models import load_network
from cnncompress.network import Network, Preprocess
from cnncompress.plan import Plan

_OWN_CODE = {"object", "factory"}


def from_own_code(plan: Plan) -> bool:
    """Whether the original was made by the user's own code, which only runs when the user names it.

    Args:
        plan: of the folder.

    Returns:
        False for networks that are known by name.
    """
    return plan.source.get("kind") in _OWN_CODE


def fed_as_planned(plan: Plan, model: nn.Module) -> Network:
    """A model with what the plan knows of how it is fed.

    Args:
        plan: of the folder.
        model: the original architecture.

    Returns:
        The network.
    """
    return Network(
        name=plan.network,
        model=model,
        preprocess=Preprocess.from_json(plan.preprocess),
        features=plan.features,
        categories=plan.categories,
        source=plan.source,
    )


def weights_described(folder: Path) -> str:
    """The weights of the original that the folder's report names.

    Args:
        folder: of the results.

    Returns:
        One line; empty if there is no report that tells.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return ""
    return str(report.get("weights", "")) if isinstance(report, dict) else ""


def load_original(
    folder: Path,
    plan: Plan,
    described: str,
    *,
    name: str | None = None,
    checkpoint: Path | None = None,
    asked: str = "default",
    report: Reporter = silent,
) -> Network:
    """Load the network that was compressed, fed as it was then.

    Args:
        folder: of the results, for messages.
        plan: of the folder.
        described: weights that the folder's report names; empty if unknown.
        name: of the network, where it is the user's own code.
        checkpoint: its weights, where they were a file.
        asked: its weights by name.
        report: receives progress, and a note where the weights are others than described.

    Returns:
        The network with its weights.

    Raises:
        ModelError: it is the user's own code and wasn't named, it can't be had, or it has other weights.
    """
    if from_own_code(plan) and name is None:
        code = plan.source.get("factory", "package.module:factory")
        raise ModelError(
            f"{folder}: the network was made by your own code, which only runs when you name it: give "
            f"--network {code}, and --checkpoint where its weights are a file"
        )
    weights, classes = asked, None
    if asked == "default" and checkpoint is None:
        weights = _weights_of(plan, described)
        classes = plan.source.get("num_classes") if weights == "none" else None
    network = load_network(
        name or plan.network, weights=weights, checkpoint=checkpoint, num_classes=classes, report=report
    )
    if described and network.weights != described:
        # own code is named in any case, which says nothing of a file that its weights were read from
        loaded = plan.source.get("kind") == "factory" and described.startswith(("checkpoint ", "random "))
        chosen = checkpoint or asked != "default" or (name and not loaded)
        if not chosen:
            raise ModelError(
                f"{folder} was compressed from other weights ({described}) than {plan.network} has by "
                f"itself ({network.weights}); give them with --checkpoint FILE or --weights NAME"
            )
        report(
            Note(f"{folder} was compressed from {described}; the original is taken from {network.weights}")
        )
    planned = fed_as_planned(plan, network.model)
    return replace(planned, weights=network.weights, notes=network.notes)


def _weights_of(plan: Plan, described: str) -> str:
    """The name of the weights that a report describes."""
    if from_own_code(plan):
        return "default"
    if plan.source.get("head") == "none":
        return "backbone"
    if described.startswith("random"):
        return "none"
    return described.removeprefix("torchvision ") if described.startswith("torchvision ") else "default"
