"""Decompositions: one file a family, one dataclass a method.

The imports below are the list of what is built in; third parties call `register` themselves.
"""

from cnncompress.decompositions.base import Decomposition, Factors, Ranks
from cnncompress.decompositions.channel import GSVD, PCA
from cnncompress.decompositions.folded import SVDIn, SVDOut
from cnncompress.decompositions.groups import Groups
from cnncompress.decompositions.monochromatic import Monochromatic
from cnncompress.decompositions.outer import BiclusteringOuter, Outer
from cnncompress.decompositions.projected import GSpatial, GSVDIn
from cnncompress.decompositions.projected_tucker import GTucker
from cnncompress.decompositions.registry import (
    available,
    check_ranks,
    fallback_of,
    knows_option,
    make,
    options_of,
    register,
)
from cnncompress.decompositions.root import Root
from cnncompress.decompositions.sic import SIC
from cnncompress.decompositions.sic_bottleneck import SICBottleneck
from cnncompress.decompositions.spatial import Spatial
from cnncompress.decompositions.spatial_bottleneck import SpatialBottleneck
from cnncompress.decompositions.three_d import GSVD3D
from cnncompress.decompositions.topological import Topological
from cnncompress.decompositions.tucker import BiclusteringSVD
from cnncompress.decompositions.unravel import Unravel

__all__ = [
    "GSVD",
    "GSVD3D",
    "PCA",
    "SIC",
    "BiclusteringOuter",
    "BiclusteringSVD",
    "Decomposition",
    "Factors",
    "GSVDIn",
    "GSpatial",
    "GTucker",
    "Groups",
    "Monochromatic",
    "Outer",
    "Ranks",
    "Root",
    "SICBottleneck",
    "SVDIn",
    "SVDOut",
    "Spatial",
    "SpatialBottleneck",
    "Topological",
    "Unravel",
    "available",
    "check_ranks",
    "fallback_of",
    "knows_option",
    "make",
    "options_of",
    "register",
]
