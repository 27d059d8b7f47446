"""Networks that come with the package, and the demo."""
