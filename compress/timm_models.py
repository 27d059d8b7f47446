"""timm's networks, through the extra ``timm``."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

from torch import nn

from cnncompress.downloads import is_reachable
from cnncompress.errors import ModelError, unknown_name
from cnncompress.events import Reporter
from cnncompress.family import Family
from cnncompress.network import Network, Preprocess

_REMEDY = "HF_HOME names the cache of weights, or give --checkpoint FILE or --weights none"


def names() -> list[str]:
    """List timm's architectures.

    Returns:
        Names for `build`; each may carry a tag, for example ``resnet50.a1_in1k``.
    """
    return cast("list[str]", _timm().list_models())


def build(name: str, num_classes: int | None) -> nn.Module:
    """A network with random weights.

    Args:
        name: timm's name.
        num_classes: outputs; None for the weights' own number.

    Returns:
        The network.

    Raises:
        ModelError: timm isn't installed or has no such network.
    """  # noqa: DOC502  # raised by _create
    return _create(name, pretrained=False, num_classes=num_classes)


def preprocess(name: str) -> Preprocess:
    """The preprocessing of a name's weights.

    Args:
        name: timm's name.

    Returns:
        The preprocessing.
    """
    config = _timm().get_pretrained_cfg(name)
    return _preprocess(_timm().data.resolve_data_config(pretrained_cfg=config.to_dict() if config else {}))


def pretrained(name: str, weights: str, report: Reporter) -> Network:
    """Load a network with timm's weights.

    Args:
        name: timm's name; its tag chooses the weights.
        weights: only ``"default"``.
        report: unused; timm downloads by itself.

    Returns:
        The network.

    Raises:
        ModelError: timm isn't installed, has no such network, or its weights can't be downloaded.
    """
    if weights != "default":
        raise ModelError(f"timm:{name}: weights are chosen by the name's tag, got weights {weights!r}")
    model = _create(name, pretrained=True, num_classes=None)
    return Network(
        name=f"timm:{name}",
        model=model,
        preprocess=_preprocess(_timm().data.resolve_model_data_config(model)),
        source={"kind": FAMILY.kind, "name": name, "num_classes": None},
        weights=f"timm {name}",
    )


def _create(name: str, *, pretrained: bool, num_classes: int | None) -> nn.Module:
    timm = _timm()
    # Names with "hf-hub:" or "local-dir:" would let a plan file fetch things; registered ones can't.
    if not timm.is_model(name):
        known = timm.list_pretrained() if "." in name else timm.list_models()
        raise ModelError(unknown_name("model", f"timm:{name}", (f"timm:{each}" for each in known)))
    if pretrained:
        _require_weights(name)
    classes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        with _no_bars():
            return cast(nn.Module, timm.create_model(name, pretrained=pretrained, **classes))
    except Exception as error:  # timm passes on whatever its hub library raises
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise ModelError(f"timm:{name}: can't be loaded ({why}); {_REMEDY}") from error


def _require_weights(name: str) -> None:
    # The hub's library tries for most of a minute before it says that it isn't reachable.
    from huggingface_hub import constants, try_to_load_from_cache  # noqa: PLC0415  # comes with timm

    config = _timm().get_pretrained_cfg(name)
    repository = config.hf_hub_id if config else None
    if not repository or constants.HF_HUB_OFFLINE:
        return
    cached = (try_to_load_from_cache(repository, file) for file in ("model.safetensors", "pytorch_model.bin"))
    if not any(isinstance(file, str) for file in cached) and not is_reachable(constants.ENDPOINT):
        raise ModelError(f"timm:{name}: its weights can't be downloaded from {constants.ENDPOINT}; {_REMEDY}")


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError:
        raise ModelError("timm isn't installed; run: pip install 'cnncompress[timm]'") from None


@contextmanager
def _no_bars() -> Iterator[None]:
    # The hub draws on the terminal, which belongs to the command line.
    bars = import_module("huggingface_hub.utils")  # comes with timm
    if bars.are_progress_bars_disabled():
        yield
        return
    bars.disable_progress_bars()
    try:
        yield
    finally:
        bars.enable_progress_bars()


def _preprocess(config: dict[str, object]) -> Preprocess:
    _, height, width = cast("tuple[int, int, int]", config["input_size"])
    interpolation = config["interpolation"]
    return Preprocess(
        resize=math.floor(min(height, width) / cast(float, config["crop_pct"])),
        crop=(height, width),
        mean=tuple(cast("tuple[float, ...]", config["mean"])),
        std=tuple(cast("tuple[float, ...]", config["std"])),
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
    )


FAMILY = Family(kind="timm", names=names, build=build, pretrained=pretrained, preprocess=preprocess)
