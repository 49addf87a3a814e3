"""Rate coding in a network: drawn by chance in training, by the sample's number ever after."""

from __future__ import annotations

import pytest
import snntorch as snn
import torch
from snntorch import spikegen
from torch import nn
from torchvision.models import resnet18

from has8 import over_time
from has8.encoders import RateEncoder, SeededBernoulli, numbered
from has8.errors import TraceError
from hwsim import agreement, compare, simulate
from mapping import load, map_model, save

STEPS = 12


def classifier(features: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(features, 20),
        snn.Leaky(beta=0.9, init_hidden=True),
        nn.Linear(20, 4),
        snn.Leaky(beta=0.9, init_hidden=True),
    )


class Coded(nn.Module):
    """A network that codes its features itself, as snnTorch's users do."""

    def __init__(self, encoder: nn.Module, features: int, steps_at_once: bool = True) -> None:
        super().__init__()
        self.encoder, self.classify = encoder, classifier(features)
        self.steps_at_once = steps_at_once

    def forward(self, x):
        rates = torch.sigmoid(self.encoder(x))
        for layer in self.classify[1::2]:
            layer.reset_mem()
        if self.steps_at_once:
            spikes = spikegen.rate(rates, num_steps=STEPS)
        record = []
        for step in range(STEPS):
            record.append(self.classify(spikes[step] if self.steps_at_once else rates.bernoulli()))
        return torch.stack(record).sum(0)


def test_a_network_that_codes_by_spikegen_is_mapped_with_its_draws(tmp_path):
    model = Coded(nn.Linear(6, 30), 30).eval()
    with torch.no_grad():
        model.classify[0].weight *= 3
        model.classify[2].weight *= 3
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    mapped = map_model(model, calibration=x, scales="search")
    with torch.no_grad(), SeededBernoulli():
        expected = model(x)
    with torch.no_grad():
        with SeededBernoulli(), numbered(4):
            assert torch.equal(model(x[4:6]), expected[4:6])
        assert not torch.equal(model(x), expected)  # torch's own draws
    found = agreement(mapped, x, batch_size=2)
    assert torch.equal(found.float_answers, expected.argmax(1))
    assert compare(mapped, x, "reference", "fast").equal
    assert sum(len(chip.populations) for chip in mapped.chip_segments) == 2
    save(mapped, tmp_path / "net.h8")
    again = simulate(load(tmp_path / "net.h8"), x, batch_size=4).logits
    assert torch.equal(again, simulate(mapped, x).logits)


def test_spikes_drawn_step_by_step_are_refused_with_what_would_change_it():
    with pytest.raises(TraceError, match=r"draws spikes of one step.*spikegen.rate\(x, num_steps"):
        map_model(Coded(nn.Linear(6, 30), 30, steps_at_once=False), calibration=torch.randn(4, 6))


def test_a_loop_outside_can_code_its_input():
    model = over_time(classifier(6), STEPS, input="rate", seed=3)
    x = torch.rand(5, 6)
    mapped = map_model(model, calibration=x)
    assert len(mapped.chip_segments[0].populations) == 2
    run = simulate(mapped, x, record=["spikes"])
    (sent,) = next(iter(run.inputs.values())).values()
    assert torch.equal(sent, RateEncoder(STEPS, 3).eval()(x).bool())
    model.train()
    assert not torch.equal(model.encode(x), model.encode(x))


def test_the_encoder_of_torchvision_stays_on_the_host_as_it_is():
    encoder = resnet18(weights=None)
    encoder.fc = nn.Identity()
    torch.manual_seed(0)
    x = torch.rand(3, 3, 32, 32)
    mapped = map_model(Coded(encoder, 512).eval(), calibration=x)
    (chip,) = mapped.chip_segments
    assert [population.size for population in chip.populations] == [20, 4]
    host = {name for part in mapped.partition.on_host for name in part.nodes}
    convolutions = [n for n, module in encoder.named_modules() if isinstance(module, nn.Conv2d)]
    assert {f"encoder.{name}" for name in convolutions} <= host
    assert all(mapped.graph[f"encoder.{name}"].op == "conv2d" for name in convolutions)
