"""How long the exact partition of a network takes, and whether it is the best of all.

Networks are drawn: chains of layers, every cost at random, with and without a limit
of cores. Up to 12 layers every partition is tried beside the search.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations, compress, product
from random import Random
from time import perf_counter
from typing import Any

from mapping.partition.search import Costed, best

LAYERS = (4, 8, 12, 50, 200)
CHAIN = 12
"""Layers that run as one if all are on the chip; values are between these chains."""
BRUTE = 12
"""Layers of the largest network whose partitions are all tried."""


def drawn(layers: int, seed: int) -> Costed:
    """Chains of layers: what each saves is drawn, and a group lasts as long as its slowest."""
    random = Random(seed)
    names = [f"layer{place}" for place in range(layers)]
    saved = {name: random.uniform(-40, 100) for name in names}
    slow = {name: random.uniform(1, 80) for name in names}
    cores = {name: random.randint(1, 20) for name in names}
    groups = {
        frozenset(part): {
            "energy_uj": 60 + max(slow[n] for n in part) - sum(saved[n] for n in part),
            "cores": float(sum(cores[n] for n in part)),
        }
        for first in range(0, layers, CHAIN)
        for start, stop in combinations(range(first, min(first + CHAIN, layers) + 1), 2)
        for part in [names[start:stop]]
    }

    def divide(on_chip: frozenset[str]) -> list[frozenset[str]]:
        found: list[set[str]] = []
        for at, name in enumerate(names):
            if name in on_chip:
                beside = at % CHAIN > 0 and names[at - 1] in on_chip
                found = found if beside else [*found, set()]
                found[-1].add(name)
        return [frozenset(group) for group in found]

    return Costed(tuple(names), {"energy_uj": 100.0 * layers}, groups, divide, {"energy_uj": 50.0})


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
        subsets = (frozenset(compress(costed.layers, side)) for side in sides)
        every = (
            costed.totals(groups) for groups in map(costed.divided, subsets) if groups is not None
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
