"""What a loop costs in simulation: a layer whose spikes come back to it, and one without.

``python -m benchmarks.loops`` prints the seconds of one batch, reference and fast backend.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import click
import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.machine import commit, hardware, versions, wide_console
from hwsim.backends.fast.backend import Fast
from hwsim.backends.reference import Reference
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.wiring import dense
from mapping.targets.schema import load_target

NEURONS, STEPS, SAMPLES, RUNS = 256, 50, 128, 5


def recurrent() -> ChipSegment:
    """A layer of neurons behind as many inputs, with random synapses from all to all of itself."""
    rng = np.random.default_rng(0)
    wires = dense(NEURONS, (NEURONS,))
    ahead, back = (2 * rng.integers(-30, 31, wires.weight_shape) for _ in range(2))
    synapses = (
        Synapse("in", "x", wires, ahead, 0, "mixed", 8),
        Synapse("back", "n", wires, back, 0, "mixed", 8, delay=1),
    )
    du, dv, threshold, bias, bias_exp = (np.array(x, np.int64) for x in (1000, 500, 400, 0, 0))
    neuron = Lif(du, dv, threshold, bias, bias_exp)
    layer = Population("n", (NEURONS,), synapses, neuron)
    return ChipSegment("loop", STEPS, (Port("x", (NEURONS,)),), (layer,), ("n",))


def measure() -> list[dict[str, Any]]:
    """A row with the loop and one without.

    Returns:
        JSON-able: ``layer``; seconds of one batch ``reference_s`` (best of 2) and ``fast_s`` (best
        of 6); whether their spikes are ``equal``; the part of all neurons and steps that ``fire``.
    """
    torch.manual_seed(0)
    inputs = {"x": torch.rand(STEPS, SAMPLES, NEURONS) < 0.1}
    registers = load_target("loihi").registers
    loop = recurrent()
    (layer,) = loop.populations
    once = replace(loop, populations=(replace(layer, synapses=layer.synapses[:1]),))
    rows = []
    for name, chip in (("with a loop", loop), ("without", once)):
        spikes, seconds = [], []
        for backend, runs in ((Reference(), 1), (Fast(), RUNS)):
            program = backend.compile(chip, registers)
            times = []
            for _ in range(runs + 1):
                start = time.perf_counter()
                found = program(inputs).spikes["n"]
                times.append(time.perf_counter() - start)
            spikes.append(found)
            seconds.append(round(min(times), 4))
        rows.append(
            {
                "layer": name,
                "reference_s": seconds[0],
                "fast_s": seconds[1],
                "equal": torch.equal(*spikes),
                "fire": round(float(spikes[0].float().mean()), 4),
            }
        )
    return rows


@click.command()
@click.option("--threads", type=int, default=1, show_default=True, help="Of torch.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(threads: int, as_json: bool) -> None:
    """Time both backends with and without the loop; their spikes must be equal."""
    torch.set_num_threads(threads)
    rows = measure()
    title = f"{NEURONS} neurons, {STEPS} steps, {SAMPLES} samples"
    shown = Table(*rows[0], title=title, box=SIMPLE_HEAD)
    for row in rows:
        shown.add_row(*map(str, row.values()))
    wide_console().print(shown)
    if as_json:
        facts = {"hardware": hardware(), "threads": threads, "commit": commit(), **versions()}
        click.echo(json.dumps({"benchmark": "loops", **facts, "rows": rows}))


if __name__ == "__main__":
    main()
