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
from mapping.graph.evaluate import evaluate

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

    def __init__(self, encoder: nn.Module, features: int) -> None:
        super().__init__()
        self.encoder, self.classify = encoder, classifier(features)

    def forward(self, x):
        rates = torch.sigmoid(self.encoder(x))
        for layer in self.classify[1::2]:
            layer.reset_mem()
        spikes = spikegen.rate(rates, num_steps=STEPS)
        return torch.stack([self.classify(spikes[step]) for step in range(STEPS)]).sum(0)


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


class ByHand(Coded):
    """Draws the spikes of each step in the loop."""

    def __init__(self, draw):
        super().__init__(nn.Linear(6, 30), 30)
        self.draw = draw
        with torch.no_grad():
            self.classify[0].weight *= 3
            self.classify[2].weight *= 3

    def forward(self, x):
        rates = torch.sigmoid(self.encoder(x))
        for layer in self.classify[1::2]:
            layer.reset_mem()
        return sum(self.classify(self.draw(rates)) for _ in range(STEPS))


@pytest.mark.parametrize(
    "draw",
    [
        lambda p: (torch.rand_like(p) < p).float(),
        lambda p: (p > torch.rand_like(p)).to(p.dtype),
        lambda p: torch.lt(torch.rand(p.shape), p) * 1.0,
        lambda p: (torch.rand(*p.size(), device=p.device) < p).type_as(p),
        lambda p: p.bernoulli(),
        torch.bernoulli,
    ],
)
def test_spikes_may_be_drawn_by_hand_in_each_step(draw, tmp_path):
    model = ByHand(draw).eval()
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    mapped = map_model(model, calibration=x)
    (code,) = (node for node in mapped.graph if node.op == "bernoulli")
    assert code.attrs["seeds"] == list(range(STEPS))
    with torch.no_grad():
        with SeededBernoulli(each=range(STEPS)):
            expected = model(x)
        with SeededBernoulli(each=range(STEPS)), numbered(4):
            assert torch.equal(model(x[4:6]), expected[4:6])
        assert not torch.equal(model(x), expected)  # torch's own draws
    assert expected.any() and torch.allclose(evaluate(mapped.graph, x), expected, atol=1e-5)
    again = simulate(load(save(mapped, tmp_path / "net.h8")), x, batch_size=4)
    assert torch.equal(again.logits, simulate(mapped, x, "reference").logits)


def test_steps_that_come_in_are_coded_by_hand_too():
    class Steps(ByHand):
        first = 0

        def forward(self, x):
            for layer in self.classify[1::2]:
                layer.reset_mem()
            return sum(self.classify(self.draw(step)) for step in x.unbind(1)[self.first :])

    x = torch.rand(5, STEPS, 30, generator=torch.Generator().manual_seed(0))
    model = Steps(lambda p: (torch.rand_like(p) < p).float()).eval()
    mapped = map_model(model, calibration=x)
    assert sum(len(chip.populations) for chip in mapped.chip_segments) == 2
    assert torch.equal(simulate(mapped, x).logits, simulate(mapped, x, "reference").logits)
    model.first = 2
    with pytest.raises(TraceError, match="draws the spikes of step 2 in its step 0: .* in order"):
        map_model(model, calibration=x)


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda p: (torch.rand_like(p) <= p).float(), "'le' .*random numbers.*spikegen.rate"),
        (lambda p: (torch.randn_like(p) < p).float(), "'lt' .*random numbers.*spikegen.rate"),
        (lambda p: (torch.rand(p.shape) * 2 < p).float(), "'lt' .*random numbers.*spikegen.rate"),
        (lambda p: p + torch.rand_like(p), "'add' .*random numbers.*spikegen.rate"),
        (lambda p: spikegen.rate(p, num_steps=1)[0], r"draws spikes of one step.*num_steps=T\)"),
    ],
)
def test_other_draws_in_each_step_are_refused_with_what_would_change_it(draw, sentence):
    with pytest.raises(TraceError, match=sentence):
        map_model(ByHand(draw), calibration=torch.randn(4, 6))


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
