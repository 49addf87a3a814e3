"""What is measured and compared with the paper; run as ``python -m benchmarks.NAME``."""
