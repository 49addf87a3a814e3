"""Chips as data: limits, arithmetic, prices, each with its source."""
