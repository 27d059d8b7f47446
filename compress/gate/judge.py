"""Thresholds held against what was measured."""

from collections.abc import Mapping
from typing import Any

from cnncompress.errors import OptionError
from cnncompress.formats import format_bytes, format_number, format_times
from cnncompress.gate.thresholds import Thresholds
from cnncompress.gate.verdict import Finding
from cnncompress.paired import images_needed

_ROUNDING = 1e-9  # points and ratios of whole numbers of images come with it


def judge(
    thresholds: Thresholds,
    *,
    accuracy: Mapping[str, Any] | None,
    macs: Mapping[str, Any],
    size: int,
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """Find out which thresholds are kept.

    Args:
        thresholds: to be kept.
        accuracy: what `paired_accuracy` returns; needed for the limits of accuracy alone.
        macs: what `counted_macs` returns.
        size: bytes.

    Returns:
        One finding for each threshold, and warnings.

    Raises:
        OptionError: a limit of top-5 accuracy where there are no more than five classes.
    """
    findings: list[Finding] = []
    warnings: list[str] = []
    for name, key, limit in (
        ("top-1 drop", "top1", thresholds.max_drop),
        ("top-5 drop", "top5", thresholds.max_drop_top5),
    ):
        if limit is None or accuracy is None:
            continue
        entries = accuracy[key]
        if entries is None:
            raise OptionError("top-5 accuracy says nothing about five classes or fewer; use --max-drop")
        findings.append(_drop(name, entries, accuracy["n"], limit, thresholds.gate))
        warnings += _too_wide(name, entries, accuracy["n"], limit)
    if thresholds.min_speedup is not None:
        findings.append(_speedup(macs, thresholds.min_speedup))
    if thresholds.max_size is not None:
        findings.append(_size(size, thresholds.max_size))
    return tuple(findings), tuple(warnings)


def _drop(name: str, entries: Mapping[str, Any], images: int, limit: float, gate: str) -> Finding:
    judged = entries["high"] if gate == "upper" else entries["drop"]
    what = "its upper end may be" if gate == "upper" else "allowed"
    digits = _digits(judged, limit)
    return Finding(
        name=name,
        value=entries["drop"],
        judged=judged,
        limit=limit,
        unit="points",
        passed=judged <= limit + _ROUNDING,
        text=(
            f"{format_number(entries['drop'], digits)} points ({format_number(entries['before'], 2)} -> "
            f"{format_number(entries['after'], 2)} % of {images} images, 95 % interval "
            f"{_points(entries['low'])} to {format_number(entries['high'], digits)}), {what} "
            f"{format_number(limit, digits)}"
        ),
    )


def _too_wide(name: str, entries: Mapping[str, Any], images: int, limit: float) -> list[str]:
    half = (entries["high"] - entries["low"]) / 2
    if limit <= 0 or half <= limit:
        return []
    return [
        f"{name}: known to {_points(half)} points either way on {images} images, which is coarser than the "
        f"limit of {_points(limit)}; about {images_needed(images, half, limit)} images of this kind would do"
    ]


def _speedup(macs: Mapping[str, Any], limit: float) -> Finding:
    speedup = float(macs["speedup"])
    return Finding(
        name="speedup",
        value=speedup,
        judged=speedup,
        limit=limit,
        unit="x",
        passed=speedup >= limit - _ROUNDING,
        text=f"{format_times(speedup)} fewer MACs of {macs['counted']}, at least {format_times(limit)} asked",
    )


def _size(size: int, limit: int) -> Finding:
    return Finding(
        name="size",
        value=size,
        judged=size,
        limit=limit,
        unit="bytes",
        passed=size <= limit,
        text=f"{format_bytes(size)} of weights, {size:,} bytes, allowed {limit:,}",
    )


def _digits(judged: float, limit: float) -> int:
    """Decimals that tell a drop from its limit: one that is broken must not look kept."""
    alike = [
        digits for digits in range(2, 6) if format_number(judged, digits) == format_number(limit, digits)
    ]
    return 2 if judged == limit or not alike else max(alike) + 1


def _points(value: float) -> str:
    return format_number(value, 2)
