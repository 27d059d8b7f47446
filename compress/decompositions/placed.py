"""Methods that keep connections on a mask only, and bring the strongest ones there by permuting channels."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray
from typing_extensions import override

from cnncompress.decompositions.base import Factors, Ranks
from cnncompress.decompositions.chains import Reorder, Step
from cnncompress.decompositions.from_moments import Fitted, FromMoments
from cnncompress.decompositions.registry import option
from cnncompress.inspect import LayerInfo
from cnncompress.responses import Statistics
from cnncompress.solvers import Array
from cnncompress.solvers.assignment import Placement, place_channels
from cnncompress.solvers.blocks import diagonal_blocks, reordered
from cnncompress.solvers.joint_moments import Covariances

Mask = NDArray[np.bool_]
_MEASURED = 6  # settings whose energy is found by a placement, at most


@dataclass(frozen=True, kw_only=True)
class Placed(FromMoments):
    """A method whose only rank is the number of inputs that an output reads; all of them are exact.

    Channels are placed by the energy of their connections (`cnncompress.solvers.assignment`). Without data
    the weights on the mask stay as they are. With data they are least squares given the mask, for three
    placements: by the weight's energies, by those of what connections contribute, and as the channels stand.

    Attributes:
        restarts: of the placement, at random.
        shuffles: of the best placement.
        seed: of the placement.
    """

    restarts: int = option(4, least=0)
    shuffles: int = option(16, least=0)
    seed: int = option(0, least=0)
    name: ClassVar[str]
    descends: ClassVar[bool] = False

    @abstractmethod
    def mask(self, layer: LayerInfo, ranks: Ranks) -> Mask:
        """Which slots are connected.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Shape (out_channels, in_channels).
        """

    @abstractmethod
    def convolution(self, layer: LayerInfo, ranks: Ranks) -> Step:
        """What computes the connections.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            The step of the chain, with bias.
        """

    @abstractmethod
    def compact(self, weight: Array, ranks: Ranks) -> Array:
        """The weight that the convolution takes.

        Args:
            weight: zero outside the mask, channels in their slots, shape (out_channels, in_channels,
                positions).
            ranks: of the replacement.

        Returns:
            Shape (out_channels, inputs of each output, positions).
        """

    @abstractmethod
    def on_mask(
        self, weight: Array, covariances: Covariances, placement: Placement, mask: Mask, ranks: Ranks
    ) -> Array:
        """The weight on a mask that comes closest to the responses.

        Args:
            weight: where to start, shape (out_channels, patch entries).
            covariances: of patches and responses.
            placement: of the channels.
            mask: which channels are connected, shape (out_channels, in_channels).
            ranks: of the replacement.

        Returns:
            In the shape of the start, float64; zero outside the mask.
        """

    @override
    def energies(self, layer: LayerInfo, weight: Array, statistics: Statistics | None) -> tuple[Array, ...]:
        # placements for one mask don't nest in those for another: no rank adds to the one before
        return ()

    @override
    def kept(
        self, layer: LayerInfo, weight: Array, statistics: Statistics | None, settings: Sequence[Ranks]
    ) -> NDArray[np.float64]:
        energies = connection_energies(_by_channel(weight), None)
        ranks = np.array([setting[0] for setting in settings])
        known = np.unique(ranks)
        # what masks of growing size hold bends little, and each is an assignment of its own
        placed = known[np.unique(np.linspace(0, len(known) - 1, _MEASURED).round().astype(int))]
        captured = [
            place_channels(energies, self.mask(layer, (int(rank),)), restarts=0, shuffles=0).captured
            for rank in placed
        ]
        return np.asarray(np.interp(ranks, placed, captured))

    @override
    def steps(self, layer: LayerInfo, ranks: Ranks) -> tuple[Step, ...]:
        convolution = self.convolution(layer, ranks)
        if not self._permutes(layer, ranks):
            return (convolution,)
        return Reorder(layer.in_channels), convolution, Reorder(layer.out_channels)

    @override
    def on_weight(self, layer: LayerInfo, weight: Array, bias: Array, ranks: Ranks) -> Fitted:
        placement = self._placement(layer, weight, None, ranks)
        flat = array_namespace(weight).reshape(weight, (layer.out_channels, -1))
        mask = connected(placement, self.mask(layer, ranks))
        return self._fitted(layer, flat * on_entries(mask, like=flat), bias, placement, ranks)

    @override
    def on_moments(
        self, layer: LayerInfo, weight: Array, covariances: Covariances, ranks: Ranks, start: Fitted
    ) -> Mapping[str, Fitted]:
        flat = array_namespace(weight).reshape(weight, (layer.out_channels, -1))
        found = {}
        for name, placement in self._placements(layer, weight, covariances, ranks, start).items():
            mask = connected(placement, self.mask(layer, ranks))
            solved = self.on_mask(flat, covariances, placement, mask, ranks)
            found[name] = self._fitted(layer, solved, covariances.bias(solved), placement, ranks)
        return found

    def _placements(
        self, layer: LayerInfo, weight: Array, covariances: Covariances, ranks: Ranks, start: Fitted
    ) -> dict[str, Placement]:
        if not self._permutes(layer, ranks):
            return {"responses": _standing(layer)}
        inputs, back = start.factors.orders
        return {
            "responses": Placement(np.argsort(back), inputs, ()),
            "responses, placed by contributions": self._placement(layer, weight, covariances, ranks),
            "responses, channels as they stand": _standing(layer),
        }

    def _placement(
        self, layer: LayerInfo, weight: Array, covariances: Covariances | None, ranks: Ranks
    ) -> Placement:
        if not self._permutes(layer, ranks):
            return _standing(layer)
        return place_channels(
            connection_energies(_by_channel(weight), covariances),
            self.mask(layer, ranks),
            restarts=self.restarts,
            shuffles=self.shuffles,
            seed=self.seed,
        )

    def _fitted(
        self, layer: LayerInfo, weight: Array, bias: Array, placement: Placement, ranks: Ranks
    ) -> Fitted:
        """From a weight that is zero outside the mask, channels as they stand."""
        xp = array_namespace(weight)
        by_channel = xp.reshape(weight, (layer.out_channels, layer.in_channels, -1))
        in_slots = reordered(reordered(by_channel, placement.outputs, axis=0), placement.inputs, axis=1)
        compact = self.compact(in_slots, ranks)
        permutes = self._permutes(layer, ranks)
        factors = Factors(
            (xp.reshape(compact, (*compact.shape[:2], *layer.kernel_size)),),
            reordered(bias, placement.outputs, axis=0),
            orders=(placement.inputs, np.argsort(placement.outputs)) if permutes else (),
            notes=self.notes(layer, ranks),
        )
        return Fitted(factors, weight, bias)

    def notes(self, layer: LayerInfo, ranks: Ranks) -> tuple[str, ...]:
        """What a user should know of the replacement.

        Args:
            layer: the layer.
            ranks: of the replacement.

        Returns:
            Sentences.
        """
        del layer, ranks
        return ()

    def _permutes(self, layer: LayerInfo, ranks: Ranks) -> bool:
        return ranks != self.full_ranks(layer)


def connection_energies(weight: Array, covariances: Covariances | None) -> Array:
    """How much each input adds to each output.

    Args:
        weight: shape (out_channels, in_channels, positions).
        covariances: of patches and responses; None counts every weight alike.

    Returns:
        Variance of each input's contribution, or squared norm of its filter; (out_channels, in_channels).
    """
    xp = array_namespace(weight)
    by_input = xp.permute_dims(xp.astype(weight, xp.float64), (1, 0, 2))
    if covariances is None:
        return xp.sum(by_input * by_input, axis=2).T
    inputs = diagonal_blocks(covariances.regressor, weight.shape[1])
    energies = xp.sum((by_input @ inputs) * by_input, axis=2)
    return xp.where(energies > 0, energies, xp.zeros_like(energies)).T  # negative by rounding alone


def connected(placement: Placement, mask: Mask) -> Mask:
    """Which channels are connected, as they stand.

    Args:
        placement: of the channels in slots.
        mask: which slots are connected, shape (out_channels, in_channels).

    Returns:
        In the shape of the mask.
    """
    found = np.empty_like(mask)
    found[np.ix_(placement.outputs, placement.inputs)] = mask
    return found


def on_entries(mask: Mask, *, like: Array) -> Array:
    """A mask of channels as one of patch entries.

    Args:
        mask: shape (out_channels, in_channels).
        like: gives library, device, type and the shape (out_channels, patch entries).

    Returns:
        Zeros and ones in the shape of ``like``.
    """
    xp = array_namespace(like)
    spread = np.repeat(mask, like.shape[1] // mask.shape[1], axis=1)
    return xp.asarray(spread.astype(np.float64), dtype=like.dtype, device=device(like))


def _standing(layer: LayerInfo) -> Placement:
    return Placement(np.arange(layer.out_channels), np.arange(layer.in_channels), ())


def _by_channel(weight: Array) -> Array:
    return array_namespace(weight).reshape(weight, (*weight.shape[:2], -1))
