"""The HTML pages' templates and how they write numbers."""

import math
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cnncompress.formats import (
    MISSING,
    format_bytes,
    format_count,
    format_number,
    format_percent,
    format_times,
)
from cnncompress.layer_timing import is_slower


def page_templates() -> Environment:
    """The package's templates, with the filters that they use.

    Returns:
        An environment that escapes whatever it puts in and refuses names that it doesn't know.
    """
    environment = Environment(
        loader=PackageLoader("cnncompress", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        times=format_times,
        percent=format_percent,
        plain=_plain,
        count=format_count,
        bytes=format_bytes,
        number=format_number,
        brief=_brief,
        setting=_setting,
    )
    environment.tests["slower"] = is_slower
    return environment


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: MISSING}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) or MISSING
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or MISSING
    return str(value) or MISSING


def _brief(value: float | None) -> str:
    """Three digits, for numbers of any size."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3g}"


def _setting(value: Mapping[str, Any]) -> str:
    """Where and how time was measured, as far as it is known."""
    threads, batch, device = value.get("threads"), value.get("batch"), value.get("device")
    parts = [
        value.get("runtime"),
        f"on {device}" if device not in {None, "cpu"} else None,
        None if threads is None else f"{threads} thread{'' if threads == 1 else 's'}",
        None if batch is None else f"batch {batch}",
    ]
    return ", ".join(part for part in parts if part).replace(", on ", " on ")
