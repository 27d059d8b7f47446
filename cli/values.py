"""What may be typed for an option, and what it becomes."""

import math

import click

from cnncompress.errors import OptionError
from cnncompress.sizes import byte_size


def speedup(text: str) -> float:
    """Read ``4x``, ``4`` or ``2.5x``.

    Args:
        text: as typed.

    Returns:
        A finite number above 1.

    Raises:
        BadParameter: it is anything else.
    """
    try:
        number = float(text.strip().lower().removesuffix("x").rstrip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a speedup; write for example 4x or 2.5x") from None
    if not math.isfinite(number) or number <= 1:
        raise click.BadParameter(f"{text} is not a speedup above 1x; write for example 4x or 2.5x")
    return number


def speedups(text: str) -> tuple[float, ...]:
    """Read one or several speedups with commas between them, as ``2x,3x,4x``.

    Args:
        text: as typed.

    Returns:
        Each above 1, none twice.

    Raises:
        BadParameter: it is anything else.
    """
    found = tuple(speedup(part) for part in text.split(","))
    if len(set(found)) < len(found):
        raise click.BadParameter(f"{text!r} names a speedup twice")
    return found


def size(text: str) -> int:
    """Read ``2GB``, ``500MB``, ``1GiB`` or a plain number of bytes.

    Args:
        text: as typed.

    Returns:
        Bytes.

    Raises:
        BadParameter: it is anything else.
    """
    try:
        return byte_size(text)
    except OptionError as error:
        raise click.BadParameter(str(error)) from None


def align(text: str) -> int | str:
    """Read ``auto`` or a whole number.

    Args:
        text: as typed.

    Returns:
        ``"auto"``, or at least 1.

    Raises:
        BadParameter: it is anything else.
    """
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"{text!r} is neither auto nor a whole number of at least 1")
    return int(text)


def finetune(text: str) -> tuple[str, int | None]:
    """Read ``upper``, ``all`` or a number of epochs, which means all layers.

    Args:
        text: as typed.

    Returns:
        Which layers, and the epochs if they were given.

    Raises:
        BadParameter: it is anything else.
    """
    if text in {"upper", "all"}:
        return text, None
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(
            f"{text!r} is neither a number of epochs nor upper or all; write for example 3"
        )
    return "all", int(text)


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers with commas between them.

    Args:
        text: as typed.

    Returns:
        At least one, all finite.

    Raises:
        BadParameter: it is anything else.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise click.BadParameter(f"{text!r} is not a list of numbers; write for example 0.5,0.5,0.5")
    return values


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them.

    Args:
        text: as typed.

    Returns:
        At least one, all at least 1.

    Raises:
        BadParameter: it is anything else.
    """
    values = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if min(values) < 1:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers above 0; write for example 1,2")
    return values


def words(text: str) -> tuple[str, ...]:
    """Read words with commas between them.

    Args:
        text: as typed.

    Returns:
        The words without blanks.
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def layer_ranks(text: str) -> tuple[str, tuple[int, ...]]:
    """Read ``LAYER=RANK`` or ``LAYER=RANK,RANK``.

    Args:
        text: as typed.

    Returns:
        The layer's name and its ranks, all at least 1.

    Raises:
        BadParameter: it is anything else.
    """
    layer, _, ranks = text.partition("=")
    values = tuple(int(part) if part.strip().isdecimal() else 0 for part in ranks.split(","))
    if not layer or min(values) < 1:
        raise click.BadParameter(
            f"{text!r} does not give a layer's ranks; write for example features.2=64,32"
        )
    return layer, values


def key_value(text: str) -> tuple[str, bool | int | float | str]:
    """Read ``KEY=VALUE``.

    Args:
        text: as typed.

    Returns:
        The key, and the value as a truth value, a whole number, a number or, failing these, a text.

    Raises:
        BadParameter: it is anything else.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise click.BadParameter(f"{text!r} is not an option of a method; write for example iterations=50")
    return key.strip().replace("-", "_"), _parsed(value.strip())


def _parsed(text: str) -> bool | int | float | str:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
