"""How long the exact partition of a network takes, and whether it is the best of all.

Networks are drawn: chains of layers with shortcuts, every cost at random, with and without a limit
of cores. Up to 12 layers every partition is tried beside the search.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from random import Random
from time import perf_counter
from typing import Any

from mapping.partition.search import Costed, Crossing, best

LAYERS = (4, 8, 12, 50, 200)
BRUTE = 12
"""Layers of the largest network whose partitions are all tried."""


def drawn(layers: int, seed: int) -> Costed:
    """A chain with shortcuts over a few layers; energies and times of all at random."""
    random = Random(seed)
    names = [f"layer{place}" for place in range(layers)]

    def costs(most: float, cores: int = 0) -> dict[str, float]:
        found = {"energy_uj": random.uniform(0, most), "latency_us": random.uniform(0, most)}
        return {**found, "cores": float(cores)} if cores else found

    return Costed(
        {name: costs(100) for name in names},
        {name: costs(80, random.randint(1, 20)) for name in names},
        tuple(
            Crossing(
                name, (*names[at + 1 : at + 1 + random.randint(1, 4)], None), costs(40), costs(40)
            )
            for at, name in enumerate([None, *names])
        ),
        costs(50),
    )


def run(layers: int, limited: bool, seed: int = 0) -> dict[str, Any]:
    """Search one network, and try all its partitions if these are few."""
    costed = drawn(layers, seed)
    limits = {"cores": 4.0 * layers} if limited else {}
    begin = perf_counter()
    found = best(costed, {"energy_uj": 1.0}, limits)
    seconds = perf_counter() - begin
    assert found is not None, "nothing on the chip keeps to the limit"
    equal = None
    if layers <= BRUTE:
        sides = product((False, True), repeat=layers)
        every = (
            costed.totals({name for name, chip in zip(costed.host, side, strict=True) if chip})
            for side in sides
        )
        inside = (t for t in every if all(t[name] <= most for name, most in limits.items()))
        least = min(totals["energy_uj"] for totals in inside)
        equal = abs(found.totals["energy_uj"] - least) <= 1e-9 * least
    return {
        "layers": layers,
        "limited": limited,
        "on_chip": len(found.on_chip),
        "seconds": seconds,
        "gap": found.gap,
        "equal_to_brute_force": equal,
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args().json
    found = [run(layers, limited) for layers in LAYERS for limited in (False, True)]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print("layers  cores limited  on chip  seconds  proven gap  equal to brute force")
    for one in found:
        print(
            f"{one['layers']:6}  {one['limited']!s:13}  {one['on_chip']:7}  {one['seconds']:7.3f}"
            f"  {one['gap']:10.1g}  {one['equal_to_brute_force']}"
        )


if __name__ == "__main__":
    main()
