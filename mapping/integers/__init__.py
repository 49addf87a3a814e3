"""From floats to the chip's integers: scales, rounding, the search for scales, error bounds."""
