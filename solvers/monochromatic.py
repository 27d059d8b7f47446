"""The monochromatic approximation of a first layer: each filter sees one of a few colours.

Output f of a convolution has the weight W_f of shape (C, P), channels by positions. It becomes u v_f', the
product of a colour u, a direction of the input channels that a cluster of outputs shares, and a filter v_f of
its own. Clusters are of equal size, so that the filters form one grouped convolution.
Denton et al., "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation",
https://arxiv.org/abs/1404.0736, section 3.2.1; equation 9 is their filter.

For a unit colour the best filter is v_f = W_f' u, and what is then lost, ||W_f||² - ||W_f' u||², is the
squared distance of the columns of W_f to the line along u: clusters by subspace distance minimise the error.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from array_api_compat import array_namespace, device

from cnncompress.solvers import Array
from cnncompress.solvers.clustering import Clusters, Floats, Labels, cluster_size, subspace_clusters, to_host

Filters = Literal["resolved", "aligned", "paper"]


@dataclass(frozen=True, eq=False)
class Monochrome:
    """Filters of one colour each.

    Attributes:
        colors: unit directions of the input channels, the largest entry positive, shape (colors, C).
        filters: of each output in its own order, shape (F, P).
        labels: colour of each output, shape (F,); each colour occurs F / colors times.
        order: the outputs sorted by colour, shape (F,).
        history: relative squared error at the start and after each sweep of the best restart; of the weight
            if the filters are resolved, else of the outputs' own colours, which then are what is clustered.
        error: squared, relative to the weight's energy.
    """

    colors: Array
    filters: Array
    labels: Labels
    order: Labels
    history: tuple[float, ...]
    error: float

    def dense(self) -> Array:
        """The weight that the colours and filters amount to.

        Returns:
            Shape (F, C, P).
        """
        xp = array_namespace(self.colors)
        of_output = xp.take(self.colors, xp.asarray(self.labels, device=device(self.colors)), axis=0)
        return of_output[:, :, None] * self.filters[:, None, :]


def monochromatic(
    weight: Array, *, colors: int, restarts: int = 10, seed: int = 0, filters: Filters = "resolved"
) -> Monochrome:
    """Approximate each filter by a colour shared within its cluster times a filter of its own.

    Args:
        weight: shape (F, C, P).
        colors: clusters of outputs; must divide F.
        restarts: seedings of the clusters tried, the best of which is kept.
        seed: of the seedings.
        filters: ``"resolved"`` minimises the error over clusters, colours and filters; ``"paper"`` keeps the
            filter that belonged to the output's own colour, of arbitrary sign (the paper's equation 9);
            ``"aligned"`` keeps it with the sign that suits the shared colour.

    Returns:
        The approximation, in the library and type of the weight. Resolved is never worse than aligned, nor
        aligned than paper.

    Raises:
        ValueError: the colours don't divide the outputs, or the kind of filters is unknown.

    Example:
        >>> red, green = [[1.0], [0.0]], [[0.0], [1.0]]
        >>> found = monochromatic(np.array([red, green, green, red]) * [[1.0, 2.0]], colors=2)
        >>> found.labels.tolist(), found.filters.tolist()
        ([0, 1, 1, 0], [[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    """
    cluster_size(weight.shape[0], colors, name="colors", of="outputs")
    if filters not in get_args(Filters):
        raise ValueError(f"filters must be one of {', '.join(get_args(Filters))}, got {filters!r}")
    wide = to_host(weight)
    left, values, right = np.linalg.svd(wide, full_matrices=False)
    own = left[:, :, 0] * values[:, :1]
    clusters = subspace_clusters(own, clusters=colors, restarts=restarts, seed=seed)
    minimised = own[:, None]
    if filters == "resolved":
        minimised = np.swapaxes(wide, 1, 2)
        # starting once from the clusters of the filters' own colours makes sure it isn't worse than they are
        clusters = subspace_clusters(
            minimised, clusters=colors, restarts=restarts, seed=seed, start=clusters.labels
        )
    shared = _colors(minimised, clusters, colors)
    if filters == "resolved":
        of_outputs = np.einsum("fc,fcp->fp", shared[clusters.labels], wide)
    else:
        agreement = np.sum(own * shared[clusters.labels], axis=1)
        if filters == "paper":  # a colour may turn as a whole, as the mean of its members' own would
            agreement = np.bincount(clusters.labels, agreement)[clusters.labels]
        sign = np.where(agreement < 0, -1.0, 1.0)
        of_outputs = (sign * values[:, 0])[:, None] * right[:, 0]
    return _assemble(weight, wide, shared, of_outputs, clusters, float(np.sum(minimised**2)))


def _colors(items: Floats, clusters: Clusters, colors: int) -> Floats:
    """Leading right singular vector of each cluster's rows, its largest entry positive."""
    members = items[clusters.order].reshape(colors, -1, items.shape[2])
    leading = np.linalg.svd(members, full_matrices=False)[2][:, 0]
    largest = np.take_along_axis(leading, np.abs(leading).argmax(axis=1, keepdims=True), axis=1)
    return np.asarray(leading * np.where(largest < 0, -1.0, 1.0))


def _assemble(
    weight: Array, wide: Floats, shared: Floats, of_outputs: Floats, clusters: Clusters, energy: float
) -> Monochrome:
    xp, place = array_namespace(weight), {"dtype": weight.dtype, "device": device(weight)}
    residual = wide - shared[clusters.labels][:, :, None] * of_outputs[:, None, :]
    total = float(np.sum(wide**2))
    return Monochrome(
        xp.asarray(shared, **place),
        xp.asarray(of_outputs, **place),
        clusters.labels,
        clusters.order,
        tuple(value / energy if energy else 0.0 for value in clusters.history),
        float(np.sum(residual**2)) / total if total else 0.0,
    )
