"""Networks of NIR's paper: N-MNIST on a chip, and what moves the answers of a recurrent one.

Run it with the folder that holds the paper's files, and N-MNIST where has8 finds data:

    uv run python examples/nir_networks.py FOLDER

The files are ``cnn_sinabs.nir``, ``braille_noDelay_bias_zero.nir`` and
``braille_noDelay_noBias_subtract.nir`` of github.com/neuromorphs/NIR at 7232ada, paper/. Their
recordings of Braille are not there: the recurrent networks get random spikes, twelve trains of a
rate of their own for each sample, and are held against their own answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from has8 import load_data
from hwsim import compare, simulate
from mapping import map_model, read_nir
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Graph, Node

STEPS, SAMPLES = 256, 400


def events(path: Path) -> None:
    """100 recordings of 300 ms in steps of one, in float, on the chip, and one in Lava."""
    x, labels = load_data("nmnist", steps=300, window_us=1000).test.tensors(100)
    for reset in ("zero", "subtract"):
        graph = read_nir(path, steps=300, reset=reset)
        found = torch.cat([evaluate(graph, part) for part in x.split(20, 1)])
        print(f"float, reset {reset}: {int((found.argmax(1) == labels).sum())} of 100")
    for bits in (8, 4):
        mapped = map_model(read_nir(path, steps=300), weight_bits=bits)
        found = simulate(mapped, x, batch_size=20).logits
        right, cores = int((found.argmax(1) == labels).sum()), mapped.placement.cores_used
        same = compare(mapped, x[:, :1], "fast", "lava").equal
        print(f"{bits} bits, reset zero: {right} of 100, {cores} cores, equal to Lava: {same}")


def braille(path: Path, reset: str) -> None:
    """How many answers stay when one choice changes."""
    draws = torch.Generator().manual_seed(0)
    rates = 0.12 * torch.rand(1, SAMPLES, 12, generator=draws)
    x = (torch.rand(STEPS, SAMPLES, 12, generator=draws) < rates).float()
    trained = read_nir(path, steps=STEPS, reset=reset)
    before = evaluate(trained, x.double())

    def row(what: str, found: Tensor) -> None:
        same = (found.argmax(1) == before.argmax(1)).double().mean()
        moved = (found - before).abs().mean()
        print(f"{what}: {100 * same:.1f} % of the answers, counts off by {moved:.1f}")

    print(f"\n{path.name}, reset {reset}, mean count {before.mean():.1f}")
    for other in ("zero", "refractory", "subtract", "subtract_at_once"):
        row(f"reset {other}", evaluate(read_nir(path, steps=STEPS, reset=other), x.double()))
    for dt in (5e-5, 2e-4):
        with_dt = {"steps": STEPS, "reset": reset, "dt": dt, "decay": "exponential"}
        row(f"exponential decay, dt {dt} s", evaluate(read_nir(path, **with_dt), x.double()))
    exponential = read_nir(path, steps=STEPS, reset=reset, decay="exponential")
    row("exponential decay", evaluate(exponential, x.double()))
    row("biases left out", evaluate(changed(trained, unbiased), x.double()))
    row("loops take two steps", evaluate(changed(trained, slower), x.double()))
    for bits in (8, 6, 4):
        for scales in ("round", "search"):
            mapped = map_model(trained, weight_bits=bits, scales=scales, calibration=x[:, :40])
            row(f"on the chip, {bits} bits, scales {scales}", simulate(mapped, x).logits)
    few = map_model(trained)
    print("equal to Lava on one sample:", compare(few, x[:, :1], "fast", "lava").equal)


def changed(graph: Graph, change: Callable[[Node], Node]) -> Graph:
    """The graph with each node as a function makes it."""
    return Graph(tuple(map(change, graph)))


def unbiased(node: Node) -> Node:
    """A layer without its biases."""
    return replace(node, tensors={k: x for k, x in node.tensors.items() if k != "bias"})


def slower(node: Node) -> Node:
    """A delay of a step more."""
    late = node.op == "delay"
    return replace(node, attrs={"steps": node.attrs["steps"] + 1}) if late else node


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    events(folder / "cnn_sinabs.nir")
    braille(folder / "braille_noDelay_bias_zero.nir", "zero")
    braille(folder / "braille_noDelay_noBias_subtract.nir", "subtract")
