"""The law of anybody's network: a step loop is its graph, and all simulators compute the same."""

from __future__ import annotations

import random
from typing import Any

import pytest
import snntorch as snn
import torch
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from has8.errors import DoesNotFit
from hwsim import agreement, compare
from hwsim.backends.lava.backend import Lava
from mapping import Mapped, load_target, map_model
from mapping.graph.evaluate import evaluate
from mapping.pipeline import lower

EIGHTHS, BATCH, SHAPE = 8, 3, (2, 6, 6)


class Network(nn.Module):
    """A random network as people write them; its numbers are exact in float32.

    Args:
        seed: of all that is random.
        steps: T.
    """

    def __init__(self, seed: int, steps: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.random, self.steps = random.Random(seed), steps
        self.layers, self.cells, self.pools = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        shape: tuple[int, ...] = SHAPE
        for _ in range(self.random.randint(1, 2)):
            if min(shape[1:]) > 2:
                shape = self._stage(self._convolution(shape[0]), shape, pool=True)
        self._stage(
            nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], 5)), shape
        )
        self.readout = self.random.choice(["stack", "sum", "count", "record"])

    def _stage(self, layer: nn.Module, shape: tuple[int, ...], pool: bool = False) -> Any:
        for name, tensor in layer.named_parameters():
            size = 2 if name.endswith("weight") else 1 / 2
            tensor.data = (torch.randn_like(tensor) * size).round() / EIGHTHS
        found = layer(torch.zeros(1, *shape)).shape[1:]
        pools = [nn.Identity(), nn.Dropout(0.5)]
        if pool and min(found[1:]) > 1:
            pools += [nn.MaxPool2d(2), nn.AvgPool2d(2)]
        self.layers.append(layer)
        self.cells.append(self._cell(tuple(found)))
        self.pools.append(self.random.choice(pools))
        return tuple(self.pools[-1](torch.zeros(1, *found)).shape[1:])

    def _convolution(self, channels: int) -> nn.Module:
        pick = self.random.choice
        groups, bias = pick([1, channels]), pick([True, False])
        if pick([True, True, False]):
            kernel, padding = (pick([1, 3]), pick([2, 3])), (pick([0, 2]), 2)
            options = {"stride": pick([1, 2]), "padding": padding, "dilation": (1, pick([1, 2]))}
            return nn.Conv2d(channels, 4, kernel, groups=groups, bias=bias, **options)
        return nn.ConvTranspose2d(channels, 4, (2, 3), pick([1, 2]), groups=groups, bias=bias)

    def _cell(self, shape: tuple[int, ...]) -> nn.Module:
        pick = self.random.choice

        def constant(*values: float) -> Any:
            one = (*shape[:1], *(1,) * (len(shape) - 1))
            of = pick([None, one, shape])
            if of is None:
                return pick(values)
            return torch.tensor(values)[torch.randint(0, len(values), of)]

        kind = pick([snn.Leaky, snn.Synaptic, snn.RLeaky, snn.RSynaptic, snn.Lapicque])
        options: dict[str, Any] = {"reset_mechanism": pick(["zero", "subtract"])}
        options["threshold"] = constant(0.5, 1.0)
        if kind is snn.Lapicque:
            return kind(R=1, C=2, time_step=1, **options)
        options["beta"] = constant(0.5, 0.75, 0.25)
        if kind in (snn.Synaptic, snn.RSynaptic):
            options["alpha"] = constant(0.5, 0.25)
        if kind in (snn.RLeaky, snn.RSynaptic):
            options |= {"all_to_all": False, "V": pick([-0.25, 0.125])}
        return kind(**options)

    def forward(self, x: torch.Tensor) -> Any:
        states = [cell.reset_mem() for cell in self.cells]
        states = [state if isinstance(state, tuple) else (state,) for state in states]
        record, total = [], 0
        for step in range(x.size(0)):
            flowing = x[step]
            for place, (layer, cell) in enumerate(zip(self.layers, self.cells, strict=True)):
                result = cell(layer(flowing), *states[place])
                recurrent = isinstance(cell, snn.RLeaky | snn.RSynaptic)  # takes its spikes too
                flowing, states[place] = result[0], result if recurrent else result[1:]
                flowing = self.pools[place](flowing)
            record.append(flowing)
            total = total + flowing
        if self.readout == "record":
            kept = torch.zeros(x.size(0), *flowing.shape)
            for step, spikes in enumerate(record):
                kept[step] = spikes
            return kept
        return {"stack": torch.stack(record), "sum": torch.stack(record).sum(0)}.get(
            self.readout, total
        )


def made(seed: int, steps: int, rate: float) -> tuple[Network, torch.Tensor]:
    net = Network(seed, steps).eval()
    return net, (torch.rand(steps, BATCH, *SHAPE) < rate).float()


def mapped_of(net: Network, spikes: torch.Tensor) -> Mapped | None:
    try:
        return map_model(net, calibration=spikes, inputs="spikes")
    except DoesNotFit:  # more different constants than a core has entries
        return None


@law(15)
@given(
    seed=st.integers(0, 10**6),
    steps=st.one_of(st.integers(1, 8), st.integers(9, 50)),
    rate=st.sampled_from([0.05, 0.3, 0.7]),
)
def test_a_step_loop_is_its_graph_and_all_simulators_agree(seed, steps, rate):
    net, spikes = made(seed, steps, rate)
    graph, _ = lower(net, load_target("loihi"), "all", spikes, inputs="spikes")
    with torch.no_grad():
        assert torch.equal(evaluate(graph, spikes), net(spikes))
    mapped = mapped_of(net, spikes)
    if mapped is None:
        return
    on_chip = {p.name for chip in mapped.chip_segments for p in chip.populations}
    stays = {rejection.node for rejection in mapped.partition.rejections}
    assert {f"cells.{place}" for place in range(len(net.cells))} <= on_chip | stays
    assert not stays or any(mapped.graph[name].op == "avgpool" for name in stays)
    assert compare(mapped, spikes, "reference", "fast").equal
    answers = net(spikes) if net.readout in ("sum", "count") else net(spikes).sum(0)
    assert torch.equal(agreement(mapped, spikes, batch_size=2).float_answers, answers.argmax(1))


@pytest.mark.skipif(Lava().unavailable() is not None, reason=str(Lava().unavailable()))
@pytest.mark.parametrize("seed", [3, 11])
def test_lava_agrees_too(seed):
    net, spikes = made(seed, 6, 0.4)
    mapped = mapped_of(net, spikes[:, :2])
    assert mapped is not None
    assert compare(mapped, spikes[:, :2], "fast", "lava").equal
