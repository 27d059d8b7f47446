"""Sharing channels out equally: nothing is ever padded."""


def divisors(number: int) -> list[int]:
    """All divisors.

    Args:
        number: at least 1.

    Returns:
        Ascending.

    Example:
        >>> divisors(12)
        [1, 2, 3, 4, 6, 12]
    """
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def indivisible(number: int, parts: int, what: str, of: str) -> str:
    """Why channels can't be shared out equally.

    Args:
        number: of channels.
        parts: asked for.
        what: the parts are.
        of: what the channels are.

    Returns:
        The reason with the valid values, or an empty string.

    Example:
        >>> indivisible(9, 2, "clusters", "inputs")
        '2 clusters do not divide its 9 inputs; valid values: 1, 3, 9'
    """
    if parts >= 1 and number % parts == 0:
        return ""
    valid = ", ".join(map(str, divisors(number)))
    return f"{parts} {what} do not divide its {number} {of}; valid values: {valid}"
