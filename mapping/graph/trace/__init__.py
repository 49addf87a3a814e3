"""The ways into the graph: one file each."""
