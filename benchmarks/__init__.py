"""Measurements of speed, side by side with PyTorch. They need the `torch` extra."""
