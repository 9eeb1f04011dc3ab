"""Claims of speed and accuracy, each measured beside its rivals: ``python -m benchmarks.<name>``."""
