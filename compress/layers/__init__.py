"""Layers that torch lacks and compressed networks are made of."""

from cnncompress.layers.channel_order import ChannelOrder

__all__ = ["ChannelOrder"]
