"""The fixture ``compression_gate``: a test that fails when a compressed network lost too much.

pytest imports this module when it starts, wherever cnncompress is installed; all that takes time is imported
by the first check.
"""
# ruff: noqa: PLC0415  # for that reason

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from torch import nn

    from cnncompress.gate.thresholds import Judged, Thresholds
    from cnncompress.gate.verdict import Verdict

OPTION = "compression_gate"
PROPERTY = "compression_gate"
_JUDGED = ("point", "upper")


class CompressionGateWarning(UserWarning):
    """What a reader of a passed check should know, for example that there were too few images."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--compression-gate`` and the setting of the same name.

    Args:
        parser: pytest's.
    """
    parser.getgroup("cnncompress").addoption(
        "--compression-gate",
        dest=OPTION,
        choices=_JUDGED,
        default=None,
        help="What of a drop of accuracy the fixture compression_gate judges: the drop itself (point), or "
        "the upper end of its confidence interval (upper).",
    )
    parser.addini(OPTION, "Default of --compression-gate: point or upper.", default=_JUDGED[0])


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a setting that means nothing.

    Args:
        config: pytest's.

    Raises:
        UsageError: the setting is neither ``point`` nor ``upper``.
    """
    setting = config.getini(OPTION)
    if setting not in _JUDGED:
        raise pytest.UsageError(f"the setting {OPTION} must be {' or '.join(_JUDGED)}, got {setting!r}")


@pytest.fixture
def compression_gate(request: pytest.FixtureRequest) -> "CompressionGate":
    """Check compressed networks: ``compression_gate("out/", "val/", max_drop=0.5)``.

    The test fails if a threshold is broken, and also if nothing could be measured. Each verdict goes to the
    JUnit report as a property of the test, in JSON. See `CompressionGate`.

    Args:
        request: pytest's.

    Returns:
        A callable.
    """
    judged = request.config.getoption(OPTION) or request.config.getini(OPTION)

    def record(name: str, value: object) -> None:
        # as record_property does, which warns wherever junit_family is pytest's default
        request.node.user_properties.append((name, value))

    return CompressionGate(judged, record)


class CompressionGate:
    """What the fixture ``compression_gate`` gives to a test."""

    def __init__(self, judged: "Judged", record: Callable[[str, object], None]) -> None:
        self._judged = judged
        self._record = record

    def __call__(
        self,
        folder: str | Path,
        data: Any = None,
        *,
        max_drop: float | None = None,
        max_drop_top5: float | None = None,
        min_speedup: float | None = None,
        max_size: int | str | None = None,
        gate: "Judged | None" = None,
        labels: str | Path | None = None,
        baseline: str | Path | None = None,
        against: str = "original",
        original: "nn.Module | None" = None,
        model: str | None = None,
        checkpoint: str | Path | None = None,
        weights: str = "default",
        device: str = "cpu",
        batch_size: int = 32,
        max_bad: float = 0.01,
    ) -> "Verdict":
        """Fail the test unless the network in a folder keeps all thresholds.

        Args:
            folder: that ``cnncompress MODEL`` or `Result.save` wrote.
            data: labelled images: a folder, ``.npz``, ``.pt``, tar shards, or a torch Dataset; not needed
                where no drop is limited.
            max_drop: largest drop of top-1 accuracy, points.
            max_drop_top5: largest drop of top-5 accuracy, points.
            min_speedup: times fewer multiply-accumulates.
            max_size: of model.safetensors, bytes or for example ``"20MB"``.
            gate: ``"point"`` or ``"upper"``; None takes ``--compression-gate`` or the setting.
            labels: file of lines ``filename,label`` for a flat folder of images.
            baseline: file that ``cnncompress check --write-baseline`` wrote; the original isn't run then.
            against: network of the baseline to compare with, ``"original"`` or ``"compressed"``.
            original: the original network, where it can't be found by name.
            model: name of the original, where it is your own code: ``package.module:factory``.
            checkpoint: file of its weights.
            weights: its weights by name.
            device: torch device.
            batch_size: images at a time.
            max_bad: largest share of images that may be unreadable.

        Returns:
            What was measured.

        Raises:
            UsageError: there is no threshold, or one makes no sense.
        """  # noqa: DOC502  # raised by what is called
        __tracebackhide__ = True
        from cnncompress.errors import CompressError
        from cnncompress.gate.check import check_folder
        from cnncompress.gate.reference import Reference
        from cnncompress.gate.verdict import not_measured

        thresholds = _thresholds(
            max_drop=max_drop,
            max_drop_top5=max_drop_top5,
            min_speedup=min_speedup,
            max_size=max_size,
            gate=gate or self._judged,
        )
        try:
            verdict = check_folder(
                Path(folder),
                thresholds,
                evaluation=data,
                labels=_path(labels),
                reference=Reference(
                    model=original,
                    name=model,
                    checkpoint=_path(checkpoint),
                    weights=weights,
                    baseline=_path(baseline),
                    against=against,
                ),
                device=device,
                batch_size=batch_size,
                max_bad=max_bad,
            ).verdict
        except CompressError as error:
            verdict = not_measured(Path(folder), str(error), gate=thresholds.gate)
        self._tell(verdict)
        return verdict

    def _tell(self, verdict: "Verdict") -> None:
        __tracebackhide__ = True
        self._record(PROPERTY, json.dumps(verdict.to_json(), sort_keys=True))
        if verdict.status != "passed":
            _fail("\n".join([verdict.line, "", *_rows(verdict)]))
        for text in verdict.warnings:
            warnings.warn(CompressionGateWarning(f"{verdict.network}: {text}"), stacklevel=3)


def _thresholds(*, max_size: int | str | None, **limits: Any) -> "Thresholds":
    __tracebackhide__ = True
    from cnncompress.errors import OptionError
    from cnncompress.gate.thresholds import Thresholds
    from cnncompress.sizes import byte_size

    try:
        found = Thresholds(max_size=None if max_size is None else byte_size(max_size), **limits)
    except OptionError as error:
        raise pytest.UsageError(f"compression_gate: {error}") from None
    if not found.any:
        raise pytest.UsageError(
            "compression_gate: nothing to check; give max_drop, max_drop_top5, min_speedup or max_size"
        )
    return found


def _rows(verdict: "Verdict") -> list[str]:
    rows = [
        f"  {'passed' if finding.passed else 'FAILED'}  {finding.name:<10}  {finding.text}"
        for finding in verdict.findings
    ]
    rows += [f"  warning  {text}" for text in verdict.warnings]
    return [*rows, f"  against {verdict.against}"] if verdict.against else rows


def _fail(reason: str) -> NoReturn:
    __tracebackhide__ = True
    pytest.fail(reason, pytrace=False)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
