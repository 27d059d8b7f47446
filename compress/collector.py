"""Watches the original network: moments of responses over all positions, and samples at a few."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cnncompress.errors import NumericsError
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Sampler, at_least_float32, flatten_positions
from cnncompress.solvers.moments import Moments

_CHUNK = 65_536  # samples whose products are summed in float32 before they go to float64


class Collector:
    """Gathers moments and samples of the original network's responses, batch by batch.

    Args:
        layers: to watch.
        positions: how many positions of a layer are sampled in each image.
        seed: of the positions.
        keep: hand out samples again and again, instead of forgetting them once they were taken.

    Attributes:
        indices: positions in the list of all of the images seen so far.
    """

    def __init__(
        self,
        layers: Iterable[LayerInfo],
        *,
        positions: Callable[[LayerInfo], int],
        seed: int,
        keep: bool = False,
    ) -> None:
        self._samplers = {layer.name: Sampler(layer, positions(layer), seed) for layer in layers}
        self._keep = keep
        self._moments: dict[str, Moments] = {}
        self._on_host: dict[str, Moments] = {}
        self._samples: dict[str, list[Tensor]] = {name: [] for name in self._samplers}
        self._indices: Sequence[int] = ()
        self.indices: list[int] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[Callable[[Sequence[int]], None]]:
        """Hooks on all layers, removed on leaving.

        Args:
            model: the original network.

        Yields:
            A function to call before each batch with the positions of its images in the list of all.
        """
        handles = [
            model.get_submodule(name).register_forward_hook(self._hook(name)) for name in self._samplers
        ]
        try:
            yield self._begin
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, indices: Sequence[int]) -> None:
        self._indices = indices
        self.indices.extend(indices)

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        sampler = self._samplers[name]

        def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            del module, inputs
            # taken at once: the rectifier that follows may overwrite the output in place
            rows = flatten_positions(sampler.layer, output).flatten(0, 1)
            for chunk in torch.split(rows, _CHUNK):
                moments = Moments.of(at_least_float32(chunk).T)
                known = self._moments.get(name)
                self._moments[name] = moments if known is None else known + moments
            self._samples[name].append(sampler.outputs(output, self._indices))

        return collect

    def moments(self, name: str) -> Moments:
        """Moments of one layer's responses.

        Args:
            name: of the layer.

        Returns:
            Sums as float64 tensors.

        Raises:
            NumericsError: the responses held NaN or infinity.
        """
        moments = self._moments[name]
        if not bool(torch.isfinite(moments.outer).all()):
            raise NumericsError(
                f"{name}: its responses hold NaN or infinity; check the weights and the preprocessing"
            )
        return moments

    def numpy_moments(self, name: str) -> Moments | None:
        """Moments of one layer's responses on the host; their spectrum is computed once.

        Args:
            name: of the layer.

        Returns:
            Sums as NumPy arrays; None if the layer wasn't watched.
        """
        if name not in self._samplers:
            return None
        if name not in self._on_host:
            self._on_host[name] = self.moments(name).map(lambda tensor: tensor.cpu().numpy())
        return self._on_host[name]

    def take_samples(self, name: str) -> Tensor:
        """Sampled responses of one layer, which are then forgotten here unless they are to be kept.

        Args:
            name: of the layer.

        Returns:
            Shape (out_channels, samples), images in the order in which they came.
        """
        batches = self._samples[name] if self._keep else self._samples.pop(name)
        return torch.cat(batches, dim=1)

    def sampler(self, name: str) -> Sampler:
        """The positions of one layer.

        Args:
            name: of the layer.

        Returns:
            The sampler that was used.
        """
        return self._samplers[name]
