"""Drawings as inline SVG whose colours the page's style sheet decides."""

import io
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib knows no CSS variables: it draws in these colours, which are replaced in its output
INK, FAINT = "#010203", "#010204"
SERIES = tuple(f"#0102{number:02x}" for number in range(16, 24))
_CSS = {INK: "currentColor", FAINT: "var(--faint)"} | {
    color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)
}

_REMS = 7.2  # widest in a page for each inch drawn
# what the page's style sheet says for light paper
_PAPER = "#ffffff"
_LIGHT = {
    "currentColor": "#1b1f24",
    "var(--faint)": "#d5d9df",
    "var(--series-1)": "#1f6fb4",
    "var(--series-2)": "#c4500b",
    "var(--series-3)": "#187c54",
    "var(--series-4)": "#8a4fb0",
    "var(--series-5)": "#a87400",
    "var(--series-6)": "#b5336b",
    "var(--series-7)": "#3b8ea5",
    "var(--series-8)": "#6b6b6b",
}
_IN_MARKUP = re.compile(r"<[^>]*>")

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
    text = _recolored(text, _CSS)
    # a page may stretch a narrow figure only so far
    width = f"--width: {_REMS * figure.get_figwidth():.1f}rem"
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}" style="{width}"', 1)


def on_paper(svg: str) -> str:
    """A drawing that needs no page around it: its colours are those of the report in the light.

    Args:
        svg: what `to_svg` returned.

    Returns:
        An ``<svg>`` element with a white ground; viewers that know no CSS variables show it too.
    """
    start = svg.index(">") + 1
    ground = f'<rect width="100%" height="100%" fill="{_PAPER}"/>'
    return _recolored(svg[:start] + ground + svg[start:], _LIGHT)


def _recolored(svg: str, colors: Mapping[str, str]) -> str:
    """Other colours in the tags, whatever the text between them says."""

    def replaced(tag: re.Match[str]) -> str:
        text = tag.group()
        for old, new in colors.items():
            text = text.replace(old, new)
        return text

    return _IN_MARKUP.sub(replaced, svg)


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
