"""The gate: whether a compressed network is still good enough."""

from cnncompress.gate.baseline import Baseline
from cnncompress.gate.check import Checked, check_folder
from cnncompress.gate.reference import Reference
from cnncompress.gate.thresholds import Thresholds
from cnncompress.gate.verdict import Finding, Verdict

__all__ = ["Baseline", "Checked", "Finding", "Reference", "Thresholds", "Verdict", "check_folder"]
