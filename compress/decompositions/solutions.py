"""Low-rank maps from a layer's inputs on the compressed prefix to its true responses.

All solutions of Zhang et al. for one layer are tried, and the one with the least error on held-out
images is kept: a regression shrinks its output towards the mean where its regressors are poor, the
rectifier then silences sparse channels, and only the true objective on unseen images tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from array_api_compat import array_namespace, device

from cnncompress.responses import Responses
from cnncompress.solvers import Array
from cnncompress.solvers.nonlinear import nonlinear_map, rectified_error, rectify
from cnncompress.solvers.reduced_rank import LowRankMap, Regression, principal_map

RIDGE = 0.03
"""How strongly regressions are drawn towards the uncompressed solution.

Chosen of 0, 0.03, 0.1 and 0.3 on two layers of VGG-16 at 4x (solar cells, 200 images): it lowered the
held-out squared error of the nonlinear solution by 1 to 3 %, that of the linear one by 2 to 5 %."""


@dataclass(frozen=True)
class Regressors:
    """What a map may read, at the sampled positions.

    Attributes:
        fit: of the samples that are fitted, shape (inputs, samples).
        held_out: of the samples that judge, shape (inputs, samples).
        lift: matrix (out_channels, inputs) that turns regressors into approximate responses.
        offset: added after ``lift``, shape (out_channels,).
    """

    fit: Array
    held_out: Array
    lift: Array
    offset: Array

    @classmethod
    def of_patches(cls, weight: Array, bias: Array, responses: Responses) -> "Regressors":
        """What a convolution reads on the compressed prefix.

        Args:
            weight: shape (out_channels, in_channels, kernel height, kernel width).
            bias: shape (out_channels,).
            responses: of the layer.

        Returns:
            Regressors that the weight turns into approximate responses.
        """
        folded = array_namespace(weight).reshape(weight, (weight.shape[0], -1))
        return cls(responses.fit.patches, responses.held_out.patches, folded, bias)

    def responses(self) -> "Regressors":
        """The approximate responses that these regressors amount to.

        Returns:
            Regressors that are responses: nothing to lift.
        """
        xp = array_namespace(self.lift)
        return Regressors(
            self.lift @ self.fit + self.offset[:, None],
            self.lift @ self.held_out + self.offset[:, None],
            xp.eye(self.lift.shape[0], dtype=self.lift.dtype, device=device(self.lift)),
            xp.zeros_like(self.offset),
        )

    def lifted(self, mapping: LowRankMap) -> LowRankMap:
        """A map that reads responses as one that reads these regressors.

        Args:
            mapping: from responses.

        Returns:
            The same map from regressors.
        """
        shift = mapping.left @ (mapping.right @ self.offset)
        return LowRankMap(mapping.left, mapping.right @ self.lift, mapping.bias + shift)

    def error(self, mapping: LowRankMap, responses: Responses) -> float:
        """Relative error of a map on the held-out samples, after the activation.

        Args:
            mapping: from these regressors.
            responses: of the layer.

        Returns:
            ||r(target) - r(prediction)||² / ||r(target)||².
        """
        return relative_error(responses, mapping(self.held_out))


def relative_error(responses: Responses, prediction: Array) -> float:
    """Relative error of predicted responses on the held-out samples, after the activation.

    Args:
        responses: of the layer.
        prediction: of the held-out samples, shape (out_channels, samples).

    Returns:
        ||r(target) - r(prediction)||² / ||r(target)||²; 0 if the target is all zero.
    """
    target = responses.held_out.target
    xp = array_namespace(target)
    if responses.activation == "relu":
        error, kept = rectified_error(target, prediction), rectify(target)
    else:
        difference = target - prediction
        error, kept = float(xp.sum(difference * difference, dtype=xp.float64)), target
    energy = float(xp.sum(kept * kept, dtype=xp.float64))
    return error / energy if energy > 0 else 0.0


@dataclass(frozen=True)
class Solution:
    """The map that was kept, and the errors of all that were tried."""

    map: LowRankMap
    errors: Mapping[str, float]
    chosen: str


def best_map(
    responses: Responses,
    regressors: Regressors,
    *,
    rank: int,
    symmetric: bool,
    nonlinear: bool,
    judge: bool = True,
) -> Solution:
    """Try the solutions that the options allow and keep the best on held-out samples.

    Args:
        responses: of the layer.
        regressors: what the map reads.
        rank: greatest rank of the map.
        symmetric: leave out the solutions that see the compressed prefix.
        nonlinear: try the nonlinear solver too; the layer must be followed by a rectifier.
        judge: without it the solution that the other two options name is kept, however bad.

    Returns:
        The best map, from regressors to responses.
    """
    fit, held_out = responses.fit, responses.held_out
    xp = array_namespace(fit.target)
    exact = principal_map(
        responses.statistics.outputs.spectrum[1], responses.statistics.outputs.mean, rank=rank
    )
    principal = exact.astype(fit.target.dtype)
    maps = {"symmetric linear": regressors.lifted(principal)}
    if symmetric and nonlinear:
        identity = xp.eye(fit.target.shape[0], dtype=fit.target.dtype, device=device(fit.target))
        found = nonlinear_map(
            fit.target,
            Regression.on(fit.target, prior=identity, ridge=RIDGE),
            fit.target,
            held_out.target,
            held_out.target,
            rank=rank,
            start=principal,
        )
        maps["symmetric nonlinear"] = regressors.lifted(found.map)
    if not symmetric:
        regression = Regression.on(regressors.fit, prior=regressors.lift, ridge=RIDGE)
        maps["asymmetric linear"] = regression.solve(fit.target, rank=rank)
        if nonlinear:
            found = nonlinear_map(
                fit.target,
                regression,
                regressors.fit,
                held_out.target,
                regressors.held_out,
                rank=rank,
                start=min(maps.values(), key=lambda mapping: regressors.error(mapping, responses)),
            )
            maps["asymmetric nonlinear"] = found.map
    errors = {name: regressors.error(mapping, responses) for name, mapping in maps.items()}
    # the last one is what the options name: those before it are what it is compared with
    chosen = min(errors, key=lambda name: errors[name]) if judge else list(errors)[-1]
    return Solution(maps[chosen], errors, chosen)
