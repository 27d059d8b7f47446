"""Fixtures that several test modules share."""

from collections.abc import Callable, Sequence
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnncompress.image_source import Batch
from cnncompress.inspect import LayerInfo, inspect_layers
from cnncompress.responses import Responses, Samples, Statistics
from cnncompress.sampling import Blocks, Sampler, flatten_positions
from cnncompress.solvers.joint_moments import JointMoments
from cnncompress.solvers.moments import Moments


@pytest.fixture(params=["numpy", "torch", "strict"])
def to_xp(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Turns NumPy arrays into those of each library that the solvers must work with."""
    return {"numpy": np.asarray, "torch": torch.from_numpy, "strict": array_api_strict.asarray}[request.param]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class TensorSource:
    """The smallest image source: one tensor of preprocessed images."""

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.images, self.labels, self.passes = images, labels, 0
        self.hash, self.description, self.bad = "0" * 64, "tensor", ()
        self.keys = [str(i) for i in range(len(images))]
        self.has_labels = labels is not None

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, batch_size: int, order: Sequence[int] | None = None) -> Any:
        self.passes += 1
        wanted = torch.arange(len(self.images)) if order is None else torch.as_tensor(order)
        for part in wanted.split(batch_size):
            yield Batch(
                self.images[part],
                part,
                None if self.labels is None else self.labels[part],
            )


@pytest.fixture
def tensor_source() -> type[TensorSource]:
    return TensorSource


class Wrapped(nn.Module):
    """One layer followed by a rectifier or nothing."""

    def __init__(self, layer: nn.Module, *, rectified: bool) -> None:
        super().__init__()
        self.layer = layer
        self.after = nn.ReLU() if rectified else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.layer(images))


@pytest.fixture
def describe() -> Callable[..., LayerInfo]:
    """Describes one layer as `inspect_layers` would within a network."""

    def describe_layer(layer: nn.Module, input_size: Sequence[int], *, rectified: bool = True) -> LayerInfo:
        return inspect_layers(Wrapped(layer, rectified=rectified), tuple(input_size))[0]

    return describe_layer


@pytest.fixture
def observe() -> Callable[..., Responses]:
    """Responses of one layer for given inputs, original and on a compressed prefix."""

    def observe_layer(
        info: LayerInfo,
        layer: nn.Module,
        images: Tensor,
        compressed: Tensor | None = None,
        count: int = 40,
        margin: int = 0,
        blocks: Blocks | None = None,
    ) -> Responses:
        sampler = Sampler(info, count, 0, blocks or Blocks())
        indices = range(len(images))
        with torch.no_grad():
            output = layer(images)
        target = sampler.outputs(output, indices).numpy()
        seen = images if compressed is None else compressed
        patches = sampler.patches(seen, indices, margin=margin).numpy()
        inside = sampler.inside(indices, margin=margin).numpy() if margin else None
        cut = target.shape[1] // len(images) * int(0.75 * len(images))
        fit, held_out = (
            Samples(target[:, part], patches[:, part], None if inside is None else inside[:, part])
            for part in (slice(cut), slice(cut, None))
        )
        rows = flatten_positions(info, output).flatten(0, 1).numpy()
        pixels = flatten_positions(info, images).flatten(0, 1).numpy()
        shape = (info.out_channels, info.in_channels, *info.kernel_size)
        return Responses(
            Statistics(Moments.of(rows.T), Moments.of(pixels.T), np.random.default_rng(0).random(shape)),
            fit,
            held_out,
            info.activation,
            JointMoments.of(fit.patches, fit.target),
        )

    return observe_layer
