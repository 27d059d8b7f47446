"""Merges permutations of channels into the weights of neighbouring layers, where that is safe.

A `ChannelOrder` costs a copy of a feature map. It is pushed forward, or else pulled backward, through
operations that treat all channels alike, until it meets a layer whose weights can be permuted instead.
Whatever else reads a value on the way would see another order: there the permutation stays.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnncompress.channelwise import flattens, is_channelwise, is_elementwise, source
from cnncompress.errors import ModelError
from cnncompress.layers import ChannelOrder
from cnncompress.traced import TracedNetwork, trace

_CHANNEL_TENSORS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.BatchNorm2d: ("weight", "bias", "running_mean", "running_var"),
    nn.Conv2d: ("weight", "bias"),
}


def absorb_orders(model: nn.Module, *, pinned: str | None = None) -> tuple[str, ...]:
    """Merge permutations into neighbouring weights, in place.

    Weights are replaced, never written into, so networks that share them stay as they were. A network
    that can't be traced is left alone.

    Args:
        model: a network of the caller's own, for inputs of which the first axis is the batch; its outputs
            stay equal to rounding.
        pinned: name of a submodule whose output keeps its channel order, None for none.

    Returns:
        Names of the permutations in whose place an identity stands now, in the order of execution.
    """
    network = trace(model, pinned)
    if network is None:
        return ()
    # in the order of execution, for one may be merged into the next
    absorbed = tuple(str(node.target) for node in _orders(network) if _absorb(network, node))
    without_orders(model, absorbed)
    return absorbed


def without_orders(model: nn.Module, names: Iterable[str]) -> None:
    """Put an identity in the place of each named permutation.

    Args:
        model: changed in place.
        names: from `absorb_orders`.

    Raises:
        ModelError: the network has no such permutation.
    """
    modules = dict(model.named_modules())
    for name in names:
        module = modules.get(name)
        if not isinstance(module, ChannelOrder):
            found = "nothing" if module is None else f"a {type(module).__name__}"
            raise ModelError(
                f"{name}: a ChannelOrder was absorbed here, but this network has {found}; "
                "use the plan that was made for it"
            )
        model.set_submodule(name, nn.Identity().train(module.training))


@dataclass(frozen=True)
class _Edit:
    """A new tensor for a module."""

    module: nn.Module
    name: str
    tensor: Tensor


def _orders(network: TracedNetwork) -> list[fx.Node]:
    return [node for node in network.graph.nodes if isinstance(network.editable(node), ChannelOrder)]


def _absorb(network: TracedNetwork, node: fx.Node) -> bool:
    """Take one permutation out if it changes nothing or a neighbour can do its work."""
    module: ChannelOrder = network.editable(node)
    index, identity = module.order.cpu(), torch.arange(len(module.order))
    if module.dim not in {1, -1} or not torch.equal(index.sort().values, identity):
        return False
    if not network.can_share(node):
        return False
    edits: list[_Edit] | None = []
    if not torch.equal(index, identity):
        edits = _pushed(network, node, index, maps=module.dim == 1)
        if edits is None:
            edits = _pulled(network, node, index, maps=module.dim == 1)
    if edits is None:
        return False
    for edit in edits:
        setattr(edit.module, edit.name, edit.tensor)
    network.remove(node)
    return True


# In both functions ``maps`` says that channels are the second axis of a feature map; else they are the
# last axis of whatever it is.


def _pushed(network: TracedNetwork, node: fx.Node, index: Tensor, *, maps: bool) -> list[_Edit] | None:
    """What to replace so that the operations after a permutation do without it, None if impossible."""
    edits: list[_Edit] = []
    flat = False
    while (reader := network.only_reader(node)) is not None:
        module = network.editable(reader)
        if _mixes(module, nn.Conv2d if maps else nn.Linear):
            spread = _spread(index, module.weight.shape[1])
            return edits + _permuted(module, ("weight",), 1, spread.argsort())
        if isinstance(module, ChannelOrder) and (flat or maps == (module.dim == 1)):
            second = module.order
            return [*edits, _Edit(module, "order", _spread(index, len(second)).to(second.device)[second])]
        if maps and _separates(module):
            edits += _permuted(module, _CHANNEL_TENSORS[type(module)], 0, index.argsort())
        elif maps and flattens(reader, network.modules):
            maps, flat = False, True
        elif not _passes(network, reader, maps=maps):
            return None
        node = reader
    return None


def _pulled(network: TracedNetwork, node: fx.Node, index: Tensor, *, maps: bool) -> list[_Edit] | None:
    """What to replace so that the operations before a permutation give its result, None if impossible."""
    edits: list[_Edit] = []
    while (before := source(node)) is not None and network.only_reader(before) is node:
        module = network.editable(before)
        if _mixes(module, nn.Conv2d if maps else nn.Linear):
            return edits + _permuted(module, ("weight", "bias"), 0, index)
        if maps and _separates(module):
            edits += _permuted(module, _CHANNEL_TENSORS[type(module)], 0, index)
        elif not _passes(network, before, maps=maps):
            return None
        node = before
    return None


def _passes(network: TracedNetwork, node: fx.Node, *, maps: bool) -> bool:
    return (is_channelwise if maps else is_elementwise)(node, network.modules)


def _mixes(module: Any, kind: type[nn.Module]) -> bool:
    """Whether each output channel of a layer depends on all of its inputs."""
    return type(module) is kind and getattr(module, "groups", 1) == 1


def _separates(module: Any) -> bool:
    """Whether a layer has weights but keeps each channel to itself."""
    if type(module) is nn.Conv2d:
        return bool(1 < module.groups == module.in_channels == module.out_channels)
    return type(module) is nn.BatchNorm2d


def _spread(index: Tensor, entries: int) -> Tensor:
    """The permutation of a flattened feature map: each channel is a run of neighbouring entries."""
    size = entries // len(index)
    return (index[:, None] * size + torch.arange(size)).flatten()


def _permuted(module: nn.Module, names: Iterable[str], axis: int, index: Tensor) -> list[_Edit]:
    """Edits that permute tensors of a module along one axis; absent ones are passed over."""
    edits = []
    for name in names:
        old: Tensor | None = getattr(module, name)
        if old is None:
            continue
        with torch.no_grad():
            picked = old.index_select(axis, index.to(old.device))
            new = torch.empty_like(old).copy_(picked)  # in the old one's memory format
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, old.requires_grad)
        edits.append(_Edit(module, name, new))
    return edits
