"""Any network, trained through the chip's integers."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from builders import LOIHI
from torch import nn
from torch.nn import functional as F

import has8
from has8.errors import BadInput
from hwsim import simulate
from mapping import map_model
from mapping.graph.evaluate import evaluate
from mapping.tune import tune

HIDDEN = {"init_hidden": True, "threshold": 0.4}


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    first, last = {
        "zero": (
            snn.Leaky(torch.rand(4, 1, 1), reset_mechanism="zero", **HIDDEN),
            snn.Leaky(0.8, reset_mechanism="zero", **HIDDEN),
        ),
        "subtract": (
            snn.Leaky(0.7, graded_spikes_factor=1.5, **HIDDEN),
            snn.Leaky(0.8, **HIDDEN),
        ),
        "lasting": (
            snn.Synaptic(torch.rand(4, 4, 4), 0.7, **HIDDEN),
            snn.Synaptic(0.5, torch.rand(10), reset_mechanism="zero", **HIDDEN),
        ),
    }[kind]
    layers = nn.Conv2d(2, 4, 3), first, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 10), last
    return has8.over_time(nn.Sequential(*layers), steps=6, readout="count", input="steps")


def spikes(samples: int = 16) -> torch.Tensor:
    return (torch.rand(6, samples, 2, 6, 6, generator=torch.manual_seed(1)) < 0.5).float()


@pytest.mark.parametrize("kind", ["zero", "subtract", "lasting"])
@pytest.mark.parametrize("bits", [8, 3])
def test_it_computes_what_the_chip_does_and_learns(kind, bits):
    x, labels = spikes(), torch.arange(16) % 10
    tuned = tune(network(kind), LOIHI, calibration=x, weight_bits=bits, inputs="spikes")
    optimizer = torch.optim.Adam(tuned.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(tuned(x), labels)
        loss.backward()
        losses.append(loss.item())
        assert all(weight.grad is not None for weight in tuned.weights)
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    mapped = map_model(tuned.graph, LOIHI, scales=tuned.scales, weight_bits=bits)
    assert mapped.partition.on_chip
    for backend in ("reference", "fast"):
        with torch.no_grad():
            assert torch.equal(simulate(mapped, x, backend).logits, tuned(x))


def test_what_stays_on_the_host_is_trained_too():
    """The first neuron takes values, so its layers are in floating point."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(8, 12),
        snn.Leaky(0.7, reset_mechanism="subtract", **HIDDEN),
        nn.Linear(12, 4),
        snn.Leaky(0.8, reset_mechanism="zero", **HIDDEN),
    )
    looped = has8.over_time(net, steps=5, readout="count")
    x = torch.rand(12, 8) * 2
    with torch.no_grad():
        expected = looped(x)
    tuned = tune(looped, LOIHI, calibration=x, scales="round")
    assert torch.allclose(evaluate(tuned.graph, x), expected)
    tuned(x).square().sum().backward()
    for weight in tuned.weights:
        assert weight.grad.any()


class Late(nn.Module):
    """Two layers, of which the second also takes what the first fired in the step before."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.back = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(6, 4)
        self.lif = snn.Leaky(0.7, threshold=0.3, reset_mechanism="zero")
        self.out = snn.Leaky(0.8, threshold=0.3, reset_mechanism="zero")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mem, mem_out, total = self.lif.init_leaky(), self.out.init_leaky(), 0
        before = torch.zeros(x.shape[1], 6)
        for step in x:
            spikes, mem = self.lif(self.first(step), mem)
            fired, mem_out = self.out(self.second(spikes) + self.back(before), mem_out)
            before, total = spikes, total + fired
        return total


def test_spikes_that_come_late_are_tuned():
    torch.manual_seed(0)
    x = (torch.rand(6, 12, 8, generator=torch.manual_seed(3)) < 0.5).float()
    tuned = tune(Late(), LOIHI, calibration=x, inputs="spikes", scales="round")
    tuned(x).square().sum().backward()
    assert all(weight.grad.any() for weight in tuned.weights)
    mapped = map_model(tuned.graph, LOIHI, scales=tuned.scales)
    assert {s.delay for _, s in mapped.chip_segments[0].synapses()} == {0, 1}
    with torch.no_grad():
        answer = tuned(x)
    assert answer.any() and torch.equal(simulate(mapped, x).logits, answer)


class Looped(nn.Module):
    """A recurrent layer, one of snnTorch's or by hand, and one behind it."""

    def __init__(self, kind: str, read: str = "count") -> None:
        super().__init__()
        self.first, self.second, self.back = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 6)
        self.lateral = nn.Linear(6, 6, bias=False)
        options = {"threshold": 0.4, "reset_mechanism": "zero"}
        self.cell = {
            "all": lambda: snn.RLeaky(0.7, linear_features=6, **options),
            "one": lambda: snn.RLeaky(0.75, V=-0.5, all_to_all=False, threshold=0.4),
            "lasting": lambda: snn.RSynaptic(0.5, 0.6, linear_features=6, **options),
            "inhibited": lambda: snn.Leaky(0.5, **options),
            "two layers": lambda: snn.Leaky(torch.rand(6), **options),
        }[kind]()
        self.out = snn.Leaky(0.8, threshold=0.3)
        self.kind, self.read = kind, read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, out, total = self.cell.reset_mem(), self.out.init_leaky(), 0
        spikes, (before, fired) = torch.zeros(x.shape[1], 6), torch.zeros(2, x.shape[1], 4)
        for step in x:
            current = self.first(step)
            if self.kind == "inhibited":
                current = current - self.lateral(spikes)
            if self.kind == "two layers":
                current = current + self.back(before)
            if isinstance(state, tuple):
                state = self.cell(current, *state)
                spikes = state[0]
            else:
                spikes, state = self.cell(current, state)
            before = fired
            fired, out = self.out(self.second(spikes), out)
            total = total + fired
        return out if self.read == "membrane" else total


LOOPS = {
    "all": "cell.recurrent",
    "one": "cell.recurrent",
    "lasting": "cell.recurrent",
    "inhibited": "lateral",
    "two layers": "back",
}
"""The layer that closes each loop."""


@pytest.mark.parametrize("kind", LOOPS)
def test_loops_are_tuned_through_time(kind):
    """What is computed is what the chip does, and all weights learn; rounded ones get better."""
    torch.manual_seed(0)
    net = Looped(kind)
    x = (torch.rand(6, 64, 8, generator=torch.manual_seed(3)) < 0.5).float()
    with torch.no_grad():
        expected = net(x)

    def error(mapped):
        return (simulate(mapped, x).logits - expected).abs().mean()

    tuned = tune(net, LOIHI, calibration=x, weight_bits=2, inputs="spikes", scales="round")
    before = error(map_model(tuned.graph, LOIHI, scales=tuned.scales, weight_bits=2))
    optimizer = torch.optim.Adam(tuned.parameters(), lr=2e-2)
    for epoch in range(25):
        optimizer.zero_grad()
        F.mse_loss(tuned(x), expected).backward()
        assert epoch or tuned.weights[tuned.places[LOOPS[kind], "weight"]].grad.any()
        optimizer.step()
    mapped = map_model(tuned.graph, LOIHI, scales=tuned.scales, weight_bits=2)
    assert error(mapped) < 0.7 * before
    (chip,) = mapped.chip_segments
    assert chip.loop() and not mapped.partition.rejections
    for backend in ("reference", "fast"):
        with torch.no_grad():
            assert torch.equal(simulate(mapped, x, backend).logits, tuned(x))


def test_gradients_go_back_through_recurrent_spikes_alone():
    """Membranes that keep next to nothing: spikes carry what the first step does to the last."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 6)
            self.cell = snn.RLeaky(0.0, linear_features=6, threshold=0.3)

        def forward(self, x):
            spikes, membrane = self.cell.init_rleaky()
            for step in x:
                spikes, membrane = self.cell(self.fc(step), spikes, membrane)
            return spikes

    torch.manual_seed(0)
    x = (torch.rand(6, 12, 8) < 0.5).float()
    tuned = tune(Net(), LOIHI, calibration=x, inputs="spikes", scales="round")
    x.requires_grad_()
    tuned(x).square().sum().backward()
    sizes = x.grad.flatten(1).abs().sum(1)
    assert (sizes[:-1] > 1e-3 * sizes[1:]).all(), "a membrane leaves 1/4096 of a step's to the next"


def test_a_loop_that_stays_on_the_host_is_trained_too():
    """Values drive it, in floating point; its spikes go to the chip."""
    torch.manual_seed(0)
    x = torch.rand(6, 16, 8)
    tuned = tune(Looped("all"), LOIHI, calibration=x, inputs="steps", scales="round")
    tuned(x).square().sum().backward()
    assert all(weight.grad.any() for weight in tuned.weights)
    mapped = map_model(tuned.graph, LOIHI, scales=tuned.scales)
    assert [p.name for chip in mapped.chip_segments for p in chip.populations] == ["out"]
    with torch.no_grad():
        assert torch.allclose(simulate(mapped, x).logits, tuned(x))


def test_a_network_without_a_layer_for_the_chip_is_refused():
    with pytest.raises(BadInput, match="nothing of this model goes to the chip"):
        tune(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), LOIHI, calibration=torch.rand(4, 4))
