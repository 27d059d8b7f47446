"""Drawings as picture files that stand alone."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def to_png(figure: "Figure", *, dpi: float = 130) -> bytes:
    """A figure as a file.

    Args:
        figure: drawn within `cnncompress.svg.drawing`, whose ink is all but black.
        dpi: pixels an inch.

    Returns:
        The file's bytes, the same for the same figure.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
