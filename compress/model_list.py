"""The known networks with what they cost, without loading weights or computing anything."""

from dataclasses import dataclass
from fnmatch import fnmatch

from cnncompress import torchvision_models
from cnncompress.models import available_models
from cnncompress.zoo import elpv_networks, paper_networks, registry
from cnncompress.zoo.costs import layer_costs, network_cost, total


@dataclass(frozen=True, kw_only=True)
class ListedModel:
    """One known network.

    Attributes:
        name: as it is typed.
        input_size: channels, height and width of one image.
        macs: multiply-accumulates for one image in evaluation mode; None where torchvision doesn't tell.
        params: weights and biases, without BatchNorm's; all that there are for torchvision's networks.
        reference: where the network comes from.
    """

    name: str
    input_size: tuple[int, ...]
    macs: int | None
    params: int | None
    reference: str


def listed_models(pattern: str = "*") -> list[ListedModel]:
    """Describe the known networks.

    Args:
        pattern: of names, for example ``"nin*"``.

    Returns:
        Those that match: the demo's, the papers', torchvision's.
    """
    return [_described(name) for name in available_models() if fnmatch(name, pattern)]


def _described(name: str) -> ListedModel:
    if name in paper_networks.FAMILY.names():
        return _of_paper(name)
    return _of_demo(name) if name in elpv_networks.FAMILY.names() else _of_torchvision(name)


def _of_paper(name: str) -> ListedModel:
    entry, cost = registry.entry(name), network_cost(name)
    return ListedModel(
        name=name,
        input_size=entry.input_size,
        macs=cost.macs,
        params=cost.params,
        reference=entry.reference,
    )


def _of_demo(name: str) -> ListedModel:
    preprocess = elpv_networks.preprocess(name)
    height, width = preprocess.crop
    model = elpv_networks.build(name, None).to("meta")
    cost = total(layer_costs(model, (3, height, width)).values())
    return ListedModel(
        name=name,
        input_size=(3, height, width),
        macs=cost.macs,
        params=cost.params,
        reference="the demo: solar cells, functional or defective",
    )


def _of_torchvision(name: str) -> ListedModel:
    macs, params = torchvision_models.published_costs(name)
    return ListedModel(
        name=name,
        input_size=(3, *torchvision_models.preprocess(name).crop),
        macs=macs,
        params=params,
        reference="torchvision",
    )
