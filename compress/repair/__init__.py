"""Label-free repair of a compressed network before any training."""
