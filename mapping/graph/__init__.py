"""The network as a graph: nodes and signals, the ways in, rewrites, checks, evaluation in float."""
