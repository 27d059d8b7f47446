"""What a compressed network is compared with: its original, or what a baseline says that it answered."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cnncompress.errors import DataError, ModelError, OptionError
from cnncompress.events import Reporter
from cnncompress.gate.baseline import NETWORKS, Baseline
from cnncompress.models import load_network, rebuild
from cnncompress.network import Network
from cnncompress.originals import fed_as_planned, from_own_code, load_original, weights_described
from cnncompress.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where the original network comes from.

    Attributes:
        model: the original itself, where the caller has it.
        name: its name, where it is the user's own code: ``package.module:factory``.
        checkpoint: its weights, where they were a file.
        weights: its weights by name.
        baseline: what it answered earlier; it is then not run.
        against: ``"original"``, or ``"compressed"`` for the compressed network as the baseline knows it.
    """

    model: nn.Module | None = None
    name: str | None = None
    checkpoint: Path | None = None
    weights: str = "default"
    baseline: Path | None = None
    against: str = "original"

    def __post_init__(self) -> None:
        if self.against not in NETWORKS:
            raise OptionError(f"against must be {' or '.join(NETWORKS)}, got {self.against!r}")
        if self.against != "original" and self.baseline is None:
            raise OptionError(
                "the compressed network of an earlier time is known to a baseline alone; give one"
            )


def baseline_of(folder: Path, plan: Plan, reference: Reference) -> Baseline | None:
    """The baseline that was given.

    Args:
        folder: of the results.
        plan: of the folder.
        reference: what the network is compared with.

    Returns:
        None without any.

    Raises:
        DataError: it is of another network.
    """
    if reference.baseline is None:
        return None
    kept = Baseline.read(reference.baseline)
    if kept.network != plan.network:
        raise DataError(
            f"{reference.baseline}: is of {kept.network}, but {folder} holds {plan.network}; write a "
            "baseline of this network with --write-baseline"
        )
    return kept


def architecture(plan: Plan, reference: Reference) -> nn.Module:
    """The original's layers.

    Args:
        plan: of the folder.
        reference: where the original comes from.

    Returns:
        The original with any weights.

    Raises:
        ModelError: it was made by the user's own code, which wasn't named.
    """
    if reference.model is not None:
        return reference.model
    if not from_own_code(plan):
        return rebuild(plan.source)
    if reference.name is None:
        named = plan.source.get("factory") or "package.module:factory"
        raise ModelError(
            f"{plan.network}: the network was made by your own code, which only runs when you name it: give "
            f"--network {named}"
        )
    return load_network(reference.name, weights="default").model


def original(folder: Path, plan: Plan, reference: Reference, report: Reporter) -> Network:
    """The original with its weights.

    Args:
        folder: of the results.
        plan: of the folder.
        reference: where the original comes from.
        report: receives progress and notes.

    Returns:
        The network, fed as it was when it was compressed.
    """
    if reference.model is not None:
        return fed_as_planned(plan, reference.model)
    return load_original(
        folder,
        plan,
        weights_described(folder),
        name=reference.name,
        checkpoint=reference.checkpoint,
        asked=reference.weights,
        report=report,
    )
