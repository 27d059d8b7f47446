"""Watches the original network: moments of responses over all positions, and samples at a few."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cnncompress.distributed.sums import add_up
from cnncompress.distributed.world import World
from cnncompress.errors import ModelError, NumericsError, unknown_name
from cnncompress.inspect import LayerInfo
from cnncompress.sampling import Blocks, Sampler, at_least_float32, flatten_positions
from cnncompress.solvers.moments import Moments

_CHUNK = 65_536  # samples whose products are summed in float32 before they go to float64


class _LayerMoments:
    """Moments of one kind of values, by layer."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sums: dict[str, Moments] = {}
        self._on_host: dict[str, Moments] = {}

    def add(self, layer: LayerInfo, values: Tensor) -> None:
        """Add those of one batch, a chunk of positions at a time."""
        rows = flatten_positions(layer, values).flatten(0, 1)
        for chunk in torch.split(rows, _CHUNK):
            moments = Moments.of(at_least_float32(chunk).T)
            known = self._sums.get(layer.name)
            self._sums[layer.name] = moments if known is None else known + moments

    def share(self, names: Iterable[str], world: World, device: torch.device) -> None:
        """Add up those of all processes."""
        for name in names:
            total = add_up(self._sums.get(name), Moments, world, device)
            if total is not None:
                self._sums[name] = total

    def of(self, name: str) -> Moments:
        """The sums of one layer, as float64 tensors."""
        moments = self._sums[name]
        if not bool(torch.isfinite(moments.outer).all()):
            raise NumericsError(
                f"{name}: its {self._kind} hold NaN or infinity; check the weights and the preprocessing"
            )
        return moments

    def on_host(self, name: str) -> Moments:
        """The sums of one layer, as NumPy arrays; always the same object, so that it keeps its spectrum."""
        if name not in self._on_host:
            self._on_host[name] = self.of(name).map(lambda tensor: tensor.cpu().numpy())
        return self._on_host[name]


class Collector:
    """Gathers moments and samples of the original network's responses, batch by batch.

    Args:
        layers: to watch.
        positions: how many positions of a layer are sampled in each image.
        seed: of the positions.
        keep: hand out samples again and again, instead of forgetting them once they were taken.
        inputs: names of those layers of which the moments of the input channels are wanted too.
        blocks: of layers whose method wants positions in squares.

    Raises:
        ModelError: ``inputs`` names a layer that isn't watched.

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
        inputs: Collection[str] = (),
        blocks: Mapping[str, Blocks] | None = None,
    ) -> None:
        squares = blocks or {}
        self._samplers = {
            layer.name: Sampler(layer, positions(layer), seed, squares.get(layer.name, Blocks()))
            for layer in layers
        }
        for name in inputs:
            if name not in self._samplers:
                raise ModelError(unknown_name("layer", name, self._samplers))
        self._keep = keep
        self._inputs = frozenset(inputs)
        self._response_moments = _LayerMoments("responses")
        self._input_moments = _LayerMoments("inputs")
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
            del module
            # taken at once: the rectifier that follows may overwrite the output in place
            self._response_moments.add(sampler.layer, output)
            if name in self._inputs:
                self._input_moments.add(sampler.layer, inputs[0])
            self._samples[name].append(sampler.outputs(output, self._indices))

        return collect

    def share(self, world: World, device: torch.device) -> None:
        """Add up the moments of all processes, and learn which images they saw; samples stay where they are.

        Args:
            world: the processes.
            device: of the network.
        """
        if world.is_alone:
            return
        self._response_moments.share(self._samplers, world, device)
        self._input_moments.share(sorted(self._inputs), world, device)
        self.indices = sorted(index for part in world.gather(self.indices) for index in part)

    def moments(self, name: str) -> Moments:
        """Moments of one layer's responses; an error if these held NaN or infinity.

        Args:
            name: of the layer.

        Returns:
            Sums as float64 tensors.
        """
        return self._response_moments.of(name)

    def numpy_moments(self, name: str) -> Moments | None:
        """Moments of one layer's responses on the host; their spectrum is computed once.

        Args:
            name: of the layer.

        Returns:
            Sums as NumPy arrays; None if the layer wasn't watched.
        """
        return self._response_moments.on_host(name) if name in self._samplers else None

    def input_moments(self, name: str) -> Moments:
        """Moments of one layer's input channels, a sample a pixel; an error if these held NaN or infinity.

        Args:
            name: of a layer whose inputs were asked for.

        Returns:
            Sums as float64 tensors.
        """
        return self._input_moments.of(name)

    def numpy_input_moments(self, name: str) -> Moments | None:
        """Moments of one layer's input channels on the host; their spectrum is computed once.

        Args:
            name: of the layer.

        Returns:
            Sums as NumPy arrays; None if the layer's inputs weren't asked for.
        """
        return self._input_moments.on_host(name) if name in self._inputs else None

    def take_samples(self, name: str) -> Tensor:
        """Sampled responses of one layer, which are then forgotten here unless they are to be kept.

        Args:
            name: of the layer.

        Returns:
            Shape (out_channels, samples), images of this process in the order in which they came.
        """
        batches = self._samples[name] if self._keep else self._samples.pop(name)
        if not batches:  # another process had them all
            return torch.empty(self._samplers[name].layer.out_channels, 0)
        return torch.cat(batches, dim=1)

    def sampler(self, name: str) -> Sampler:
        """The positions of one layer.

        Args:
            name: of the layer.

        Returns:
            The sampler that was used.
        """
        return self._samplers[name]
