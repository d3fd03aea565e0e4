"""Kernel benchmarks beside PyTorch: ``python -m benchmarks``."""
