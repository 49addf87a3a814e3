"""Chip segments as files of other tools: a file each."""
