"""The terminal as rich sees it, and what its user asks of it."""

import os
from typing import Any

from rich.console import Console


def console(**options: Any) -> Console:
    """A console without styles where NO_COLOR is set: no bold and no dim either.

    https://no-color.org asks for no colour alone; who sets it mostly reads what was recorded, where every
    escape code is noise. A live progress bar still moves the cursor, except in terminals called dumb.

    Args:
        **options: as rich's.

    Returns:
        The console; nothing is guessed to be a number or a path that deserves a style.
    """
    styled: Any = None if os.environ.get("NO_COLOR") else "auto"
    return Console(highlight=False, color_system=styled, **options)
