"""Benchmarks of pplfast against the same method written in plain PyTorch (`reference/`)."""
