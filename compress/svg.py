"""Drawings as inline SVG whose colours the page's style sheet decides."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib knows no CSS variables: it draws in these colours, which are replaced in its output
INK, FAINT = "#010203", "#010204"
SERIES = tuple(f"#0102{number:02x}" for number in range(16, 24))
_CSS = {INK: "currentColor", FAINT: "var(--faint)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, scaled and coloured
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.parse_math": False,  # names of layers are not formulas
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


@contextmanager
def drawing(width: float, height: float) -> Iterator["Figure"]:
    """A figure in the report's style.

    Args:
        width: inches.
        height: inches.

    Yields:
        An empty figure.
    """
    # imported here since it takes half a second; no pyplot, so no window system and no global figure
    from matplotlib import rc_context  # noqa: PLC0415  # loads slowly
    from matplotlib.figure import Figure  # noqa: PLC0415  # loads slowly

    with rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: "Figure", title: str, *, dpi: float = 72) -> str:
    """A figure as an element of a page.

    Args:
        figure: drawn within `drawing`.
        title: what it shows, for those who can't see it.
        dpi: resolution of the parts that are drawn as pixels.

    Returns:
        An ``<svg>`` element.
    """
    from matplotlib import rc_context  # noqa: PLC0415  # loads slowly

    buffer = io.StringIO()
    # the salt keeps ids of several figures on one page apart, and equal from run to run
    with rc_context({"svg.hashsalt": title}):
        figure.savefig(
            buffer, format="svg", transparent=True, dpi=dpi, metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, css in _CSS.items():
        text = text.replace(color, css)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def shortened(name: str, length: int) -> str:
    """The end of a name, which tells layers apart.

    Args:
        name: any.
        length: most characters.

    Returns:
        The name itself where it fits.
    """
    return name if len(name) <= length else "…" + name[1 - length :]


def drawable(value: float | None) -> float:
    """A number that can be drawn.

    Args:
        value: None where nothing was measured.

    Returns:
        NaN for None, which leaves a gap.
    """
    return math.nan if value is None else float(value)
