"""How many filter groups the convolutions of a network have along its depth."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from cnncompress.errors import OptionError, unknown_name

_RULES: Mapping[str, Callable[[int], int]] = MappingProxyType(
    {
        "root": lambda groups: max(1, groups // 2),
        "column": lambda groups: groups,
        "tree": lambda groups: 2 * groups,
    }
)
KINDS = tuple(_RULES)


def schedule(kind: str, n: int, stages: int) -> tuple[int, ...]:
    """Groups at each resolution (Ioannou et al., Deep Roots, section 4.2).

    The first convolution of a network, on colours, isn't grouped and not counted among the stages.

    Args:
        kind: ``"root"`` halves the groups from stage to stage down to 1, ``"column"`` keeps them,
            ``"tree"`` doubles them.
        n: groups of the first stage.
        stages: how many resolutions there are.

    Returns:
        One number of groups for each stage.

    Raises:
        OptionError: there is no such kind, a number isn't positive, or an odd number of groups above 1 would
            have to be halved.
    """
    if kind not in _RULES:
        raise OptionError(unknown_name("schedule", kind, KINDS))
    if n < 1 or stages < 1:
        raise OptionError(f"{kind}: groups and stages must be at least 1, got {n} groups and {stages} stages")
    degrees = [n]
    while len(degrees) < stages:
        if kind == "root" and degrees[-1] % 2 and degrees[-1] > 1:
            step = 2 ** (stages - 1)
            raise OptionError(
                f"root: {n} groups can't be halved over {stages} stages, {degrees[-1]} is odd; "
                f"take a power of two or a multiple of {step}"
            )
        degrees.append(_RULES[kind](degrees[-1]))
    return tuple(degrees)
