"""Layers onto cores: needs of a block, cuts, which core holds what, who sends to whom."""
