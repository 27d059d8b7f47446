"""Post-training compression of convolutional networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncompress.api import Options, Result, compress, compress_model, load
    from cnncompress.decompositions import (
        GSVD,
        GSVD3D,
        PCA,
        BiclusteringOuter,
        BiclusteringSVD,
        Monochromatic,
        Outer,
        Spatial,
        SVDIn,
        SVDOut,
        register,
    )
    from cnncompress.errors import CompressError
    from cnncompress.models import load_network
    from cnncompress.network import Network, Preprocess
    from cnncompress.plan import LayerPlan, Plan

__version__ = "0.1.0"

_HOMES = {
    "Options": "api",
    "Result": "api",
    "compress": "api",
    "compress_model": "api",
    "load": "api",
    **dict.fromkeys(
        (
            *("GSVD", "GSVD3D", "PCA", "BiclusteringOuter", "BiclusteringSVD", "Monochromatic"),
            *("Outer", "SVDIn", "SVDOut", "Spatial", "register"),
        ),
        "decompositions",
    ),
    "CompressError": "errors",
    "load_network": "models",
    "Network": "network",
    "Preprocess": "network",
    "LayerPlan": "plan",
    "Plan": "plan",
}

__all__ = [
    "GSVD",
    "GSVD3D",
    "PCA",
    "BiclusteringOuter",
    "BiclusteringSVD",
    "CompressError",
    "LayerPlan",
    "Monochromatic",
    "Network",
    "Options",
    "Outer",
    "Plan",
    "Preprocess",
    "Result",
    "SVDIn",
    "SVDOut",
    "Spatial",
    "compress",
    "compress_model",
    "load",
    "load_network",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch takes seconds, ``--help`` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cnncompress' has no attribute {name!r}")
    return getattr(import_module(f"cnncompress.{_HOMES[name]}"), name)
