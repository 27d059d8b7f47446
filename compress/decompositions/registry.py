"""The register of all decompositions, and the options by which users describe one."""

from collections.abc import Callable, Mapping
from dataclasses import Field, asdict, field, fields
from typing import Any, TypeVar

from cnncompress.decompositions.base import Decomposition, Ranks
from cnncompress.errors import ModelError, OptionError, RankError, unknown_name
from cnncompress.inspect import LayerInfo

_REGISTER: dict[str, Callable[..., Decomposition]] = {}
_ALIASES: dict[str, str] = {}

Method = TypeVar("Method", bound=Callable[..., Decomposition])


def register(method: Method) -> Method:
    """Class decorator that makes a decomposition known by its ``name``, and by its ``aliases`` if it has any.

    Args:
        method: a frozen dataclass that follows `Decomposition`.

    Returns:
        The class, unchanged.

    Raises:
        OptionError: the name is taken.
    """
    name: str = method.name  # type: ignore[attr-defined]  # the protocol's class variable
    aliases: tuple[str, ...] = getattr(method, "aliases", ())
    for taken in (name, *aliases):
        if taken in _REGISTER or taken in _ALIASES:
            raise OptionError(f"a decomposition named {taken!r} is registered already; choose another name")
    _REGISTER[name] = method
    _ALIASES.update(dict.fromkeys(aliases, name))
    return method


def available() -> tuple[str, ...]:
    """Names of all registered decompositions.

    Returns:
        Sorted names.
    """
    return tuple(sorted(_REGISTER))


def option(default: Any, *, symbol: str | None = None, least: int | None = None) -> Any:
    """A dataclass field whose values are limited, or that users may also call by the paper's letter.

    Args:
        default: of the field.
        symbol: the letter, for example ``"G"``.
        least: smallest value of a number.

    Returns:
        The field.
    """
    known = {"symbol": symbol, "least": least}
    return field(default=default, metadata={key: value for key, value in known.items() if value is not None})


def check_options(method: Decomposition) -> None:
    """Refuse numbers that are no whole numbers or too small; called as soon as a method is described.

    Args:
        method: the decomposition.

    Raises:
        OptionError: an option is out of its range.
    """
    for known in fields(method):  # type: ignore[arg-type]  # always a dataclass
        value, least = getattr(method, known.name), known.metadata.get("least")
        if least is None or value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            symbol = known.metadata.get("symbol")
            name = f"{known.name} ({symbol})" if symbol else known.name
            raise OptionError(
                f"{method.name}: option {name} is a whole number of at least {least}, got {value!r}"
            )


def make(name: str, options: Mapping[str, Any] | None = None) -> Decomposition:
    """A decomposition by name.

    Args:
        name: one of `available`.
        options: values for the dataclass's fields, by name or by the paper's letter.

    Returns:
        The decomposition.

    Raises:
        OptionError: the name or an option is unknown, or a value doesn't fit.
    """
    name = _ALIASES.get(name, name)
    if name not in _REGISTER:
        raise OptionError(unknown_name("method", name, _REGISTER))
    known = _options(name)
    symbols = {str(known[key].metadata["symbol"]): key for key in known if "symbol" in known[key].metadata}
    given: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in (options or {}).items():
        resolved = symbols.get(key, key)
        if resolved not in known:
            raise OptionError(f"{name}: {unknown_name('option', key, [*known, *symbols])}")
        if resolved in given:
            raise OptionError(
                f"{name}: option {resolved} is given twice, as {spelled[resolved]} and as {key}"
            )
        _check(name, known[resolved], value)
        given[resolved], spelled[resolved] = value, key
    return _REGISTER[name](**given)


def _options(name: str) -> dict[str, Field[Any]]:
    return {known.name: known for known in fields(_REGISTER[name])}  # type: ignore[arg-type]  # always a dataclass


def _check(name: str, known: Field[Any], value: Any) -> None:
    """Refuse truth values of the wrong kind."""
    if type(known.default) is bool and not isinstance(value, bool):
        raise OptionError(f"{name}: option {known.name} is true or false, got {value!r}")


def check_ranks(method: Decomposition, layer: LayerInfo, ranks: Ranks) -> None:
    """Refuse ranks out of range.

    Args:
        method: the decomposition.
        layer: the layer that it shall replace.
        ranks: one for each place between two factors.

    Raises:
        ModelError: the method doesn't fit the layer.
        OptionError: the number of ranks is wrong, or they don't go together.
        RankError: a rank is out of its range.
    """
    obstacle = method.obstacle(layer)
    if obstacle:
        raise ModelError(f"{layer.name}: {method.name} can't replace this layer: {obstacle}")
    full = method.full_ranks(layer)
    if len(ranks) != len(full):
        names, got = ", ".join(method.rank_names), ", ".join(map(str, ranks))
        raise OptionError(f"{layer.name}: {method.name} takes {len(full)} ranks ({names}), got {got}")
    for name, rank, limit in zip(method.rank_names, ranks, full, strict=True):
        if not 1 <= rank <= limit:
            raise RankError(layer.name, rank, limit, name)
    reason = method.unfit(layer, ranks)
    if reason:
        raise OptionError(f"{layer.name}: {method.name}: {reason}")


def fallback_of(method: Decomposition) -> Decomposition | None:
    """The method that stands in where this one doesn't fit, with the options that both know.

    Args:
        method: a decomposition.

    Returns:
        Its fallback, or None if it has none.
    """
    if method.fallback is None:
        return None
    known = _options(method.fallback)
    return make(method.fallback, {key: value for key, value in options_of(method).items() if key in known})


def knows_option(name: str, key: str) -> bool:
    """Whether a method has an option.

    Args:
        name: of the method.
        key: of the option.

    Returns:
        Whether it has one of that name.
    """
    return _ALIASES.get(name, name) in _REGISTER and key in _options(_ALIASES.get(name, name))


def options_of(method: Decomposition) -> dict[str, Any]:
    """The options of a decomposition.

    Args:
        method: a decomposition.

    Returns:
        Values of its fields.
    """
    return asdict(method)  # type: ignore[call-overload,no-any-return]  # every method is a dataclass
