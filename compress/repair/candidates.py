"""What the last factor of a replacement could become, and which of it is best on held-out images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnncompress.arrays import to_array, to_tensor
from cnncompress.distributed import World
from cnncompress.errors import NumericsError
from cnncompress.inspect import LayerInfo
from cnncompress.repair.factor import LastFactor
from cnncompress.repair.samples import Gathered, Seen
from cnncompress.solvers.last_factor import refit

RIDGES = (0.0, 0.003, 0.03, 0.3)
"""How strongly a refit is drawn towards the weights that are there; held-out images choose."""

AS_IT_IS = "as it is"

_WORTH = 0.01
"""Smaller gains are left, as a share of the error: the best of several gains that by chance."""


@dataclass(frozen=True)
class Candidate:
    """Parameters of the last factor.

    Attributes:
        bias: shape (channels,), float64.
        weight: shape (groups, channels of a group, patch entries), float64; None to keep the weights.
    """

    bias: Tensor
    weight: Tensor | None = None

    def put_(self, module: nn.Module) -> None:
        """Give a module these parameters; those that it had are not written into.

        Args:
            module: the last factor; changed in place.
        """
        values = {"bias": self.bias, "weight": self.weight}
        for name, value in values.items():
            if value is not None:
                old = module.get_parameter(name)
                fresh = torch.empty_like(old, requires_grad=False)  # in its memory format
                fresh.copy_(value.reshape(old.shape))
                module.register_parameter(name, nn.Parameter(fresh, requires_grad=old.requires_grad))


def candidates(
    gathered: Gathered, factor: LastFactor, steps: Sequence[str], world: World
) -> Mapping[str, Candidate | None]:
    """All that is worth judging.

    Args:
        gathered: of the layer.
        factor: last of its replacement.
        steps: names of the repairs that are wanted.
        world: the processes; the first one solves.

    Returns:
        By name, None for the factor as it is, which comes first.
    """
    found: dict[str, Candidate | None] = {AS_IT_IS: None}
    bias = factor.module.bias
    assert isinstance(bias, Tensor)
    if gathered.count and "bias" in steps:
        found["bias"] = Candidate(bias.detach().double() + gathered.shortfall)
    if gathered.count and "refit" in steps and gathered.moments:
        solved = world.first(lambda: _refitted(gathered, factor))
        for ridge, refitted in zip(RIDGES, solved, strict=True):
            found[f"refit, ridge {ridge:g}"] = refitted
    return found


def best_of(errors: Mapping[str, float], factor: LastFactor) -> str:
    """The name of the candidate to keep.

    Args:
        errors: from `errors_of`.
        factor: that they are for.

    Returns:
        The one of the least error; the factor as it is where that gains little, or there is nothing to gain
        but rounding.
    """
    rounding = (16 * torch.finfo(factor.module.get_parameter("bias").dtype).eps) ** 2
    if errors[AS_IT_IS] <= rounding:
        return AS_IT_IS
    best = min(errors, key=lambda name: errors[name])
    return best if errors[best] < (1 - _WORTH) * errors[AS_IT_IS] else AS_IT_IS


def errors_of(
    options: Mapping[str, Candidate | None],
    gathered: Gathered,
    factor: LastFactor,
    layer: LayerInfo,
    world: World,
) -> dict[str, float]:
    """Judge candidates by the response after the activation on held-out images.

    Args:
        options: of the layer.
        gathered: of the layer.
        factor: last of its replacement.
        layer: the layer; its activation counts.
        world: the processes.

    Returns:
        For each candidate ||r(target) - r(prediction)||² / ||r(target)||²; 0 if the target is all zero.

    Raises:
        NumericsError: a response is NaN or infinite.
    """  # noqa: DOC501, DOC502  # its message is shared
    sums = torch.zeros(len(options) + 1, dtype=torch.float64, device=gathered.shortfall.device)
    bias = factor.module.bias
    assert isinstance(bias, Tensor)
    for seen in gathered.held_out:
        target = _activated(seen.target.double(), layer)
        sums[-1] += target.square().sum()
        for place, option in enumerate(options.values()):
            response = _answer(option, seen, bias.detach().double()) + seen.added.double()
            sums[place] += (target - _activated(response, layer)).square().sum()
    totals = world.sum(sums)
    if not bool(torch.isfinite(totals).all()):
        raise _unusable(layer)
    *errors, energy = totals.tolist()
    return {name: error / energy if energy > 0 else 0.0 for name, error in zip(options, errors, strict=True)}


def require_finite(gathered: Gathered, layer: LayerInfo) -> None:
    """Refuse sums that tell nothing.

    Args:
        gathered: of the layer.
        layer: the layer.

    Raises:
        NumericsError: a response is NaN or infinite.
    """  # noqa: DOC501, DOC502  # its message is shared
    sums = [gathered.shortfall, *(one.regressor_outer for one in gathered.moments)]
    if not all(bool(torch.isfinite(one).all()) for one in sums):
        raise _unusable(layer)


def _unusable(layer: LayerInfo) -> NumericsError:
    return NumericsError(
        f"{layer.name}: its responses hold NaN or infinity on calibration images, in the original or in the "
        "compressed network, so it can't be repaired; check the images and the weights"
    )


def _answer(option: Candidate | None, seen: Seen, bias: Tensor) -> Tensor:
    """What the factor gives with other parameters, float64."""
    if option is None:
        return seen.given.double()
    if option.weight is None or seen.read is None:
        return seen.given.double() + (option.bias - bias)[:, None]
    return (option.weight @ seen.read.double()).flatten(0, 1) + option.bias[:, None]


def _activated(response: Tensor, layer: LayerInfo) -> Tensor:
    return response.relu() if layer.activation == "relu" else response


def _refitted(gathered: Gathered, factor: LastFactor) -> list[Candidate]:
    """One candidate for each ridge, its groups solved each for itself."""
    weight = factor.module.get_parameter("weight").detach().double()
    priors = weight.reshape(len(gathered.moments), -1, gathered.moments[0].regressor_outer.shape[0])
    weights: list[list[Tensor]] = [[] for _ in RIDGES]
    biases: list[list[Tensor]] = [[] for _ in RIDGES]
    for sums, prior in zip(gathered.moments, priors, strict=True):
        covariances = sums.map(lambda tensor: to_array(tensor, "numpy")).covariances
        solved = refit(covariances, to_array(prior.contiguous(), "numpy"), ridges=RIDGES)
        for place, solution in enumerate(solved):
            weights[place].append(to_tensor(solution, weight))
            biases[place].append(to_tensor(covariances.bias(solution), weight))
    return [
        Candidate(torch.cat(bias), torch.stack(solution))
        for bias, solution in zip(biases, weights, strict=True)
    ]
