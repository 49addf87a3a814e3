"""What a loop costs in simulation: a layer whose spikes come back to it, and one without.

``python -m benchmarks.loops`` prints the seconds of one batch, reference and fast backend.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch

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


def main() -> None:
    """Time both backends with and without the loop; their spikes must be equal."""
    torch.manual_seed(0)
    inputs = {"x": torch.rand(STEPS, SAMPLES, NEURONS) < 0.1}
    registers = load_target("loihi").registers
    loop = recurrent()
    (layer,) = loop.populations
    once = replace(loop, populations=(replace(layer, synapses=layer.synapses[:1]),))
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
            seconds.append(min(times))
        equal = "equal" if torch.equal(*spikes) else "DIFFERENT"
        rate = spikes[0].float().mean()
        print(f"{name}: reference {seconds[0]:.3f} s, fast {seconds[1]:.4f} s, {equal}, {rate:.1%}")


if __name__ == "__main__":
    main()
