"""What is built on a run: comparisons, faults, recordings, clusters."""
