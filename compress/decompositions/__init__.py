"""Decompositions: one file a family, one dataclass a method.

The imports below are the list of what is built in; third parties call `register` themselves.
"""

from cnncompress.decompositions import channel as channel
from cnncompress.decompositions import spatial as spatial
from cnncompress.decompositions import three_d as three_d
from cnncompress.decompositions.base import (
    Decomposition,
    Factors,
    Ranks,
    available,
    check_ranks,
    fallback_of,
    make,
    options_of,
    register,
)

__all__ = [
    "Decomposition",
    "Factors",
    "Ranks",
    "available",
    "check_ranks",
    "fallback_of",
    "make",
    "options_of",
    "register",
]
