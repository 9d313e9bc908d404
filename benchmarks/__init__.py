"""Speed measurements, with PyTorch for comparison. They need the `torch` extra."""
