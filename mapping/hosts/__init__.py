"""Processors that run what the chip does not, as data."""
