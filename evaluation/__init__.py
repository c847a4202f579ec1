"""Benchmarks with lmms-eval: the model, the July 2024 tasks, the table."""
