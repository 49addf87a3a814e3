"""Follow one weight of the bundled model: from the checkpoint to a core, and to its price.

uv run python examples/one_weight.py
"""

from __future__ import annotations

from pathlib import Path

import has8
import hwsim
import mapping
from mapping.cores.routes import routes

MODEL = Path(__file__).parent / "models" / "digits.pt"
LAYER, PLACE = "blocks.1.snn", (0, 1, 2, 2)
"""A spiking layer of the model, and a weight of it: output, input, row and column of the kernel."""


def main() -> None:
    """Print a line for each place that the weight passes."""
    checkpoint = has8.load_checkpoint(MODEL)
    images, _ = has8.load_data("digits").test.tensors()
    weight = checkpoint.model.get_parameter(f"{LAYER}.synapses.0.weight").detach()
    print(f"checkpoint  {LAYER}.synapses.0.weight{list(PLACE)} = {float(weight[PLACE]):.6f}")

    mapped = mapping.map_model(checkpoint.model, target="loihi", calibration=images)
    node = mapped.graph[f"{LAYER}.synapses.0"]
    print(f"graph       node {node.name} ({node.op}), batch norm folded in: "
          f"{float(node.tensors['weight'][PLACE]):.6f}")  # fmt: skip

    segment = next(s for s in mapped.partition.on_chip if node.name in s.nodes)
    print(f"partition   segment {segment.name} on the {segment.side}: {segment.reason}")

    chip = mapped.chip_segment(segment.name)
    population = chip.population(f"{LAYER}.neuron")
    (synapse,) = population.synapses
    mantissa, exponent = int(synapse.weight[PLACE]), synapse.weight_exp
    threshold = int(population.neuron.threshold[PLACE[0], 0, 0])
    print(f"integers    mantissa {mantissa}, exponent {exponent}, threshold mantissa {threshold}")
    print(f"chip        {synapse.weight_bits} bits, {synapse.sign_mode}; wiring "
          f"{'x'.join(map(str, synapse.wiring.in_shape))} to "
          f"{'x'.join(map(str, synapse.wiring.out_shape))}")  # fmt: skip

    tiles = mapped.placement.tiles
    way = next(
        r for r in routes(mapped.placement, mapped.chip_segments) if r.synapse == synapse.name
    )
    core = mapped.placement.cores[tiles[way.destination].core]
    print(f"cores       a tile of {tiles[way.destination].size} neurons on core {core.index} of "
          f"chip {core.chip}, at router ({core.x}, {core.y})")  # fmt: skip

    run = hwsim.simulate(mapped, images)
    spikes = run.activity.events[synapse.source]
    reached = int(spikes[:, PLACE[1]].sum())
    print(f"run         its input channel sends {reached / len(images):.1f} spikes a sample")

    cost = hwsim.estimate(mapped, run)
    layer = next(item for item in cost.layers if item.name == synapse.name)
    price = mapped.target.accounting().events["synop_conv"].pj
    print(f"price       the layer has {layer.synops / len(images):,.0f} synaptic operations a "
          f"sample at {float(price):g} pJ each")  # fmt: skip


if __name__ == "__main__":
    main()
