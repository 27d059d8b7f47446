"""Networks by name: torchvision's, timm's, the papers', the demo, the user's own factory.

vgg16                   a torchvision classifier
vgg16-elpv              the demo
nin-root-8              one of the papers' networks, its weights random unless a checkpoint is given
timm:resnet50           needs the extra ``timm``
package.module:factory  any callable that returns an nn.Module
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cnncompress import timm_models, torchvision_models
from cnncompress.backbones import build_backbone
from cnncompress.checkpoints import (
    classes_in,
    described_checkpoint,
    load_into,
    read_state_dict,
    require_finite,
    strip_prefixes,
)
from cnncompress.errors import ModelError, OptionError, unknown_name
from cnncompress.events import Reporter, silent
from cnncompress.family import Family
from cnncompress.network import Network, Preprocess
from cnncompress.zoo import elpv_networks, paper_networks

_LISTED = (elpv_networks.FAMILY, paper_networks.FAMILY, torchvision_models.FAMILY)
_FAMILIES = {family.kind: family for family in (*_LISTED, timm_models.FAMILY)}

# Where known architectures keep what comes before pooling and classifier.
_FEATURES = ("features", "trunk_output", "layer4", "conv5", "inception5b", "Mixed_7c")


def load_network(
    name: str,
    *,
    weights: str = "default",
    checkpoint: Path | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    report: Reporter = silent,
) -> Network:
    """Load a trained network and what is needed to feed it.

    Args:
        name: see above.
        weights: ``"default"``, ``"none"`` for random ones, ``"backbone"`` for the convolution stack of
            vgg16 or alexnet, or an entry of torchvision's weights, for example ``"IMAGENET1K_V2"``. The
            papers' networks have none, so their default is ``"none"``.
        checkpoint: file of weights to use instead, see `read_state_dict`.
        num_classes: outputs of a network with random weights; a checkpoint tells its own.
        input_size: height and width of the input, in pixels; the weights' own by default.
        mean: per channel, on the [0, 1] scale; the weights' own by default.
        std: per channel, on the [0, 1] scale; the weights' own by default.
        seed: of random weights.
        report: receives the progress of downloads.

    Returns:
        The network in eval mode, its weights finite.

    Raises:
        ModelError: there is no such network, or its weights can't be had or don't fit.
        OptionError: an option is out of its range or doesn't go with another.
        DownloadError: weights can't be fetched.
        NumericsError: a weight is NaN or infinite.
    """  # noqa: DOC502  # raised by what is called
    if checkpoint is not None and weights != "default":
        raise OptionError(f"give a checkpoint or weights, not both, got {checkpoint} and {weights!r}")
    family, bare = _family(name)
    if family is not None and not family.trained and checkpoint is None and weights == "default":
        weights = "none"
    if num_classes is not None and (weights != "none" or num_classes < 1):
        raise OptionError(f"num_classes needs weights 'none' and must be at least 1, got {num_classes}")
    if family is None:
        network = _from_factory(name, checkpoint)
    elif checkpoint is not None:
        network = _from_checkpoint(family, bare, checkpoint)
    elif weights == "none":
        network = _random(family, bare, num_classes, seed)
    else:
        network = family.pretrained(bare, weights, report)
    require_finite(network.model, name)
    network.model.eval()
    return replace(
        network,
        name=name,
        features=network.features or _feature_module(network.model),
        preprocess=override(network.preprocess, input_size=input_size, mean=mean, std=std),
    )


def rebuild(source: Mapping[str, Any]) -> nn.Module:
    """Build a network's architecture again from `Network.source`; nothing is downloaded.

    Args:
        source: the recipe.

    Returns:
        The network in eval mode, its weights random.

    Raises:
        ModelError: the recipe names the user's own code, or isn't one of ours.
    """
    kind, name, classes = source.get("kind"), source.get("name"), source.get("num_classes")
    if kind in {"object", "factory"}:
        origin = source.get("factory") or "a Python object"
        raise ModelError(
            f"the network was {origin}; such code only runs when you call it: pass the model yourself"
        )
    family = _FAMILIES.get(str(kind))
    if family is None or not isinstance(name, str) or not (classes is None or type(classes) is int):
        raise ModelError(f"not a recipe for a network: {dict(source)}")
    if source.get("head") == "none":
        return build_backbone(name)
    return _seeded(family.build, name, classes).eval()


def available_models() -> list[str]:
    """Names that `load_network` knows; ``timm:NAME`` and ``module:factory`` come on top.

    Returns:
        The demo's names, then the papers', then torchvision's.
    """
    return [name for family in _LISTED for name in family.names()]


def override(
    preprocess: Preprocess,
    *,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocess:
    """Replace parts of a preprocessing.

    Args:
        preprocess: what to start from.
        input_size: new height and width, in pixels; the size before the crop keeps its proportion.
        mean: new mean per channel.
        std: new deviation per channel.

    Returns:
        The new preprocessing.

    Raises:
        OptionError: a size or deviation isn't positive, or mean and deviation differ in length.
    """
    if input_size is not None:
        if input_size < 1:
            raise OptionError(f"input_size must be at least 1 pixel, got {input_size}")
        resize = preprocess.resize and round(preprocess.resize * input_size / min(preprocess.crop))
        preprocess = replace(preprocess, resize=resize, crop=(input_size, input_size))
    means = preprocess.mean if mean is None else tuple(mean)
    stds = preprocess.std if std is None else tuple(std)
    if len(means) != len(stds) or not all(value > 0 for value in stds):
        raise OptionError(
            f"mean and std must have one value per channel, std above 0, got {means} and {stds}"
        )
    return replace(preprocess, mean=means, std=stds)


def _family(name: str) -> tuple[Family | None, str]:
    if name.startswith("timm:"):
        return timm_models.FAMILY, name.removeprefix("timm:")
    if ":" in name:
        return None, name
    for family in _LISTED:
        if name in family.names():
            return family, name
    raise ModelError(unknown_name("model", name, available_models()))


def _random(family: Family, name: str, num_classes: int | None, seed: int) -> Network:
    notes = ["the weights are random: costs and speed are real, accuracy is not"]
    if not family.trained:
        remedy = f"`cnncompress train {name}` makes some, --checkpoint FILE takes them"
        notes.append(f"no trained weights of {name} are published: {remedy}")
    return Network(
        name=name,
        model=_seeded(family.build, name, num_classes, seed),
        preprocess=family.preprocess(name),
        source={"kind": family.kind, "name": name, "num_classes": num_classes},
        weights=f"random (seed {seed})",
        notes=tuple(notes),
    )


def _from_checkpoint(family: Family, name: str, file: Path) -> Network:
    state = read_state_dict(file)
    model = _seeded(family.build, name, None)
    state = strip_prefixes(state, model)
    classes = classes_in(state, model)
    if classes is not None:
        model = _seeded(family.build, name, classes)
    load_into(model, state, f"checkpoint {file}")
    return Network(
        name=name,
        model=model,
        preprocess=family.preprocess(name),
        source={"kind": family.kind, "name": name, "num_classes": classes},
        weights=described_checkpoint(file),
    )


def _from_factory(name: str, checkpoint: Path | None) -> Network:
    made = _call_factory(name)
    model = made.model if isinstance(made, Network) else made
    if checkpoint is not None:
        load_into(model, strip_prefixes(read_state_dict(checkpoint), model), f"checkpoint {checkpoint}")
    known: dict[str, Any] = {
        "name": name,
        "source": {"kind": "factory", "factory": name},
        "weights": described_checkpoint(checkpoint) if checkpoint else "the factory's own",
    }
    if isinstance(made, Network):
        return replace(made, **known)
    channels = next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)
    plain = Preprocess() if channels == 3 else Preprocess(mean=(0.0,) * channels, std=(1.0,) * channels)
    return Network(
        model=model,
        preprocess=plain,
        **known,
        notes=(f"{name} doesn't say how its input is prepared: ImageNet's way is assumed",),
    )


def _call_factory(name: str) -> nn.Module | Network:
    module, _, path = name.partition(":")
    try:
        factory = reduce(getattr, path.split("."), import_module(module))
    except Exception as error:  # the user's module may raise anything
        raise ModelError(
            f"{name}: can't be imported ({type(error).__name__}: {_first_line(error)})"
        ) from error
    if not callable(factory):
        raise ModelError(
            f"{name}: expected a callable that returns a torch.nn.Module or a cnncompress.Network, "
            f"found {type(factory).__name__}"
        )
    try:
        model = factory()
    except Exception as error:
        raise ModelError(f"{name}() failed ({type(error).__name__}: {_first_line(error)})") from error
    if not isinstance(model, nn.Module | Network):
        raise ModelError(f"{name}() must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _seeded(
    build: Callable[[str, int | None], nn.Module], name: str, num_classes: int | None, seed: int = 0
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it was
        torch.manual_seed(seed)
        return build(name, num_classes)


def _feature_module(model: nn.Module) -> str | None:
    children = dict(model.named_children())
    return next((name for name in _FEATURES if name in children), None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
