"""Networks that code their input by time, with snnTorch's functions or with has8's encoders."""

import pytest
import snntorch as snn
import torch
from snntorch import spikegen
from snntorch.spikegen import latency
from torch import nn

import has8
from has8.errors import BadInput, TraceError
from hwsim import simulate
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Kind

SAMPLES, STEPS = 9, 7


class Coded(nn.Module):
    """Codes its input, then loops."""

    def __init__(self, code):
        super().__init__()
        self.code = code
        options = {"beta": 0.5, "threshold": 0.5, "reset_mechanism": "zero"}
        self.fc1, self.lif1 = nn.Linear(12, 10), snn.Leaky(**options)
        self.fc2, self.lif2 = nn.Linear(10, 5), snn.Leaky(**options)
        for layer in (self.fc1, self.fc2):
            layer.weight.data = (layer.weight * 16).round() / 8
            layer.bias.data = (layer.bias * 8).round() / 8

    def forward(self, x):
        spikes, record = self.code(x), []
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        for step in range(len(spikes)):
            spk, mem1 = self.lif1(self.fc1(spikes[step]), mem1)
            spk, mem2 = self.lif2(self.fc2(spk), mem2)
            record.append(spk)
        return torch.stack(record).sum(0)


def held(net, x, **options):
    """The mapping, which must give what the network does, spike by spike."""
    mapped = map_model(net, calibration=x, **options)
    with torch.no_grad():
        expected = net(x)
    assert expected.any() and torch.equal(evaluate(mapped.graph, x), expected)
    fast, slow = simulate(mapped, x, batch_size=4), simulate(mapped, x, "reference")
    assert torch.equal(fast.logits, slow.logits)
    return mapped


def onto_chip(mapped):
    return {name for segment in mapped.partition.on_chip for name in segment.nodes}


@pytest.fixture
def pixels():
    torch.manual_seed(0)
    values = (torch.rand(SAMPLES, 12) * 1.5 - 0.5).clamp(0)
    values[4].clamp_(0.125)  # none at the threshold: the others' times must not change its own
    return values


@pytest.mark.parametrize(
    "code",
    [
        lambda x: spikegen.latency(x, num_steps=STEPS, normalize=True, linear=True),
        lambda x: spikegen.latency(x, num_steps=STEPS, normalize=True, linear=True, clip=True),
        lambda x: spikegen.latency(x, STEPS, tau=5, threshold=0.02, normalize=True, clip=True),
        lambda x: spikegen.latency(x, num_steps=STEPS, tau=2, bypass=True),
        lambda x: spikegen.latency(x * 0.5, num_steps=STEPS, first_spike_time=2, linear=True),
        lambda x: latency(data=x, num_steps=STEPS, normalize=True),
    ],
)
def test_spikegen_latency_is_a_code_of_each_sample(pixels, code, tmp_path):
    mapped = held(Coded(code), pixels)
    assert onto_chip(mapped) == {"fc1", "lif1", "fc2", "lif2"}
    (encoder,) = (node for node in mapped.graph if node.op == "encode")
    assert encoder.attrs["coding"] == "spikegen.latency" and encoder.type.kind is Kind.SPIKE
    again = load(save(mapped, tmp_path / "code.h8"))
    whole = simulate(again, pixels).logits
    alone = torch.cat([simulate(again, x[None]).logits for x in pixels])
    assert torch.equal(whole, alone), "a sample is coded by itself"
    with pytest.raises(BadInput, match=r"spikegen.latency fails: .*between \[0, 1\]"):
        simulate(again, pixels * 3)


@pytest.mark.parametrize("off_spike", [False, True])
def test_spikegen_delta_makes_spikes_of_changes(off_spike):
    torch.manual_seed(0)
    x = torch.rand(STEPS, SAMPLES, 12)
    net = Coded(lambda x: spikegen.delta(x, threshold=0.25, off_spike=off_spike))
    mapped = held(net, x, inputs="steps")
    assert "delta" in [node.op for node in mapped.graph]
    expected = {"fc2", "lif2"} | (set() if off_spike else {"fc1", "lif1"})
    assert onto_chip(mapped) == expected  # -1 is no spike


def test_what_is_no_code_of_spikes_is_refused_in_one_sentence(pixels):
    for code, sentence in (
        (lambda x: spikegen.latency(x, bypass=True), "a known number of steps: give it num_steps"),
        (
            lambda x: spikegen.latency(x, STEPS, linear=True, interpolate=True),
            "leave out .*interpolate",
        ),
        (
            lambda x: spikegen.latency(x, STEPS, tau=3.0),
            "fails: The maximum value in .* is out of bounds",
        ),
        (
            lambda x: spikegen.delta(x),
            "'delta' .*all steps, on the first axis, once, in front .* inputs='steps'",
        ),
    ):
        with pytest.raises(TraceError, match=sentence):
            map_model(Coded(code), calibration=pixels)


def test_the_functions_of_spikegen_stay_as_they_were(pixels):
    before = spikegen.latency, spikegen.delta
    map_model(Coded(lambda x: spikegen.latency(x, 7, linear=True, tau=5)), calibration=pixels)
    assert (spikegen.latency, spikegen.delta) == before and latency is before[0]


def test_over_time_codes_by_latency(pixels):
    step = nn.Sequential(
        nn.Linear(12, 10),
        snn.Leaky(0.5, threshold=0.5, init_hidden=True, reset_mechanism="zero"),
    )
    step[0].weight.data = (step[0].weight * 16).round() / 8
    step[0].bias.data.zero_()
    mapped = held(has8.over_time(step, STEPS, input="latency"), pixels)
    (encoder,) = (node for node in mapped.graph if node.op == "encode")
    assert encoder.attrs == {"coding": "latency", "steps": STEPS, "function": "linear"}
    assert onto_chip(mapped) == {"net.0", "net.1"}
    with pytest.raises(BadInput, match="at least 2 steps"):
        has8.over_time(step, 1, input="latency")
