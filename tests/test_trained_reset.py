"""A network trained to reset by subtraction, on neurons that reset to zero: reported."""

from __future__ import annotations

import io

import msgspec
import pytest
import snntorch as snn
import torch
from rich.console import Console
from torch import nn

from has8 import over_time
from has8.errors import BadInput
from hwsim import agreement, estimate, simulate
from hwsim.experiments.fidelity import float_answers
from hwsim.report import render, summarize, to_dict
from hwsim.report.experiment import Experiment, experiment_to_dict, render_experiment
from mapping import load, load_target, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.resets import as_trained, changed_resets

STEPS, SAMPLES, HIDDEN = 20, 40, 60
LABELS = torch.arange(SAMPLES) % 4


def network(reset: str = "subtract") -> nn.Module:
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Linear(12, HIDDEN),
        snn.Leaky(beta=0.9, init_hidden=True, reset_mechanism=reset),
        nn.Linear(HIDDEN, 4),
        snn.Leaky(beta=0.9, init_hidden=True, reset_mechanism=reset),
    )
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net[0].weight *= 3
    net[2].bias *= 0
    net[2].weight *= 3
    return over_time(net, readout="count", input="steps").eval()


@pytest.fixture(scope="module")
def spikes():
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(SAMPLES, 12, generator=generator) ** 2
    return (torch.rand(STEPS, SAMPLES, 12, generator=generator) < rates).float()


def mapped_with(spikes, reset, target="loihi"):
    return map_model(network(), target, calibration=spikes, inputs="spikes", reset=reset)


def shown(draw) -> str:
    console = Console(file=io.StringIO(), width=200)
    draw(console)
    return console.file.getvalue()


def test_the_graph_keeps_what_was_trained_and_gives_it_back(spikes, tmp_path):
    kept, changed = (mapped_with(spikes, reset) for reset in ("trained", "zero"))
    assert changed_resets(kept.graph) == ()
    assert len(changed_resets(changed.graph)) == 2
    assert torch.equal(evaluate(as_trained(changed.graph), spikes), evaluate(kept.graph, spikes))
    with torch.no_grad():
        expected = network("zero")(spikes)
        assert torch.equal(evaluate(changed.graph, spikes), expected)
        assert not torch.equal(network()(spikes), expected)
    assert {p.neuron.reset for chip in changed.chip_segments for p in chip.populations} == {"zero"}
    save(changed, tmp_path / "net.h8")
    assert changed_resets(load(tmp_path / "net.h8").graph) == changed_resets(changed.graph)


def test_a_report_says_what_the_reset_alone_costs(spikes):
    changed = mapped_with(spikes, "zero")
    found = agreement(changed, spikes, labels=LABELS, batch_size=7)
    with torch.no_grad():
        trained, zero = network()(spikes).argmax(1), network("zero")(spikes).argmax(1)
    assert torch.equal(found.trained_answers, trained)
    assert torch.equal(found.float_answers, zero)
    assert found.reset_share == float((trained == zero).double().mean()) < 1
    assert found.trained_accuracy == float((trained == LABELS).double().mean())
    assert torch.equal(float_answers(changed, spikes, trained=True), trained)
    experiment = Experiment("net", "loihi", "data", "fast", None, _points(found), False)
    assert experiment_to_dict(experiment)["reset"] == {"agreement": found.reset_share}
    text = shown(lambda console: render_experiment(console, experiment))
    assert f"{found.reset_share:.2%}".replace("%", " %") in text
    assert "to zero, not by subtraction" in text

    summary = summarize(
        changed,
        estimate(changed, simulate(changed, spikes)),
        accuracy_trained=found.trained_accuracy,
        reset_share=found.reset_share,
    )
    assert to_dict(summary)["reset"]["changed"] == changed_resets(changed.graph)
    assert to_dict(summary)["reset"]["share"] == found.reset_share
    text = shown(lambda console: render(console, summary))
    assert "to zero in 2 layers trained to reset by subtraction" in text
    assert f"{found.trained_accuracy:.2%}".replace("%", " %") in text


def _points(found):
    from hwsim.experiments.faults import FaultPoint, Faults

    return (FaultPoint(1.0, Faults(), found),)


def test_a_report_says_what_reset_by_subtraction_takes(spikes):
    kept = mapped_with(spikes, "trained")
    assert agreement(kept, spikes).trained_answers is None
    summary = summarize(kept, estimate(kept, simulate(kept, spikes)))
    assert (summary.reset.subtracting, summary.reset.compartments) == (HIDDEN + 4, HIDDEN + 4)
    assert f"by subtraction in {HIDDEN + 4} neurons, takes {HIDDEN + 4} compartments" in shown(
        lambda console: render(console, summary)
    )
    used = [
        sum(t.compartments for t in m.placement.tiles) for m in (kept, mapped_with(spikes, "zero"))
    ]
    assert used == [2 * (HIDDEN + 4), HIDDEN + 4]


def test_a_chip_that_resets_to_zero_only_takes_such_a_network_only_when_told(spikes):
    loihi = load_target("loihi")
    registers = msgspec.structs.replace(loihi.registers, resets={"zero": 1})
    target = msgspec.structs.replace(loihi, registers=registers)
    assert mapped_with(spikes, "trained", target).chip_segments == ()
    reasons = [r.reason for r in mapped_with(spikes, "trained", target).partition.rejections]
    assert any("no reset by 'subtract'" in text and "reset='zero'" in text for text in reasons)
    assert len(mapped_with(spikes, "zero", target).chip_segments) == 1
    with pytest.raises(BadInput, match="reset: "):
        mapped_with(spikes, "none")
