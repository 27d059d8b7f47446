"""Decompositions: one file a family, one dataclass a method.

The imports below are the list of what is built in; third parties call `register` themselves.
"""

from cnncompress.decompositions.base import Decomposition, Factors, Ranks
from cnncompress.decompositions.channel import GSVD, PCA
from cnncompress.decompositions.folded import SVDIn, SVDOut
from cnncompress.decompositions.monochromatic import Monochromatic
from cnncompress.decompositions.outer import BiclusteringOuter, Outer
from cnncompress.decompositions.registry import (
    available,
    check_ranks,
    fallback_of,
    knows_option,
    make,
    options_of,
    register,
)
from cnncompress.decompositions.spatial import Spatial
from cnncompress.decompositions.three_d import GSVD3D
from cnncompress.decompositions.tucker import BiclusteringSVD
from cnncompress.decompositions.unravel import Unravel

__all__ = [
    "GSVD",
    "GSVD3D",
    "PCA",
    "BiclusteringOuter",
    "BiclusteringSVD",
    "Decomposition",
    "Factors",
    "Monochromatic",
    "Outer",
    "Ranks",
    "SVDIn",
    "SVDOut",
    "Spatial",
    "Unravel",
    "available",
    "check_ranks",
    "fallback_of",
    "knows_option",
    "make",
    "options_of",
    "register",
]
