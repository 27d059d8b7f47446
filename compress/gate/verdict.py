"""What a check found: the content of check.json (schema 1)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One threshold and what was measured against it.

    Attributes:
        name: ``"top-1 drop"``, ``"top-5 drop"``, ``"speedup"`` or ``"size"``.
        value: what was measured.
        judged: what is held against the limit: the value, or the upper end of its interval.
        limit: the threshold.
        unit: of the three, ``"points"``, ``"x"`` or ``"bytes"``.
        passed: whether the threshold was kept.
        text: value, limit and their circumstances, one line.
    """

    name: str
    value: float
    judged: float
    limit: float
    unit: str
    passed: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a check.

    Attributes:
        network: name of the network.
        folder: of the compressed network, as the user gave it.
        findings: one for each threshold; empty where nothing could be measured.
        gate: ``"point"`` or ``"upper"``, what of an accuracy drop is judged.
        against: what the accuracy is compared with, one line.
        accuracy: top-1 and top-5 of both networks with paired intervals; None where it wasn't asked for.
        macs: ``before``, ``after`` and ``speedup``, of convolutions and linear layers.
        size: bytes of model.safetensors.
        data: description, hash and number of the images; None without any.
        warnings: what a reader should know, one line each.
        error: why nothing could be measured; empty otherwise.
        environment: versions of what ran.
    """

    network: str
    folder: str
    findings: tuple[Finding, ...] = ()
    gate: str = "point"
    against: str = ""
    accuracy: Mapping[str, Any] | None = None
    macs: Mapping[str, Any] | None = None
    size: int | None = None
    data: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """``"passed"``, ``"failed"`` or ``"error"``."""
        if self.error:
            return "error"
        return "passed" if all(finding.passed for finding in self.findings) else "failed"

    @property
    def line(self) -> str:
        """The outcome in one line."""
        if self.error:
            return f"{self.network}: could not be measured: {self.error}"
        if not self.findings and self.accuracy is not None:
            top1 = self.accuracy["top1"]
            return (
                f"{self.network}: top-1 {top1['before']:.2f} -> {top1['after']:.2f} % of "
                f"{self.accuracy['n']} images; no threshold was given"
            )
        broken = [finding for finding in self.findings if not finding.passed]
        shown = broken or self.findings
        return f"{self.network}: {self.status}: " + "; ".join(
            f"{finding.name} {finding.text}" for finding in shown
        )

    def failed(self, error: str) -> "Verdict":
        """The same check, which could not be finished.

        Args:
            error: why, one line.

        Returns:
            A verdict without findings.
        """
        return replace(self, error=error, findings=())

    def to_json(self) -> dict[str, Any]:
        """The content of check.json.

        Returns:
            JSON-able values.
        """
        return {"schema": SCHEMA, "status": self.status, **asdict(self)}


def not_measured(folder: Path, error: str, *, gate: str) -> Verdict:
    """A verdict on a network that could not be measured.

    Args:
        folder: that was to be checked; it need not exist.
        error: why not, one line.
        gate: what of a drop would have been judged.

    Returns:
        The verdict, under the network's name where the folder tells it.
    """
    try:
        network = str(json.loads((folder / "plan.json").read_text(encoding="utf-8"))["network"])
    except (OSError, ValueError, KeyError, TypeError):
        network = folder.resolve().name or str(folder)
    return Verdict(network=network, folder=str(folder), gate=gate, error=error)
