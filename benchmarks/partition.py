"""How long the exact partition of a network takes, and whether it is the best of all.

The bundled models on a few images of their data, networks with drawn weights, and drawn costs of
chains of layers and of hybrid blocks, with and without limits. Up to 12 layers every partition is
tried beside the search.
"""

from __future__ import annotations

import argparse
import json
from itertools import chain, combinations, compress, pairwise, product
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

import snntorch as snn
import torch
from torch import nn

from has8 import create_model, load_checkpoint, load_data, over_time
from hwsim import simulate
from hwsim.price.choices import ENERGY, choices_of
from mapping import map_model
from mapping.hosts.schema import load_host
from mapping.partition.search import Costed, Costs, best

MODELS = Path(__file__).parent.parent / "examples" / "models"
NETS = ("digits", "cifar10", "hnn_mlp", "chain")
CALIBRATION = 64

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


def blocks(layers: int, seed: int) -> Costed:
    """Hybrid blocks of three layers, whose runs share what the host computes meanwhile."""
    random = Random(seed)
    names = [f"layer{place}" for place in range(layers)]
    regions = [names[first : first + 3] for first in range(0, layers, 3)]
    groups: dict[frozenset[str], Costs] = {}
    for region in regions:
        beside = random.uniform(0, 80)
        runs = {name: random.uniform(1, 80) for name in region}
        saved = {name: random.uniform(0, 60) for name in region}
        cores = {name: float(random.randint(1, 20)) for name in region}
        for sides in product((False, True), repeat=len(region)):
            chosen = [name for name, side in zip(region, sides, strict=True) if side]
            if chosen:  # what the host does meanwhile is taken off once
                time = sum(runs[name] for name in chosen)
                energy = time - min(time, beside) - sum(saved[name] for name in chosen)
                sums = {"energy_uj": energy, "cores": sum(cores[name] for name in chosen)}
                groups[frozenset(chosen)] = sums
    wholes = tuple(map(frozenset, regions))

    def divide(on_chip: frozenset[str]) -> list[frozenset[str]]:
        return [whole & on_chip for whole in wholes if whole & on_chip]

    host = {"energy_uj": 100.0 * layers}
    fixed = {"energy_uj": 50.0}
    return Costed(tuple(names), host, groups, divide, fixed, one_of=wholes)


DRAWN = {"chains": drawn, "blocks": blocks}
"""Drawn networks by name."""


def run(kind: str, layers: int, limited: bool, seed: int = 0) -> dict[str, Any]:
    """Search one drawn network, and try all its partitions if these are few."""
    limits = {"cores": 4.0 * layers} if limited else {}
    return {"net": kind, "limited": limited, **searched(DRAWN[kind](layers, seed), limits)}


def searched(costed: Costed, limits: Costs | None = None) -> dict[str, Any]:
    """The best partition of one problem, held to all partitions there are if these are few."""
    begin = perf_counter()
    found = best(costed, {ENERGY: 1.0}, limits)
    seconds = perf_counter() - begin
    assert found is not None, "nothing keeps to the limit"
    equal = None
    if len(costed.layers) <= BRUTE:
        sides = product((False, True), repeat=len(costed.layers))
        subsets = (frozenset(compress(costed.layers, side)) for side in sides)
        every = (
            costed.totals(groups) for groups in map(costed.divided, subsets) if groups is not None
        )
        held = {**costed.limits, **(limits or {})}
        inside = (t for t in every if all(t[name] <= most for name, most in held.items()))
        least = min(totals[ENERGY] for totals in inside)
        equal = abs(found.totals[ENERGY] - least) <= 1e-9 * least
    return {
        "layers": len(costed.layers),
        "groups": len(costed.groups),
        "on_chip": len(found.on_chip),
        "seconds": seconds,
        "gap": found.gap,
        "equal_to_brute_force": equal,
    }


def fully_connected() -> nn.Module:
    """A network of its own loop: eight fully connected layers of snnTorch's neurons."""
    torch.manual_seed(0)
    sizes = (64, 48, 48, 48, 48, 48, 48, 48, 10)
    parts = [
        part
        for wide, narrow in pairwise(sizes)
        for part in (nn.Linear(wide, narrow), snn.Leaky(beta=0.9, threshold=0.2, init_hidden=True))
    ]
    return over_time(nn.Sequential(*parts), input="steps")


def net(name: str, samples: int = 4) -> dict[str, Any]:
    """Price and search a network: a bundled model on its data, or one with drawn weights and data.

    Args:
        name: of :data:`NETS`.
        samples: that it runs.
    """
    if name == "chain":
        spikes = (
            torch.rand(8, samples, 64, generator=torch.Generator().manual_seed(0)) < 0.3
        ).float()
        mapped = map_model(fully_connected(), calibration=spikes, inputs="spikes")
        x = spikes
    elif name == "hnn_mlp":
        torch.manual_seed(0)
        x = torch.rand(samples, 1, 28, 28)
        model = create_model(
            name, num_classes=10, in_channels=1, coding="duplicate", split=1, shared=True
        )
        mapped = map_model(model.eval(), calibration=x)
    else:
        checkpoint = load_checkpoint(MODELS / f"{name}.pt")
        data = load_data(str(checkpoint.provenance["data"]))
        x, _ = data.test.tensors(samples)
        mapped = map_model(checkpoint.model, calibration=data.train.tensors(CALIBRATION)[0])
    run = simulate(mapped, x, apart=1)
    begin = perf_counter()
    choices = choices_of(mapped, run, load_host())
    seconds = perf_counter() - begin
    front = choices.front(ENERGY, "latency_us")
    return {
        "net": name,
        "limited": False,
        **searched(choices.costed),
        "pricing_seconds": seconds,
        "front": [
            {
                "on_chip": sorted(point.on_chip),
                **{k: point.totals[k] for k in ("energy_uj", "latency_us", "cores")},
            }
            for point in front
        ],
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    as_json = parser.parse_args().json
    nets = (net(name) for name in NETS)
    cases = product(DRAWN, LAYERS, (False, True))
    runs = (run(kind, layers, limited) for kind, layers, limited in cases)
    if as_json:
        print(json.dumps([*nets, *runs], indent=2))
        return
    print("net       limited  layers  groups  on chip  seconds  gap  equal to brute force  front")
    for one in chain(nets, runs):
        print(
            f"{one['net']:8}  {one['limited']!s:7}  {one['layers']:6}  {one['groups']:6}  "
            f"{one['on_chip']:7}  {one['seconds']:7.3f}  {one['gap']:3.1g}  "
            f"{one['equal_to_brute_force']!s:20}  {len(one['front']) if 'front' in one else '-'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
