"""Neurons with one constant for all, for each channel or for each: from snnTorch to the chip."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
import snntorch as snn
import torch
from builders import LOIHI, law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import has8
from has8.errors import TraceError
from hwsim import estimate, simulate
from mapping import load, map_model, save
from mapping.graph.evaluate import evaluate
from mapping.graph.factors import fold_factors
from mapping.graph.ir import Graph, Kind, Node, Signal, sorted_graph
from mapping.graph.ops import OPS, op_of
from mapping.graph.ops.neuron import infer
from mapping.graph.pooling import OR
from mapping.graph.verify import verify_graph
from mapping.partition.biases import biases_as_neurons
from mapping.partition.rules import reject


def network(first: nn.Module, second: nn.Module) -> nn.Module:
    """Spikes of (2, 6, 6) to counts of 10 classes, through two of snnTorch's neurons."""
    torch.manual_seed(0)
    layers = nn.Conv2d(2, 4, 3), first, nn.Flatten(), nn.Linear(64, 10, bias=False), second
    return has8.over_time(nn.Sequential(*layers), steps=8, readout="count", input="steps")


def spikes(samples: int = 12) -> torch.Tensor:
    return (torch.rand(8, samples, 2, 6, 6, generator=torch.manual_seed(1)) < 0.5).float()


INSIDE = {"init_hidden": True, "reset_mechanism": "zero"}
CELLS = {
    "channels": (
        lambda: snn.Leaky(torch.rand(4, 1, 1), threshold=torch.rand(4, 1, 1) + 0.2, **INSIDE),
        lambda: snn.Leaky(torch.rand(10), threshold=torch.rand(10) + 0.2, **INSIDE),
    ),
    "neurons": (
        lambda: snn.Leaky(torch.rand(4, 4, 4), threshold=torch.rand(4, 4, 4) + 0.2, **INSIDE),
        lambda: snn.Synaptic(
            torch.rand(10), torch.rand(10), init_hidden=True, reset_mechanism="subtract"
        ),
    ),
    "learned": (
        lambda: snn.Leaky(0.6, learn_beta=True, learn_threshold=True, **INSIDE),
        lambda: snn.Synaptic(
            0.5, torch.rand(10), threshold=0.5, learn_alpha=True, learn_beta=True, init_hidden=True
        ),
    ),
}


@pytest.mark.parametrize("what", CELLS)
@pytest.mark.parametrize("scales", ["round", "search"])
def test_they_map_and_come_back_and_all_simulators_agree(what, scales, tmp_path):
    torch.manual_seed(0)
    net, x = network(*(make() for make in CELLS[what])), spikes()
    mapped = map_model(net, calibration=x, inputs="spikes", scales=scales)
    assert not {"1", "4"} & {r.node.split(".")[-1] for r in mapped.partition.rejections}
    with torch.no_grad():
        expected = net(x)
    assert torch.equal(evaluate(mapped.graph, x), expected)
    again = load(save(mapped, tmp_path / "x.h8"))
    assert again.errors == mapped.errors
    runs = [simulate(m, x, b) for m in (mapped, again) for b in ("reference", "fast")]
    for run in runs:
        assert run.logits.any() and torch.equal(run.logits, runs[0].logits)
    assert (runs[0].logits - expected).abs().mean() < 0.3  # of up to 8 spikes


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_reset_in_the_step_of_the_spike_is_another_than_that_of_the_next(reset):
    torch.manual_seed(0)
    at_once = {"init_hidden": True, "reset_mechanism": reset, "reset_delay": False}
    at_once["threshold"] = 0.3
    net, x = network(snn.Leaky(0.8, **at_once), snn.Synaptic(0.5, 0.8, **at_once)), spikes()
    registers = msgspec.structs.replace(
        LOIHI.registers, resets={**LOIHI.registers.resets, "subtract_at_once": 2}
    )
    offers = msgspec.structs.replace(LOIHI, registers=registers)
    mapped = map_model(net, offers, calibration=x, inputs="spikes")
    with torch.no_grad():
        expected = net(x)
        later = [layer for layer in net.modules() if hasattr(layer, "reset_delay")]
        for layer in later:
            layer.reset_delay = True
        assert not torch.equal(net(x), expected)
        for layer in later:
            layer.reset_delay = False
    assert torch.equal(evaluate(mapped.graph, x), expected)
    assert len(mapped.chip_segments[0].populations) == 2
    fast, slow = (simulate(mapped, x, backend) for backend in ("fast", "reference"))
    assert torch.equal(fast.logits, slow.logits)
    assert (fast.logits - expected).abs().mean() < 0.3
    on_loihi = map_model(net, calibration=x, inputs="spikes")
    reasons = [r.reason for r in on_loihi.partition.rejections]
    assert any("no reset by 'subtract_at_once'" in reason for reason in reasons) == (
        reset == "subtract"
    )
    zero = map_model(net, calibration=x, inputs="spikes", reset="zero")
    rules = {p.neuron.reset for p in zero.chip_segments[0].populations}
    assert rules == {"zero"}


@pytest.mark.parametrize("scales", ["round", "search"])
def test_the_bias_of_a_lasting_current_comes_from_a_neuron_that_always_fires(scales, tmp_path):
    torch.manual_seed(0)
    cells = [
        snn.Synaptic(torch.rand(4, 1, 1), 0.6, threshold=0.4, **INSIDE),
        snn.Synaptic(0.5, 0.8, threshold=0.4, **INSIDE),
    ]
    layers = nn.Conv2d(2, 4, 3), cells[0], nn.Flatten(), nn.Linear(64, 10), cells[1]
    layers[3].bias.data[:5] += 0.5
    net = has8.over_time(nn.Sequential(*layers), steps=8, readout="count", input="steps")
    x = spikes()
    mapped = map_model(net, calibration=x, inputs="spikes", scales=scales)
    with torch.no_grad():
        expected = net(x)
    assert torch.allclose(evaluate(mapped.graph, x), expected)
    (chip,) = mapped.chip_segments
    assert {p.name: p.shape for p in chip.populations} == {
        "net.1": (4, 4, 4), "net.1.bias": (1, 4, 4), "net.4": (10,), "net.4.bias": (1,)
    }  # fmt: skip
    again = load(save(mapped, tmp_path / "x.h8"))
    runs = [simulate(m, x, b, record=("spikes",)) for m, b in (
        (mapped, "reference"), (mapped, "fast"), (again, "fast")
    )]  # fmt: skip
    for run in runs:
        assert torch.equal(run.logits, runs[0].logits)
        for name in ("net.1.bias", "net.4.bias"):
            assert run.spikes[chip.name][name].all()
    assert (runs[0].logits - expected).abs().mean() < 0.3
    assert estimate(mapped, runs[1]).energy_uj.total.value > 0


@law(25)
@given(st.integers(0, 10_000), st.integers(1, 50), st.booleans(), st.booleans())
def test_a_bias_as_a_neuron_changes_nothing(seed, steps, flat, shared):
    """Of conv and linear layers alike, and where two of them with biases are added."""
    torch.manual_seed(seed)
    shape = (3, 1, 2) if not flat else (6,)
    layer = (lambda: nn.Linear(6, 6)) if flat else (lambda: nn.Conv2d(3, 3, 1))
    parts = [layer() for _ in range(1 + shared)]
    signal = Signal(shape, Kind.SPIKE, steps)
    value = replace(signal, kind=Kind.VALUE)
    nodes = [Node("input", "input", (), signal)]
    for place, part in enumerate(parts):
        op = op_of(part)
        attrs, tensors = op.lower(part)
        nodes.append(Node(f"p{place}", op.name, ("input",), value, attrs, tensors))
    if shared:
        nodes.append(Node("sum", "add", ("p0", "p1"), value))
    attrs = {**OR, "alpha": float(torch.rand(())), "beta": 0.7, "reset": "subtract"}
    graph = Graph((*nodes, Node("n", "neuron", (nodes[-1].name,), signal, attrs)))
    rewritten = biases_as_neurons(graph, LOIHI.registers)
    verify_graph(rewritten)
    assert "n" not in reject(rewritten, LOIHI.registers)
    assert "bias of 'p0'" in reject(graph, LOIHI.registers)["n"]
    x = (torch.rand(steps, 3, *shape) < 0.5).double()
    one, other = (evaluate(g, x) for g in (graph, rewritten))
    assert torch.equal(one, other)


@pytest.mark.parametrize("pool", [nn.Identity, lambda: nn.AvgPool2d(2), lambda: nn.MaxPool2d(2)])
@pytest.mark.parametrize("factor", [0.5, 3.0])
@pytest.mark.parametrize("several", [False, True])
def test_a_factor_of_spikes_goes_into_the_weights_behind_them(pool, factor, several):
    torch.manual_seed(0)
    graded = {"graded_spikes_factor": factor, "learn_graded_spikes_factor": True}
    each = graded
    if several:
        graded = {**graded, "graded_spikes_factor": factor + torch.rand(4, 1, 1)}
        each = {**graded, "graded_spikes_factor": factor + torch.rand(10)}
    layers = (
        nn.Conv2d(2, 4, 3),
        snn.Leaky(0.7, threshold=0.4, **graded, **INSIDE),
        pool(),
        nn.Flatten(),
        nn.LazyLinear(10),
        snn.Leaky(0.8, threshold=0.4, **each, init_hidden=True),
    )
    x = spikes()
    net = has8.over_time(nn.Sequential(*layers), steps=8, readout="count", input="steps")
    with torch.no_grad():
        expected = net(x)
    mapped = map_model(net, calibration=x, inputs="spikes")
    assert not [node for node in mapped.graph if node.op == "scale"]
    on_host = {rejection.node for rejection in mapped.partition.rejections}
    assert on_host == ({"readout"} if several else set())  # what multiplies the counts
    assert len(mapped.chip_segments) == 1
    close = torch.isclose(evaluate(mapped.graph, x), expected, atol=1e-4).float().mean()
    assert expected.any() and close > 0.95
    fast, slow = (simulate(mapped, x, backend) for backend in ("fast", "reference"))
    assert torch.equal(fast.logits, slow.logits)
    assert (fast.logits - expected).abs().mean() < 0.3 * factor


@law(25)
@given(
    st.integers(0, 10_000),
    st.floats(-3, 3).filter(lambda factor: abs(factor) > 1e-30),
    st.sets(st.sampled_from(["flatten", "global_avgpool", "decode", "relu", "maxpool"])),
    st.booleans(),
)
def test_a_factor_goes_past_what_is_linear_and_changes_nothing(seed, factor, users, several):
    torch.manual_seed(seed)
    signal = Signal((3, 2, 2), Kind.SPIKE, 4)
    nodes = [Node("x", "input", (), signal)]

    def add(name, op, *inputs, attrs=None, tensors=None):
        types = tuple(next(n.type for n in nodes if n.name == source) for source in inputs)
        attrs, tensors = attrs or {}, tensors or {}
        nodes.append(Node(name, op, inputs, OPS[op].infer(attrs, tensors, types), attrs, tensors))
        return name

    if several:
        add("s", "one_to_one", "x", tensors={"weight": factor * (torch.rand(3) + 0.5)})
    else:
        add("s", "scale", "x", attrs={"factor": factor})
    pools = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0]}
    made = {"conv": {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}}
    ends = [
        add("conv", "conv2d", "s", attrs=made["conv"], tensors={"weight": torch.rand(5, 3, 1, 1)})
    ]
    for op in sorted(users):
        attrs = pools if op == "maxpool" else {}
        tensors = {"weights": torch.rand(4)} if op == "decode" else {}
        ends.append(add(op, op, "s", attrs=attrs, tensors=tensors))
    for end in ends:
        graph = sorted_graph(nodes, end)
        rewritten = fold_factors(graph)
        verify_graph(rewritten)
        through = end in ("conv", "decode") and not several
        kinds = {node.op for node in rewritten}
        assert bool(kinds & {"scale", "one_to_one"}) is not through
        assert not several or (rewritten[end].op == "one_to_one") is (
            end in ("global_avgpool", "decode") or (end == "maxpool" and factor > 0)
        )
        x = (torch.rand(4, 3, 3, 2, 2) < 0.5).double()
        assert torch.allclose(evaluate(graph, x), evaluate(rewritten, x), atol=1e-6)
        if end == "maxpool":
            assert (rewritten[end].op in ("scale", "one_to_one")) is (factor > 0)


@st.composite
def cells(draw, shape):
    """Any of snnTorch's neurons, whose constants have one value, one a channel or one a neuron."""
    torch.manual_seed(draw(st.integers(0, 1000)))

    def constant(low):
        of = draw(st.sampled_from([(), shape[:1] + (1,) * (len(shape) - 1), shape]))
        return low + (1 - low) * torch.rand(of)

    rest = {
        "threshold": constant(0.2),
        "reset_mechanism": draw(st.sampled_from(["zero", "subtract", "none"])),
        "reset_delay": draw(st.booleans()),
        "init_hidden": True,
    }
    if draw(st.booleans()):
        return snn.Synaptic(constant(0), constant(0), **rest)
    return snn.Leaky(constant(0), **rest)


EVERY = msgspec.structs.replace(
    LOIHI,
    registers=msgspec.structs.replace(
        LOIHI.registers, resets={"zero": 1, "subtract": 2, "subtract_at_once": 2, "none": 1}
    ),
)
"""Loihi with all resets."""


@law(10)
@given(cells((3, 3, 3)), cells((5,)), st.integers(1, 50), st.integers(0, 1000))
def test_a_random_network_of_them_is_its_graph_and_all_simulators_agree(one, two, steps, seed):
    torch.manual_seed(seed)
    layers = nn.Conv2d(2, 3, 3), one, nn.Flatten(), nn.Linear(27, 5), two
    net = has8.over_time(nn.Sequential(*layers), steps=steps, readout="spikes", input="steps")
    x = (torch.rand(steps, 6, 2, 5, 5) < 0.5).float()
    with torch.no_grad():
        expected = net(x)
    mapped = map_model(net, EVERY, calibration=x, inputs="spikes")
    assert not mapped.partition.rejections
    same = (evaluate(mapped.graph, x) == expected).transpose(0, 1).flatten(1).all(1)
    assert same.float().mean() >= 0.5  # sums round otherwise: a sample may differ at a threshold
    slow, fast = (simulate(mapped, x, backend) for backend in ("reference", "fast"))
    assert torch.equal(slow.logits, fast.logits)


def test_factors_of_each_neuron_or_of_nothing_are_refused():
    for factor, words in ((torch.rand(4, 4, 4), "differs within a channel"), (0.0, "other than 0")):
        cell = snn.Leaky(0.5, graded_spikes_factor=factor, **INSIDE)
        with pytest.raises(TraceError, match=f"graded_spikes_factor .*{words}"):
            map_model(
                network(cell, snn.Leaky(0.5, **INSIDE)), calibration=spikes(), inputs="spikes"
            )


def test_a_core_holds_no_more_decays_and_thresholds_than_it_has_entries():
    torch.manual_seed(0)
    net = network(*(make() for make in CELLS["neurons"]))
    mapped = map_model(net, calibration=spikes(), inputs="spikes")
    first, second = mapped.chip_segments[0].populations
    assert len(set(first.neuron.dv.flatten().tolist())) > LOIHI.core.compartment_configs
    tiles = mapped.placement.tiles
    for core in mapped.placement.cores:
        held = [tiles[at] for at in core.tiles]
        for limit in ("compartment_configs", "threshold_configs"):
            assert sum(tile.need[limit] for tile in held) <= getattr(LOIHI.core, limit)
    assert len(mapped.placement.cores) >= 64 / LOIHI.core.threshold_configs
    assert second.neuron.threshold.size == 1 or len(set(second.neuron.threshold.flat)) == 1


def test_a_threshold_of_each_channel_costs_no_entry_since_weights_are_in_thresholds():
    torch.manual_seed(0)
    net = network(*(make() for make in CELLS["channels"]))
    mapped = map_model(net, calibration=spikes(), inputs="spikes")
    for population in mapped.chip_segments[0].populations:
        assert len(set(population.neuron.threshold.flat)) == 1
        assert mapped.errors[population.name].threshold == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta": torch.rand(5)}, r"its beta has the shape \[5\], which does not broadcast"),
        ({"beta": torch.rand(1, 1, 4, 4, 4)}, "does not broadcast"),
        ({"beta": torch.full((4, 1, 1), 1.5)}, "its beta must be from 0 to 1, not from 1.5"),
        ({"alpha": torch.tensor([-0.5, 0.5]).repeat(2)}, "its alpha must be from 0 to 1"),
        ({"threshold": torch.zeros(4)}, "its threshold must be above 0"),
        ({"gain": -torch.ones(4)}, "its gain must be above 0"),
        ({"delta": torch.ones(4)}, "no constant 'delta'"),
        ({"threshold": torch.tensor(float("nan"))}, "its threshold must be above 0"),
    ],
)
def test_constants_that_fit_no_neuron_are_refused(changes, words):
    attrs = {"alpha": 0.0, "beta": 0.5, "threshold": 1.0, "gain": 1.0}
    attrs = {name: value for name, value in attrs.items() if name not in changes}
    with pytest.raises(ValueError, match=words):
        infer(attrs, changes, (Signal((4, 4, 4), Kind.VALUE, 8),))


def test_one_constant_is_said_once():
    attrs = {"alpha": 0.0, "beta": 0.5, "threshold": 1.0, "gain": 1.0}
    signal = Signal((4, 4, 4), Kind.VALUE, 8)
    assert infer(attrs, {}, (signal,)).kind is Kind.SPIKE
    with pytest.raises(ValueError, match="its beta must be one number or a tensor"):
        infer(attrs, {"beta": torch.rand(4)}, (signal,))
    with pytest.raises(ValueError, match="its beta must be one number or a tensor"):
        infer({**attrs, "beta": None}, {}, (signal,))


def test_a_wrong_constant_of_a_network_is_refused_in_words_of_the_network():
    cell = snn.Leaky(0.5, threshold=-torch.rand(4, 1, 1), **INSIDE)
    with pytest.raises(
        TraceError, match=r"'net.1' \(Leaky\) cannot be mapped: its threshold must be above 0"
    ):
        map_model(network(cell, snn.Leaky(0.5, **INSIDE)), calibration=spikes(), inputs="spikes")
