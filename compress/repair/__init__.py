"""Label-free repair of a compressed network before any training."""

from cnncompress.repair.network import STEPS, repair_network
from cnncompress.repair.repaired import LayerRepair, Repaired

__all__ = ["STEPS", "LayerRepair", "Repaired", "repair_network"]
