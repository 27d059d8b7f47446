"""How many images a threshold needs: the table of notebooks/compression_in_ci.md.

    python tests/gate/images_needed.py

For networks that are equally good: the number of images for which the 95 % interval of the drop is no wider
than the threshold either way, by the share of images on which one network is right and the other wrong.
"""

import numpy as np

from cnncompress.paired import paired_drop

SHARES = (0.01, 0.02, 0.06, 0.13)
THRESHOLDS = (0.25, 0.5, 1.0, 2.0)


def half_width(images: int, share: float) -> float:
    """Half the width of the interval where half of the differing images are lost and half are gained.

    Args:
        images: how many there are.
        share: of them on which the networks differ.

    Returns:
        Points.
    """
    lost = round(images * share / 2)
    before, after = np.zeros((2, images), dtype=bool)
    before[:lost], after[lost : 2 * lost] = True, True
    found = paired_drop(before, after)
    return (found.high - found.low) / 2


def needed(threshold: float, share: float) -> int:
    """The smallest number of images, in hundreds.

    Args:
        threshold: points.
        share: of the images on which the networks differ.

    Returns:
        Images.
    """
    low, high = 0, 1
    while half_width(100 * high, share) > threshold:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(100 * middle, share) <= threshold else (middle, high)
    return 100 * high


def table() -> str:
    """The table.

    Returns:
        Markdown.
    """
    heads = ["images that differ", *(f"{threshold:g} points" for threshold in THRESHOLDS)]
    rows = [
        [f"{share:.0%}".replace("%", " %"), *(f"{needed(threshold, share)}" for threshold in THRESHOLDS)]
        for share in SHARES
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


if __name__ == "__main__":
    print(table())
