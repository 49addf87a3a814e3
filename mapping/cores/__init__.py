"""Layers onto cores: needs of a block, tilings, which core holds what, who sends to whom."""
