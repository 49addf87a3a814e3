"""The law of loops: random ones are their graph, and all simulators compute the same."""

from __future__ import annotations

import random

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from has8.errors import TraceError
from hwsim import simulate
from hwsim.backends.lava.backend import Lava
from mapping import Mapped, map_model
from mapping.graph.evaluate import evaluate
from mapping.tune import tune

INPUT, INPUTS, BATCH = -1, 4, 5
LONGEST = 4
NEVER = "run more steps than it has|that nothing outside feeds"
"""Of networks whose loop ends before a delay does."""


class Looped(nn.Module):
    """One to three populations in random loops; its numbers are whole in 8 bits.

    Args:
        seed: of all that is random.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        pick = random.Random(seed)
        sizes = [pick.randint(2, 6) for _ in range(pick.randint(1, 3))]
        self.edges: list[tuple[int, int, int]] = []
        """Source, target and delay of each layer; -1 is the input."""
        for to in range(len(sizes)):
            self.edges.append((to - 1, to, pick.choice([0, 0, 0, 1, 3])))
            if pick.random() < 0.7:
                self.edges.append((to, to, pick.choice([1, 1, 2, LONGEST])))
            for source in range(INPUT, len(sizes)):
                if pick.random() < 0.25:
                    least = 0 if source < to else 1
                    self.edges.append((source, to, pick.randint(least, LONGEST)))
        self.layers = nn.ModuleList()
        for source, to, _ in self.edges:
            layer = nn.Linear(INPUTS if source == INPUT else sizes[source], sizes[to], bias=False)
            for weight in layer.weight.data.view(-1):
                weight.fill_(pick.choice([-1, 0, 1, 1]))
            layer.weight.data[0, 0] = 1
            self.layers.append(layer)
        thresholds = [pick.choice([0.5, 1.5, 2.5]) for _ in sizes]
        reset = pick.choice(["zero", "subtract"])
        self.cells = nn.ModuleList(
            snn.Leaky(1.0, threshold=threshold, reset_mechanism=reset) for threshold in thresholds
        )
        self.sizes, self.reset = sizes, reset

    def forward(self, x: Tensor) -> Tensor:
        states = [cell.reset_mem() for cell in self.cells]
        past = [[torch.zeros(x.shape[1], size)] * LONGEST for size in self.sizes]
        past.append([torch.zeros(x.shape[1], INPUTS)] * LONGEST)  # of the input, at -1
        record = []
        for step in x:
            past[INPUT].append(step)
            for to, cell in enumerate(self.cells):
                current = sum(
                    layer(past[source][-1 - late if source < to else -late])
                    for layer, (source, target, late) in zip(self.layers, self.edges, strict=True)
                    if target == to
                )
                spikes, states[to] = cell(current, states[to])
                past[to].append(spikes)
            record.append(past[len(self.sizes) - 1][-1])
        return torch.stack(record)


def by_hand(net: Looped, x: Tensor) -> Tensor:
    """What the network computes, without snnTorch."""
    membranes = [torch.zeros(x.shape[1], size) for size in net.sizes]
    spikes: list[list[Tensor]] = [[] for _ in net.sizes] + [list(x)]
    for step in range(len(x)):
        for to, cell in enumerate(net.cells):
            fired = (membranes[to] > cell.threshold).float()
            left = membranes[to] * (1 - fired) if net.reset == "zero" else membranes[to]
            for layer, (source, target, late) in zip(net.layers, net.edges, strict=True):
                if target == to and late <= step:
                    left = left + spikes[source][step - late] @ layer.weight.T
            membranes[to] = left if net.reset == "zero" else left - fired * cell.threshold
            spikes[to].append((membranes[to] > cell.threshold).float())
    return torch.stack(spikes[len(net.sizes) - 1])


def made(seed: int, steps: int) -> tuple[Looped, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return Looped(seed), (torch.rand(steps, BATCH, INPUTS, generator=generator) < 0.5).float()


def on_all(mapped: Mapped, x: Tensor, expected: Tensor, *backends: str) -> None:
    for backend in backends:
        assert torch.equal(simulate(mapped, x, backend).logits, expected), backend


@law(12)
@example(seed=0, steps=49)
@given(
    seed=st.integers(0, 10**6), steps=st.one_of(st.integers(LONGEST + 1, 12), st.integers(1, 50))
)
def test_a_random_loop_is_its_graph_and_what_the_chip_computes(seed, steps):
    net, x = made(seed, steps)
    with torch.no_grad():
        expected = net(x)
        assert torch.equal(by_hand(net, x), expected)
    try:
        mapped = map_model(net, calibration=x, inputs="spikes")
    except TraceError as error:
        assert steps <= LONGEST and any(part in str(error) for part in NEVER.split("|")), error
        assume(False)
    assert torch.equal(evaluate(mapped.graph, x), expected)
    run = simulate(mapped, x)
    clipped = any(overflow.v_clips for overflow in run.activity.overflows.values())
    rounded = any(error.weight for error in mapped.errors.values())  # by a membrane of many steps
    assert clipped or rounded or torch.equal(run.logits, expected)  # a membrane that only sinks
    on_all(mapped, x, run.logits, "reference")
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    on_chip = {p.name for chip in mapped.chip_segments for p in chip.populations}
    for place in range(len(net.cells)):
        why = reasons.get(f"cells.{place}", "")
        needed = f"cells.{place}" in mapped.graph
        assert (f"cells.{place}" in on_chip or "in a loop with" in why) == needed, why
    if on_chip:
        tuned = tune(net, calibration=x, inputs="spikes", scales="round")
        with torch.no_grad():
            assert torch.equal(tuned(x), run.logits)


@pytest.mark.skipif(Lava().unavailable() is not None, reason=str(Lava().unavailable()))
@pytest.mark.parametrize("seed", [1, 2])
def test_lava_agrees_too(seed):
    net, x = made(seed, 7)
    mapped = map_model(net, calibration=x, inputs="spikes")
    assert any(chip.loop() for chip in mapped.chip_segments)
    with torch.no_grad():
        on_all(mapped, x, net(x), "lava")


@pytest.mark.parametrize("steps", range(1, 5))
def test_what_a_delay_holds_back_for_longer_than_the_loop_runs_is_zero(steps):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.back = nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.lif = snn.Leaky(0.5, threshold=0.25)
            for layer in (self.fc, self.back):
                layer.weight.data.fill_(0.5)

        def forward(self, x):
            membrane, past, record = self.lif.reset_mem(), [torch.zeros(x.shape[1], 3)] * 3, []
            for step in x:
                spikes, membrane = self.lif(self.fc(step) - self.back(past.pop(0)), membrane)
                past.append(spikes)
                record.append(spikes)
            return torch.stack(record)

    net, x = Net(), torch.ones(steps, 2, 4)
    mapped = map_model(net, calibration=x, inputs="spikes")
    delays = {s.delay for chip in mapped.chip_segments for _, s in chip.synapses()}
    assert delays == ({0, 3} if steps == 4 else {0})
    with torch.no_grad():
        on_all(mapped, x, net(x), "reference", "fast")
