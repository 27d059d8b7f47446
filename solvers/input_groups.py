"""Which inputs go into one group of a grouped convolution that a 1 x 1 follows."""

from dataclasses import dataclass

import numpy as np

from cnncompress.solvers import Array
from cnncompress.solvers.blocks import patch_entries
from cnncompress.solvers.clustering import Floats, Labels, to_host
from cnncompress.solvers.grouping import group_channels


@dataclass(frozen=True, eq=False)
class InputGroups:
    """Equal groups of input channels.

    Attributes:
        order: the channels, group after group.
        history: share of the response's energy that no map of the given rank from each group alone can hold,
            summed over the groups, at the start and after each swap that was kept; never rising.
    """

    order: Labels
    history: tuple[float, ...]


def choose_input_groups(
    weight: Array,
    covariance: Array | None,
    *,
    channels: int,
    groups: int,
    rank: int,
    trials: int = 100,
    seed: int = 0,
) -> InputGroups:
    """Balanced spectral clusters of the inputs' correlations, then swaps of two channels that lose less.

    A part K of the weight with inputs of covariance S loses the tail of the eigenvalues of K S K'.

    Args:
        weight: shape (outputs, channels * positions), of any library.
        covariance: of the patches, shape (channels * positions, channels * positions); None for inputs that
            are independent and of equal variance: then channels count as alike whose filters are.
        channels: of the input.
        groups: how many; must divide the channels.
        rank: of each group's map.
        trials: swaps to try.
        seed: of the clustering and of the swaps.

    Returns:
        The groups.
    """
    folded = to_host(weight).reshape(weight.shape[0], channels, -1)
    inputs = None if covariance is None else to_host(covariance)
    correlation = _alike(folded) if inputs is None else _correlation(inputs, channels)
    (found,) = group_channels(correlation, (groups,), seed=seed)
    members = list(np.split(found.rows.order, groups))
    energy = _energy(folded, inputs)
    losses = [_loss(folded, inputs, part, rank) for part in members]
    history = [_share(losses, energy)]
    rng = np.random.default_rng(seed)
    for _ in range(trials if groups > 1 else 0):
        pair = rng.choice(groups, size=2, replace=False)
        swapped = _swapped(members[pair[0]], members[pair[1]], rng)
        tried = [_loss(folded, inputs, part, rank) for part in swapped]
        if sum(tried) >= losses[pair[0]] + losses[pair[1]]:
            continue
        for group, part, loss in zip(pair, swapped, tried, strict=True):
            members[group], losses[group] = part, loss
        history.append(min(history[-1], _share(losses, energy)))  # sums of other order may round upwards
    return InputGroups(np.concatenate([np.sort(part) for part in members]), tuple(history))


def _swapped(one: Labels, other: Labels, rng: np.random.Generator) -> tuple[Labels, Labels]:
    first, second = rng.integers(len(one)), rng.integers(len(other))
    changed, exchanged = one.copy(), other.copy()
    changed[first], exchanged[second] = other[second], one[first]
    return changed, exchanged


def _correlation(covariance: Floats, channels: int) -> Floats:
    """Of the channels, from the covariance of patches: positions are added up."""
    positions = len(covariance) // channels
    by_position = covariance.reshape(channels, positions, channels, positions)
    return _normalised(np.einsum("ipjp->ij", by_position))


def _alike(folded: Floats) -> Floats:
    """Correlation of the filters that read each channel."""
    by_channel = folded.transpose(1, 0, 2).reshape(folded.shape[1], -1)
    return _normalised(by_channel @ by_channel.T)


def _normalised(gram: Floats) -> Floats:
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.asarray(gram * scale[:, None] * scale)


def _loss(folded: Floats, covariance: Floats | None, channels: Labels, rank: int) -> float:
    """Energy that the best map of a given rank from some channels leaves of what they contribute."""
    part = folded[:, channels].reshape(len(folded), -1)
    if covariance is None:
        answers = part @ part.T
    else:
        entries = patch_entries(channels, folded.shape[2])
        answers = part @ covariance[np.ix_(entries, entries)] @ part.T
    return float(np.maximum(np.linalg.eigvalsh(answers)[: max(0, len(answers) - rank)], 0.0).sum())


def _energy(folded: Floats, covariance: Floats | None) -> float:
    flat = folded.reshape(len(folded), -1)
    return float(np.sum(flat * (flat if covariance is None else flat @ covariance)))


def _share(losses: list[float], energy: float) -> float:
    return sum(losses) / energy if energy > 0 else 0.0
