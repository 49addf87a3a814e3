"""Who runs where: what a chip can take, why not the rest, and the cut into segments."""
