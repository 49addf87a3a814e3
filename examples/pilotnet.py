"""Intel's PilotNet on has8's Loihi 2, held against the record of its u, v and spikes.

Run it with the folder that holds ``network.net`` and ``trace.npz``:

    uv run python examples/pilotnet.py FOLDER [IMAGE.npy]

With a name it keeps the image there, for ``has8-map FOLDER/network.net --data IMAGE.npy``. Both
files are from lava-dl at d825ac5, tests/lava/lib/dl/netx/gts/pilotnet_lif. The trace has that
folder's arrays as one file: ``image``, and of each layer ``NAME.u`` and ``NAME.v``,
``(W, H, C, T)`` or ``(N, T)``, and ``NAME.spikes``, packed to bits, with their ``NAME.shape``.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from hwsim import estimate, simulate
from mapping import map_model, read_netx
from mapping.cores.columns import columns

LAYERS = ("input", *(f"conv-{k}" for k in range(5)), *(f"fc-{k}" for k in range(4)))
INTEL = (13, 25, 13, 3, 3, 2, 12, 1, 1, 1)
"""Cores of each layer by Intel's compiler, from lava-dl's pilotnet_snn/benchmark.ipynb."""


def main(folder: Path, kept: str | None = None) -> None:
    """Print what is equal, the cores and the price."""
    trace = np.load(folder / "trace.npz")
    image = torch.from_numpy(trace["image"].transpose(2, 1, 0)[None]).float()
    x = (image + 4) / 80  # the file's input layer makes biases 80 x - 4 of pixels in 0..1
    if kept is not None:
        np.save(kept, x.numpy())

    mapped = map_model(read_netx(folder / "network.net", steps=24, clear_every=17), "loihi2")
    (chip,) = mapped.chip_segments
    run = simulate(mapped, x, record=("spikes", "membranes"))
    wrong = {"spikes": 0, "v": 0}
    values = {"spikes": 0, "v": 0}
    for place, name in enumerate(LAYERS[:-1]):
        shape = trace[f"{name}.shape"]
        spikes = np.unpackbits(trace[f"{name}.spikes"], count=int(np.prod(shape))).reshape(shape)
        fired = run.spikes[chip.name][f"layer.{place}"][:, 0].numpy().T
        wrong["spikes"] += int((fired != spikes.astype(bool)).sum())
        values["spikes"] += spikes.size
        if f"{name}.v" in trace:
            v = run.membranes[chip.name][f"layer.{place}"][:, 0].numpy().T
            recorded = trace[f"{name}.v"]  # silicon reads 128 where a spike cleared the membrane
            wrong["v"] += int((np.where(fired, 128, v) != recorded).sum())
            values["v"] += v.size
    # fc-3's record is of a run that was cleared every 16 steps, as Lava counts them from 1
    answer = read_netx(folder / "network.net", steps=25, clear_every=16, clear_at=15)
    whole = map_model(answer, "loihi2")
    membranes = simulate(whole, x, record=("membranes",)).membranes[whole.chip_segments[0].name]
    wrong["v"] += int((membranes["layer.9"].numpy().ravel() != trace["fc-3.v"].ravel()).sum())
    values["v"] += trace["fc-3.v"].size
    for what, count in values.items():
        print(f"{what}: {wrong[what]} of {count:,} differ")

    tiles = [tile.population for tile in mapped.placement.tiles]
    alike = [tile.population for tile in columns(mapped.chip_segments, mapped.target)]
    print("layer   neurons  cores  --allocate intel  Intel's")
    for place, (name, theirs) in enumerate(zip(LAYERS, INTEL, strict=True)):
        own = f"layer.{place}"
        neurons = chip.population(own).size
        print(f"{name:7}{neurons:8,}{tiles.count(own):7}{alike.count(own):18}{theirs:9}")
    print(f"{'all':15}{mapped.placement.cores_used:7}{len(alike):18}{sum(INTEL):9}")

    prices(folder, x)


def prices(folder: Path, x: torch.Tensor) -> None:
    """Print time and energy of 16 steps on three sets of tiles, beside what was measured."""
    graph = read_netx(folder / "network.net", steps=16, clear_every=16, clear_at=15)
    print("measured: 74 cores, 152.85 µs a step (107 to 201), 1,093.5 µJ in 16 steps")
    for allocation in ("cores", "latency", "intel"):
        mapped = map_model(graph, "loihi2", allocation=allocation)
        cost = estimate(mapped, simulate(mapped, x, apart=1))
        latency, events = cost.price.latency, cost.energy_uj.events
        step = (latency.chip_us + latency.barrier_us) / len(cost.steps)
        print(f"--allocate {allocation}: {cost.cores_used} cores, {step} a step, {events}")
    layers = {tile.core: tile.population for tile in mapped.placement.tiles}
    waits: Counter[str] = Counter()
    for _, core, stage in (step.bottleneck.split() for step in cost.steps):
        waits[f"{stage} of {LAYERS[int(layers[int(core)].split('.')[1])]}"] += 1
    print("steps wait for", ", ".join(f"{name} ({steps})" for name, steps in waits.most_common()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
