"""What a layer's error costs the whole network."""
