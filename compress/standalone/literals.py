"""Values and names as Python source that can't do more than name them."""

import builtins
import keyword
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

RESERVED = (
    frozenset(keyword.kwlist)
    | frozenset(dir(builtins))
    | frozenset(
        {"torch", "nn", "math", "operator", "self", "Path", "Image", "Tensor", "OrderedDict", "namedtuple"}
    )
)
"""Names that have a meaning in a generated file; those that it defines come on top."""


class UnwritableError(Exception):
    """A value or operation that has no form in plain torch source; the message says which."""


def literal(value: Any) -> str:
    """A value as source.

    Args:
        value: a number, string, None, Ellipsis, torch type, or a nesting of tuples, lists, slices and
            dictionaries of such.

    Returns:
        An expression that evaluates to it, whatever its strings hold.

    Raises:
        UnwritableError: it is of another type.
    """
    kind = type(value)
    if value is None or kind in {bool, int, str, bytes}:
        return repr(value)
    if value is Ellipsis:
        return "..."
    if kind is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if kind is torch.device:
        return f"torch.device({str(value)!r})"
    if kind is slice:
        return f"slice({literal(value.start)}, {literal(value.stop)}, {literal(value.step)})"
    if kind is list:
        return f"[{', '.join(map(literal, value))}]"
    if kind in {tuple, torch.Size}:
        return tuple_of([literal(item) for item in value])
    if kind in {dict, OrderedDict}:
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    raise UnwritableError(f"a {kind.__module__}.{kind.__qualname__} can't be written as source")


def tuple_of(items: Iterable[str]) -> str:
    """Expressions as a tuple.

    Args:
        items: source of each.

    Returns:
        Source of the tuple.
    """
    parts = list(items)
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def is_plain_name(name: str) -> bool:
    """Whether a name may stand behind ``self.`` or before ``=`` as it is.

    Args:
        name: of a submodule, a buffer or a parameter.

    Returns:
        False for keywords, names that Python would change (it normalises letters beyond ASCII and prefixes
        names with two underscores) and everything that isn't an identifier.
    """
    return (
        name.isascii() and name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("__")
    )


def as_name(text: str, fallback: str) -> str:
    """A variable's or class's name that resembles a text.

    Args:
        text: anything.
        fallback: taken where nothing of the text can be.

    Returns:
        An identifier that isn't reserved.
    """
    name = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")
    if not name or not name[0].isalpha() or len(name) > 40:
        return fallback
    return f"{name}_" if name in RESERVED or (name.startswith("F") and len(name) == 1) else name


def member(owner: str, module: nn.Module | None, name: str) -> str:
    """How a generated file reaches a part of a module.

    Args:
        owner: source of the module.
        module: the module, None if it isn't known.
        name: of the part.

    Returns:
        Source of the part: by index in sequences and lists, by key in dictionaries, else by attribute.
    """
    if isinstance(module, nn.Sequential | nn.ModuleList) and name in module._modules:
        names = list(module._modules)
        if names == [str(position) for position in range(len(names))] and is_container(module):
            return f"{owner}[{name}]"
    if type(module) is nn.ModuleDict and name in module._modules:
        return f"{owner}[{name!r}]"
    return f"{owner}.{name}" if is_plain_name(name) else f"getattr({owner}, {name!r})"


def path_to(root: nn.Module, path: str) -> str:
    """How a method of a generated class reaches something below it.

    Args:
        root: the module that the class is generated for.
        path: dotted name from there.

    Returns:
        Source that starts with ``self``.
    """
    here: Any = root
    source = "self"
    for name in path.split(".") if path else ():
        source = member(source, here if isinstance(here, nn.Module) else None, name)
        here = getattr(here, name, None)
    return source


def is_container(module: nn.Module) -> bool:
    """Whether a module is written as torch's Sequential, ModuleList or ModuleDict.

    Args:
        module: any.

    Returns:
        True for these, and for subclasses of Sequential that add nothing but a constructor.
    """
    if module._parameters or module._buffers or "forward" in vars(module):
        return False
    return type(module) in {nn.ModuleList, nn.ModuleDict} or (
        isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    )
