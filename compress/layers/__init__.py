"""Layers that torch lacks and compressed networks are made of."""

from cnncompress.layers.channel_order import ChannelOrder
from cnncompress.layers.costs import layer_macs
from cnncompress.layers.root import RootModule2d
from cnncompress.layers.sic import SICConv2d
from cnncompress.layers.sic_bottleneck import SICBottleneck2d
from cnncompress.layers.spatial_bottleneck import SpatialBottleneck2d
from cnncompress.layers.topological import TopologicalConv2d
from cnncompress.layers.unraveled import UnraveledConv2d

__all__ = [
    "ChannelOrder",
    "RootModule2d",
    "SICBottleneck2d",
    "SICConv2d",
    "SpatialBottleneck2d",
    "TopologicalConv2d",
    "UnraveledConv2d",
    "layer_macs",
]
