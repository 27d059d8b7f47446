"""Which method replaces which layer."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from cnncompress.decompositions import Decomposition, fallback_of
from cnncompress.errors import ModelError, OptionError
from cnncompress.inspect import LayerInfo


def choose_menus(
    layers: Sequence[LayerInfo],
    methods: Sequence[Decomposition],
    *,
    special: Mapping[str, Decomposition] | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    include_linear: bool = False,
) -> tuple[dict[str, tuple[Decomposition, ...]], dict[str, str]]:
    """Which methods each layer may choose from, and why the other layers stay.

    Args:
        layers: of the network, in the order of execution.
        methods: to choose from, the preferred one first; none leaves all layers that have no special method.
        special: see `choose_methods`.
        skip: see `choose_methods`.
        only: see `choose_methods`.
        include_linear: see `choose_methods`.

    Returns:
        One or more methods for each candidate, and a reason for every other layer.
    """
    menus: dict[str, list[Decomposition]] = {}
    reasons: dict[str, str] = {}
    problems: list[ModelError] = []
    for method in methods or (None,):
        try:
            chosen, others = choose_methods(
                layers, method, special=special, skip=skip, only=only, include_linear=include_linear
            )
        except ModelError as problem:
            problems.append(problem)  # another one may fit
            continue
        reasons = {**others, **reasons}
        for name, fitting in chosen.items():
            if fitting not in menus.setdefault(name, []):
                menus[name].append(fitting)
    if not menus:
        raise problems[0]
    found = {layer.name: tuple(menus[layer.name]) for layer in layers if layer.name in menus}
    return found, {name: reason for name, reason in reasons.items() if name not in found}


def choose_methods(
    layers: Sequence[LayerInfo],
    method: Decomposition | None,
    *,
    special: Mapping[str, Decomposition] | None = None,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    include_linear: bool = False,
) -> tuple[dict[str, Decomposition], dict[str, str]]:
    """Which layers may be replaced and by what, and why the others stay.

    Args:
        layers: of the network, in the order of execution.
        method: asked for; where it doesn't fit, its fallback is tried. None leaves all layers that have no
            special method.
        special: methods for layers whose names match a pattern; the first pattern that matches counts.
        skip: patterns of layer names that stay.
        only: patterns of the layer names that may change; all if empty.
        include_linear: whether linear layers may change.

    Returns:
        A method for each candidate, and a reason for every other layer.

    Raises:
        ModelError: nothing is left to replace, or a layer that was named can't be replaced so.
        OptionError: a pattern matches no layer, or wishes contradict each other.
    """
    special = dict(special or {})
    _check_patterns(layers, (*skip, *only, *special))
    chosen: dict[str, Decomposition] = {}
    reasons: dict[str, str] = {}
    refused: list[str] = []
    for layer in layers:
        pattern = next((p for p in special if fnmatchcase(layer.name, p)), None)
        wanted = method if pattern is None else special[pattern]
        named = pattern is not None or any(fnmatchcase(layer.name, p) for p in only)
        if any(fnmatchcase(layer.name, p) for p in skip):
            reasons[layer.name] = "skipped as asked"
        elif pattern is not None and only and not any(fnmatchcase(layer.name, p) for p in only):
            raise OptionError(
                f"{layer.name}: it has a method of its own, but is not among the only layers to touch"
            )
        elif wanted is None or (only and not named):
            reasons[layer.name] = "not among the layers asked for"
        elif layer.kind == "linear" and not (include_linear or named) and layer.eligible:
            reasons[layer.name] = "a linear layer, outside the convolutions' budget"
        else:
            fitting, reason = _suitable(layer, wanted, named=named)
            if fitting is None:
                reasons[layer.name] = reason
                refused.append(f"{layer.name}: {wanted.name}: {reason}")
                if layer.name in (*special, *only):
                    raise ModelError(refused[-1])
            else:
                chosen[layer.name] = fitting
    if not chosen:
        why = "; ".join(refused[:3]) or "no layer was left to it"
        name = method.name if method is not None else "the methods given"
        raise ModelError(f"no layer of this network can be replaced by {name} ({why})")
    return chosen, reasons


def _check_patterns(layers: Sequence[LayerInfo], patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            known = ", ".join(layer.name for layer in layers[:8])
            raise OptionError(f"no layer is named like {pattern!r}; layers: {known}, …")


def _suitable(layer: LayerInfo, method: Decomposition, *, named: bool) -> tuple[Decomposition | None, str]:
    """The method that shall replace a layer, or why it stays."""
    if not layer.eligible:
        return None, layer.reason
    if not named and (reason := _not_worthwhile(layer)):
        return None, reason
    return _fitting(layer, method)


def _not_worthwhile(layer: LayerInfo) -> str:
    if layer.in_channels <= 3 and layer.patch_size < layer.out_channels:
        return f"patches of {layer.patch_size} entries for {layer.out_channels} outputs: no rank to save"
    return ""


def _fitting(layer: LayerInfo, method: Decomposition) -> tuple[Decomposition | None, str]:
    """The method or its fallback, whichever fits first, or the method's obstacle."""
    obstacle = method.obstacle(layer)
    if not obstacle:
        return method, ""
    other = fallback_of(method)
    return (None, obstacle) if other is None or other.obstacle(layer) else (other, "")
