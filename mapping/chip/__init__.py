"""What a chip is given, all integers: populations, synapses, wiring, and the chip's arithmetic.

NumPy and the standard library only: a simulator's worker imports this where torch is not.
"""
