"""The measured time of every convolution that a planner may put in a layer's place.

A replacement is a chain of steps and its time the sum of theirs. Steps that differ in their numbers of
channels alone are measured at some of these and interpolated in between. Everything is timed in turn with the
layer that it would replace, and kept on disk for the same versions on the same machine.
"""

from cnncompress.latency.setting import Request, Setting
from cnncompress.latency.table import LatencyTable
from cnncompress.latency.taking import latency_table

__all__ = ["LatencyTable", "Request", "Setting", "latency_table"]
