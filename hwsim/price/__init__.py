"""What a run costs: counts, traffic, time, energy, and what these rest on."""
