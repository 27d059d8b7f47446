"""Several processes that share one run, started by torchrun."""

from cnncompress.distributed.joining import joined
from cnncompress.distributed.shard import Shard, require_same, sharded
from cnncompress.distributed.world import ALONE, World

__all__ = ["ALONE", "Shard", "World", "joined", "require_same", "sharded"]
