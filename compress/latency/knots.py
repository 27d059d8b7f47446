"""Numbers of channels to measure at, and the times between them."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

Channels = tuple[int, int]
"""Of the input and of the output."""

FEW = 12
"""Members of a family up to which all of them are measured."""


def knots(asked: Collection[Channels], *, along: int = 6) -> set[Channels]:
    """Where to measure a family of convolutions so that all that were asked can be interpolated.

    Args:
        asked: numbers of channels in and out.
        along: values to keep of each of the two, if there are more.

    Returns:
        Those asked if they are few; else all pairs of some values of either, the extremes among them, closer
        together where they are small.
    """
    if len(asked) <= min(FEW, along**2):
        return set(asked)
    inputs, outputs = (_spread(sorted(set(values)), along) for values in zip(*asked, strict=True))
    return {(one, other) for one in inputs for other in outputs}


def _spread(values: Sequence[int], count: int) -> list[int]:
    if len(values) <= count:
        return list(values)
    # between evenly spaced and geometric: times are nearly linear, but small ones weigh more in a ratio
    aims = np.linspace(np.sqrt(values[0]), np.sqrt(values[-1]), count) ** 2
    array = np.array(values)
    return sorted({values[int(np.abs(array - aim).argmin())] for aim in aims})


def interpolated(known: Mapping[Channels, float], at: Channels) -> float | None:
    """The time between measured ones, linear in either number of channels.

    Args:
        known: times; not empty.
        at: numbers of channels in and out.

    Returns:
        The time, bilinear in the smallest rectangle of known ones around the place; None outside of all.
    """
    if at in known:
        return known[at]
    corners = _cell(known, at)
    if corners is None:
        return None
    (left, right), (low, high) = corners
    across = (at[0] - left) / (right - left) if right > left else 0.0
    up = (at[1] - low) / (high - low) if high > low else 0.0
    below = (1 - across) * known[left, low] + across * known[right, low]
    above = (1 - across) * known[left, high] + across * known[right, high]
    return (1 - up) * below + up * above


def _cell(known: Mapping[Channels, float], at: Channels) -> tuple[Channels, Channels] | None:
    """Input channels left and right, output channels below and above, whose four corners are known."""
    inputs, outputs = (sorted(set(values)) for values in zip(*known, strict=True))
    best: tuple[float, tuple[Channels, Channels]] | None = None
    for left, right in _around(inputs, at[0]):
        for low, high in _around(outputs, at[1]):
            size = (right + 1 - left) * (high + 1 - low)
            if (best is None or size < best[0]) and all(
                corner in known for corner in ((left, low), (left, high), (right, low), (right, high))
            ):
                best = (size, ((left, right), (low, high)))
    return None if best is None else best[1]


def _around(values: Sequence[int], at: int) -> list[Channels]:
    if at in values:
        return [(at, at), *((a, b) for a in values for b in values if a < at < b)]
    return [(a, b) for a in values for b in values if a < at < b]


def scaled(known: Mapping[Channels, float], at: Channels) -> float:
    """The time beyond measured ones: that of the nearest, in proportion to the multiply-accumulates.

    Args:
        known: times; not empty.
        at: numbers of channels in and out.

    Returns:
        The time.
    """
    nearest = min(known, key=lambda pair: abs(np.log(pair[0] / at[0])) + abs(np.log(pair[1] / at[1])))
    return known[nearest] * at[0] * at[1] / (nearest[0] * nearest[1])
