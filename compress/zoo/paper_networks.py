"""The papers' networks as a source of networks: random weights or the user's own."""

from cnncompress.errors import ModelError, unknown_name
from cnncompress.events import Reporter
from cnncompress.family import Family
from cnncompress.network import Network, Preprocess
from cnncompress.zoo import registry


def preprocess(name: str) -> Preprocess:
    """How a network's images are prepared.

    Args:
        name: of the register.

    Returns:
        The preprocessing.
    """
    return registry.entry(name).preprocess


def pretrained(name: str, weights: str, report: Reporter) -> Network:
    """Refuse, as the papers' weights aren't published.

    Args:
        name: of the register.
        weights: a name of weights.
        report: not needed.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"{unknown_name(f'weights of {name}', weights, ('none',))}; "
        "for trained ones give --checkpoint FILE, `cnncompress train` makes it"
    )


FAMILY = Family(
    kind="paper",
    names=registry.names,
    build=registry.build,
    pretrained=pretrained,
    preprocess=preprocess,
    trained=False,
)
