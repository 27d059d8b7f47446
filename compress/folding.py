"""Folds BatchNorm layers into the convolutions before them, exactly, on a copy."""

from collections.abc import Iterable
from copy import deepcopy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from cnncompress.inspect import LayerInfo


def foldable(layers: Iterable[LayerInfo]) -> tuple[tuple[str, str], ...]:
    """Pairs of a layer and the BatchNorm that alone reads it.

    Args:
        layers: from `cnncompress.inspect.inspect_layers`.

    Returns:
        Names of layers and BatchNorms, in the order of execution.
    """
    return tuple((layer.name, layer.batchnorm) for layer in layers if layer.eligible and layer.batchnorm)


def fold_batchnorms(model: nn.Module, pairs: Iterable[tuple[str, str]]) -> nn.Module:
    """A copy of the network with each pair merged into its layer.

    Args:
        model: left as it was.
        pairs: names of layers and BatchNorms.

    Returns:
        A copy in evaluation mode; an identity stands where a BatchNorm was.
    """
    copy = deepcopy(model).eval()
    for layer_name, norm_name in pairs:
        layer, norm = copy.get_submodule(layer_name), copy.get_submodule(norm_name)
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            copy.set_submodule(layer_name, fuse_conv_bn_eval(layer, norm))
        elif isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            copy.set_submodule(layer_name, fuse_linear_bn_eval(layer, norm))
        else:
            continue
        copy.set_submodule(norm_name, nn.Identity())
    return copy


def copy_sharing_weights(model: nn.Module) -> nn.Module:
    """A copy whose layers can be replaced while its weights stay those of the original.

    A classifier of half a gigabyte isn't worth a second copy when only convolutions change.

    Args:
        model: left as it was, as long as nobody writes into the copy's weights.

    Returns:
        A copy with modules of its own.
    """
    weights = (*model.parameters(), *model.buffers())
    return deepcopy(model, {id(weight): weight for weight in weights})
