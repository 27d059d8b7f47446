"""torchvision's classifiers, with fallbacks for machines that can't reach its weights."""

import pickle
import re
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from torch import nn
from torchvision import models

from cnncompress.backbones import ARCHIVE, BACKBONES, backbone_weights, build_backbone
from cnncompress.downloads import download, is_reachable
from cnncompress.errors import DownloadError, ModelError, unknown_name
from cnncompress.events import Reporter
from cnncompress.family import Family
from cnncompress.network import Network, Preprocess

# Auxiliary heads serve training; the transform belongs to the published weights.
_INCEPTION = {"aux_logits": False, "init_weights": False, "transform_input": True}
_ARGUMENTS: dict[str, dict[str, Any]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def names() -> list[str]:
    """The classifiers torchvision knows.

    Returns:
        Names for `build`.
    """
    return cast("list[str]", models.list_models(module=models))


def build(name: str, num_classes: int | None) -> nn.Module:
    """A network with random weights.

    Args:
        name: one of `names`.
        num_classes: outputs; None for ImageNet's 1000.

    Returns:
        The network.

    Raises:
        ModelError: torchvision has no such classifier.
    """
    if name not in names():
        raise ModelError(unknown_name("model", name, names()))
    classes = {} if num_classes is None else {"num_classes": num_classes}
    return cast(nn.Module, models.get_model(name, weights=None, **_ARGUMENTS.get(name, {}), **classes))


def preprocess(name: str) -> Preprocess:
    """The preprocessing of a name's default weights.

    Args:
        name: one of `names`.

    Returns:
        The preprocessing.
    """
    return _preprocess(_entry(name, "default"))


def published_costs(name: str) -> tuple[int | None, int | None]:
    """What torchvision says that a network costs at its weights' input size.

    Args:
        name: one of `names`.

    Returns:
        Multiply-accumulates of one image, rounded to a million, and parameters, BatchNorm's included; None
        where it doesn't say.
    """
    meta = _entry(name, "default").meta
    billions = meta.get("_ops")
    return None if billions is None else round(billions * 1e9), meta.get("num_params")


def pretrained(name: str, weights: str, report: Reporter) -> Network:
    """Load a network with torchvision's weights, or its convolution stack where they can't be had.

    Args:
        name: one of `names`.
        weights: ``"default"``, ``"backbone"`` or an entry of the network's weights.
        report: receives progress and notes.

    Returns:
        The network.

    Raises:
        ModelError: no such weights, or they can't be downloaded or read.
        DownloadError: the convolution stack can't be downloaded.
    """  # noqa: DOC502  # raised by backbone_weights
    if weights == "backbone":
        return _backbone(name, "only the backbone was asked for", report)
    entry = _entry(name, weights)
    file = Path(torch.hub.get_dir()) / "checkpoints" / urlsplit(entry.url).path.rpartition("/")[2]
    problem = None if file.exists() else _fetch(entry.url, file, report)
    if problem is None:
        return _classifier(name, entry, file)
    if name in BACKBONES and weights == "default":
        return _backbone(name, f"{problem}; the whole network is used once {file} exists", report)
    raise ModelError(
        f"{name}: {problem}; put that file into {file.parent} (TORCH_HOME chooses another folder), "
        "or give --checkpoint FILE or --weights none"
    )


def _entry(name: str, weights: str) -> Any:
    entries = models.get_model_weights(name)
    if weights == "default":
        return entries.DEFAULT
    if weights in entries.__members__:
        return entries[weights]
    known = ["default", "none", *entries.__members__, *(["backbone"] if name in BACKBONES else [])]
    raise ModelError(unknown_name(f"weights of {name}", weights, known))


def _fetch(url: str, file: Path, report: Reporter) -> str | None:
    # Into torch's own cache; returns the problem in words if that fails.
    if not is_reachable(url):
        return f"{url} can't be reached"
    checksum = re.search(r"-([0-9a-f]{8,})\.", file.name)  # torch hub's convention
    try:
        download(url, file, sha256=checksum[1] if checksum else "", report=report)
    except DownloadError as error:
        return str(error)
    return None


def _classifier(name: str, entry: Any, file: Path) -> Network:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        why = (str(error).splitlines() or [""])[0]
        raise ModelError(f"{name}: {file} can't be read ({why}); delete it to download it again") from None
    model = build(name, len(entry.meta["categories"]))
    state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    model.load_state_dict(state, assign=True)  # half the memory of a copy
    return Network(
        name=name,
        model=model,
        preprocess=_preprocess(entry),
        categories=tuple(entry.meta["categories"]),
        source={"kind": FAMILY.kind, "name": name, "num_classes": len(entry.meta["categories"])},
        weights=f"torchvision {entry}",
    )


def _backbone(name: str, why: str, report: Reporter) -> Network:
    model = build_backbone(name)
    model.load_state_dict(backbone_weights(name, report=report))
    note = (
        f"{name} is its convolution stack without the classifier ({why}): the output is the last "
        "feature map, so there is no accuracy to measure"
    )
    return Network(
        name=name,
        model=model,
        preprocess=preprocess(name),
        features="features",
        source={"kind": FAMILY.kind, "name": name, "head": "none"},
        weights=f"ImageNet convolutions (IMAGENET1K_V1) from {ARCHIVE} of the package index",
        notes=(note,),
    )


def _preprocess(entry: Any) -> Preprocess:
    transform = entry.transforms()
    side = transform.crop_size[0]
    return Preprocess(
        resize=transform.resize_size[0],
        crop=(side, side),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
    )


FAMILY = Family(kind="torchvision", names=names, build=build, pretrained=pretrained, preprocess=preprocess)
