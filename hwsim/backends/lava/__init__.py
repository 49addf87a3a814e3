"""Real Lava processes, in an interpreter of their own."""
