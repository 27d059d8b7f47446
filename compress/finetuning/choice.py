"""What fine-tuning trains of a compressed network: which layers, in a copy with weights of its own."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from cnncompress.errors import ModelError, OptionError, unknown_name
from cnncompress.inspect import LayerInfo

WHICH = ("upper", "all")


def trained_layers(which: str, replaced: Sequence[str], layers: Sequence[LayerInfo]) -> tuple[str, ...]:
    """The layers that fine-tuning trains.

    Args:
        which: ``"upper"`` or ``"all"``.
        replaced: names of the replaced layers.
        layers: of the network, in the order of execution.

    Returns:
        Their names.

    Raises:
        OptionError: a name is none of a layer that runs.
        ModelError: there are none, or no layer was replaced.
    """  # noqa: DOC502  # raised by layers_above
    if which not in WHICH:
        raise OptionError(unknown_name("choice of layers", which, WHICH))
    if which == "upper":
        return layers_above(replaced, layers)
    return tuple(layer.name for layer in layers if 0 not in layer.output_size)


def layers_above(replaced: Sequence[str], layers: Sequence[LayerInfo]) -> tuple[str, ...]:
    """The layers that run after the last replaced one.

    Args:
        replaced: names of the replaced layers.
        layers: of the network, in the order of execution.

    Returns:
        Their names.

    Raises:
        OptionError: a name is none of a layer that runs.
        ModelError: there are none, or no layer was replaced.
    """
    ran = [layer.name for layer in layers if 0 not in layer.output_size]
    if not replaced:
        raise ModelError("no layer was replaced, so there is nothing above to fine-tune; replace some first")
    for name in replaced:
        if name not in ran:
            raise OptionError(unknown_name("layer", name, ran))
    last = max(ran.index(name) for name in replaced)
    if last + 1 == len(ran):
        raise ModelError(
            f"{ran[last]}: no layer is left above it to fine-tune; replace fewer layers with --only or "
            "--skip, or train all of them"
        )
    return tuple(ran[last + 1 :])


def reconstructed_layers(chosen: Sequence[str], replaced: Sequence[str]) -> tuple[str, ...]:
    """The layers that a per-layer reconstruction trains: the replaced ones alone.

    Args:
        chosen: layers that may be trained.
        replaced: names of the replaced layers.

    Returns:
        The replaced ones.

    Raises:
        OptionError: one of them must stay.
        ModelError: no layer was replaced.
    """
    if not replaced:
        raise ModelError("no layer was replaced, so there is none to reconstruct; replace some first")
    for name in replaced:
        if name not in chosen:
            raise OptionError(
                f"{name}: distillation of layers trains the replaced layers, but this one is to stay as it "
                "is; let all layers be trained (--layers all), or distil logits or features"
            )
    return tuple(replaced)


def with_own_weights(model: nn.Module, names: Sequence[str]) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A copy that shares the frozen weights and has the trained ones for itself.

    Args:
        model: left as it was.
        names: of the layers to train.

    Returns:
        The copy in evaluation mode, and those of its parameters that are trained, by name; they alone need
        gradients.

    Raises:
        OptionError: the layers have no weights.
        ModelError: a layer shares weights with one that stays.
    """  # noqa: DOC502  # one is raised by what is called
    chosen = {id(p): p for name in names for p in model.get_submodule(name).parameters()}
    if not chosen:
        raise OptionError(f"{', '.join(names)}: these layers have no weights to train")
    _refuse_ties(model, names, chosen)
    memo: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        trains = id(parameter) in chosen
        weight = parameter.detach().clone() if trains else parameter.detach()
        memo[id(parameter)] = nn.Parameter(weight, requires_grad=trains)
    copy = deepcopy(model, memo).eval()
    return copy, {name: parameter for name, parameter in copy.named_parameters() if parameter.requires_grad}


def _refuse_ties(model: nn.Module, names: Sequence[str], chosen: Mapping[int, nn.Parameter]) -> None:
    """Training a weight that a frozen layer uses too would change that layer."""
    inside = tuple(f"{name}." for name in names)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in chosen and not name.startswith(inside):
            trained = next(
                own
                for own, other in model.named_parameters(remove_duplicate=False)
                if other is parameter and own.startswith(inside)
            )
            raise ModelError(
                f"{trained} can't be fine-tuned: it is the same weight as {name} of a layer that must stay; "
                "leave out --finetune, or give each layer a weight of its own"
            )
