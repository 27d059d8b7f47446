"""Numbers as people read them, the same in the terminal and in the report."""

import math
from typing import TypeGuard

MISSING = "-"


def format_times(value: float | None) -> str:
    """A ratio.

    Args:
        value: for example 4.021.

    Returns:
        For example ``"4.02x"``; whole numbers without decimals.
    """
    if not _known(value):
        return MISSING
    return f"{value:.0f}x" if value == round(value) else f"{value:.2f}x"


def format_percent(value: float | None, digits: int = 1) -> str:
    """A share.

    Args:
        value: on the scale 0 to 1.
        digits: decimals of the percentage.

    Returns:
        For example ``"84.3 %"``.
    """
    return f"{100 * value:.{digits}f} %" if _known(value) else MISSING


def format_count(value: float | None) -> str:
    """A large count with three digits and a unit.

    Args:
        value: for example 15470000000.

    Returns:
        For example ``"15.5 G"``.
    """
    if not _known(value):
        return MISSING
    if abs(value) < 999.5:
        return f"{value:.0f}"
    for unit in (" k", " M", " G"):
        value /= 1000
        if abs(value) < 999.5:
            return f"{value:#.3g}".removesuffix(".") + unit
    return f"{value / 1000:,.1f} T"


def format_bytes(value: float | None) -> str:
    """A size in decimal megabytes.

    Args:
        value: bytes.

    Returns:
        For example ``"58.9 MB"``.
    """
    return f"{value / 1e6:,.1f} MB" if _known(value) else MISSING


def format_number(value: float | None, digits: int = 3) -> str:
    """A plain number.

    Args:
        value: any.
        digits: decimals.

    Returns:
        For example ``"0.103"``.
    """
    if not _known(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
