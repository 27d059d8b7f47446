"""Fine-tuning of a compressed network: in a run, or of a folder of results."""
