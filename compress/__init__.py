"""Post-training compression of convolutional networks."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncompress.api import Options, Result, compress, compress_model, load
    from cnncompress.decompositions import (
        GSVD,
        GSVD3D,
        PCA,
        SIC,
        BiclusteringOuter,
        BiclusteringSVD,
        Groups,
        GSpatial,
        GSVDIn,
        GTucker,
        Monochromatic,
        Outer,
        Root,
        SICBottleneck,
        Spatial,
        SpatialBottleneck,
        SVDIn,
        SVDOut,
        Topological,
        Unravel,
        register,
    )
    from cnncompress.distributed import World, joined
    from cnncompress.errors import CompressError
    from cnncompress.finetuning.job import finetune_folder
    from cnncompress.finetuning.options import FinetuneJob
    from cnncompress.gate import Reference, Thresholds, check_folder
    from cnncompress.models import load_network
    from cnncompress.network import Network, Preprocess
    from cnncompress.plan import LayerPlan, Plan
    from cnncompress.plots import Plots
    from cnncompress.repair import repair_network

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
            *("GSVDIn", "GSpatial", "GTucker"),
            *("Groups", "Outer", "Root", "SIC", "SICBottleneck", "SVDIn", "SVDOut", "Spatial"),
            *("SpatialBottleneck", "Topological", "Unravel", "register"),
        ),
        "decompositions",
    ),
    "World": "distributed",
    "joined": "distributed",
    "CompressError": "errors",
    "FinetuneJob": "finetuning.options",
    "finetune_folder": "finetuning.job",
    "Reference": "gate",
    "Thresholds": "gate",
    "check_folder": "gate",
    "repair_network": "repair",
    "load_network": "models",
    "Network": "network",
    "Preprocess": "network",
    "LayerPlan": "plan",
    "Plan": "plan",
    "Plots": "plots",
}

__all__ = [
    "GSVD",
    "GSVD3D",
    "PCA",
    "SIC",
    "BiclusteringOuter",
    "BiclusteringSVD",
    "CompressError",
    "FinetuneJob",
    "GSVDIn",
    "GSpatial",
    "GTucker",
    "Groups",
    "LayerPlan",
    "Monochromatic",
    "Network",
    "Options",
    "Outer",
    "Plan",
    "Plots",
    "Preprocess",
    "Reference",
    "Result",
    "Root",
    "SICBottleneck",
    "SVDIn",
    "SVDOut",
    "Spatial",
    "SpatialBottleneck",
    "Thresholds",
    "Topological",
    "Unravel",
    "World",
    "check_folder",
    "compress",
    "compress_model",
    "finetune_folder",
    "joined",
    "load",
    "load_network",
    "register",
    "repair_network",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: torch takes seconds, ``--help`` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cnncompress' has no attribute {name!r}")
    return getattr(import_module(f"cnncompress.{_HOMES[name]}"), name)
