"""Any spiking layer can stay on the host: by name, by wildcard, or because no core holds it."""

from itertools import product
from types import SimpleNamespace

import msgspec
import pytest
import snntorch as snn
import torch
from builders import BRANCHES, BRANCHES_IN, Branches
from torch import nn

import mapping.integers.search
from has8.errors import BadInput
from hwsim import compare, estimate, simulate
from hwsim.price.choices import choices_of
from mapping import load, load_target, map_model, save
from mapping.hosts.schema import load_host

LOIHI = load_target("loihi")


@pytest.fixture(scope="module")
def branches():
    """The network's graph, what it answers, and its mapping with everything on the chip."""
    net = Branches()
    mapped = map_model(net, calibration=BRANCHES_IN, inputs="spikes")
    answers = net(BRANCHES_IN).detach()
    assert answers.any()
    return SimpleNamespace(graph=mapped.graph, answers=answers, mapped=mapped)


def placed(branches, partition="all", target=LOIHI, **pins):
    """The mapping with some layers pinned, and the layers that it has on the chip."""
    pins = {f"neurons.{name}": side for name, side in pins.items()}
    mapped = map_model(branches.graph, target, partition, pins=pins, calibration=BRANCHES_IN)
    nodes = [name for segment in mapped.partition.on_chip for name in segment.nodes]
    return mapped, {name.removeprefix("neurons.") for name in nodes if "neurons." in name}


@pytest.mark.parametrize("sides", [*product(("host", "chip"), repeat=len(BRANCHES))])
def test_spikes_cross_anywhere_and_the_answers_are_the_same(branches, sides):
    """The law: where the integers are the floats, every partition computes the network."""
    pins = dict(zip(BRANCHES, sides, strict=True))
    mapped, on_chip = placed(branches, **pins)
    assert on_chip == {name for name, side in pins.items() if side == "chip"}
    assert len({segment.name for segment in mapped.partition.segments}) == len(
        mapped.partition.segments
    )
    run = simulate(mapped, BRANCHES_IN)
    assert torch.equal(run.logits, branches.answers)
    assert estimate(mapped, run).cores_used == mapped.placement.cores_used


def test_a_segment_that_is_cut_in_two_runs_everywhere_and_comes_back_from_its_file(
    branches, tmp_path
):
    mapped, _ = placed(branches, two="host", side="host")
    assert [segment.side for segment in mapped.partition.segments] == ["chip", "host"] * 2
    names = [segment.name for segment in mapped.partition.on_chip]
    assert names[0] == branches.mapped.partition.on_chip[0].name != names[1]
    assert compare(mapped, BRANCHES_IN, "fast", "reference").equal
    again = load(save(mapped, tmp_path / "m.h8"))
    assert again.partition == mapped.partition
    assert again.provenance["pins"] == {"neurons.two": "host", "neurons.side": "host"}
    reasons = {r.node: r.reason for r in mapped.partition.rejections}
    assert reasons["neurons.two"] == "pinned to the host"
    assert reasons["two_fc"] == "its neuron stays on the host"


def test_names_wildcards_and_modules(branches):
    for pins, partition, expected in (
        ({"neurons.t*": "host"}, "all", {"one", "side", "last"}),
        ({"neurons": "host", "last_fc.0": "chip"}, "all", {"last"}),  # a module, then a synapse
        ({"neurons.o?e": "chip"}, "none", {"one"}),
        ({}, ["neurons.two", "side_fc"], {"two", "side"}),
        ({"neurons.two": "host"}, ["neurons.two", "side_fc"], {"side"}),
    ):
        mapped = map_model(branches.graph, LOIHI, partition, pins=pins, calibration=BRANCHES_IN)
        nodes = [name for segment in mapped.partition.on_chip for name in segment.nodes]
        assert {name[8:] for name in nodes if name.startswith("neurons.")} == expected
    for pins, partition, message in (
        ({"neurons.tow": "host"}, "all", "no layer 'neurons.tow' to pin to the host: did you mean"),
        ({}, ["neurons.tow"], "no chip segment 'neurons.tow', nor a layer: did you mean"),
        ({"readout": "chip"}, "all", "no layer 'readout' to pin to the chip"),
        ({"neurons.two": "gpu"}, "all", "pins: Invalid enum value 'gpu'"),
    ):
        with pytest.raises(BadInput, match=message):
            map_model(branches.graph, LOIHI, partition, pins=pins, calibration=BRANCHES_IN)


class Fed(nn.Module):
    """A layer that feeds itself through another, behind a layer of values with a bias that lasts.

    What stands for the bias is a neuron of its own on the chip.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.fc, self.back, self.out = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.lif1, self.lif2 = snn.Synaptic(0.5, 0.5), snn.Leaky(0.5)
        for neuron in (self.lif1, self.lif2):
            neuron.reset_mechanism = "zero"

    def forward(self, x):
        (s1, m1), m2, record = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        spikes = torch.zeros(x.shape[1], 5)
        for step in x:
            spikes, s1, m1 = self.lif1(self.fc(step) + self.back(spikes), s1, m1)
            out, m2 = self.lif2(self.out(spikes), m2)
            record.append(out)
        return torch.stack(record)


def test_a_loop_and_the_neuron_of_its_bias_go_together():
    whole = map_model(Fed(), calibration=BRANCHES_IN, inputs="spikes")
    assert sum(len(chip.populations) for chip in whole.chip_segments) == 3
    for pins, populations in (({"lif1": "host"}, ["lif2"]), ({"lif2": "host"}, None)):
        mapped = map_model(whole.graph, pins=pins, calibration=BRANCHES_IN)
        found = [p.name for chip in mapped.chip_segments for p in chip.populations]
        assert found == (populations or ["lif1.bias", "lif1"])
        assert compare(mapped, BRANCHES_IN, "fast", "reference").equal
    choices = choices_of(whole, simulate(whole, BRANCHES_IN, apart=1), load_host())
    assert frozenset(["lif1.bias"]) not in choices.costed.groups
    for group in choices.costed.groups:
        cost = choices.price(group)
        found = choices.totals(group)["energy_uj"], choices.totals(group)["latency_us"]
        assert found == pytest.approx((cost.energy_uj.total.value, cost.latency_us.value), rel=1e-9)
    with pytest.raises(BadInput, match="'lif1.bias' goes together with others"):
        choices.price(["lif1.bias"])


def test_what_the_chip_cannot_take_cannot_be_pinned_to_it():
    message = "'neurons.one' is pinned to the chip and .* takes only spikes"
    with pytest.raises(BadInput, match=message):
        map_model(Branches(), pins={"neurons": "chip"}, calibration=BRANCHES_IN / 2, inputs="steps")


def test_a_layer_that_fits_on_no_core_stays_on_the_host_by_itself(branches):
    """'last' has three synapses, each with axons of its own for all its inputs, others one."""
    needed = {tile.population: tile.need["input_axons"] for tile in branches.mapped.placement.tiles}
    assert max(needed, key=needed.__getitem__) == "neurons.last"
    core = msgspec.structs.replace(LOIHI.core, input_axons=needed["neurons.last"] - 1)
    small = msgspec.structs.replace(LOIHI, core=core)
    mapped, on_chip = placed(branches, target=small)
    assert on_chip == {"one", "two", "side"}
    (reason,) = [r.reason for r in mapped.partition.rejections if r.node == "neurons.last"]
    need = needed["neurons.last"]
    assert reason == (
        f"it fits on no core: it needs at least {need} input axons and a core has {need - 1}"
    )
    assert torch.equal(simulate(mapped, BRANCHES_IN).logits, branches.answers)
    with pytest.raises(BadInput, match="'neurons.last' is pinned to the chip .* fits on no core"):
        placed(branches, target=small, last="chip")


def test_scales_of_segments_that_stay_are_searched_once(branches, monkeypatch):
    searched, search = [], mapping.integers.search._search_layer
    monkeypatch.setattr(
        "mapping.integers.search._search_layer",
        lambda run, name, levels: searched.append(name) or search(run, name, levels),
    )
    core = msgspec.structs.replace(LOIHI.core, input_axons=2)
    mapped = map_model(
        branches.graph,
        msgspec.structs.replace(LOIHI, core=core),
        pins={"neurons.two": "host", "neurons.side": "host"},
        calibration=BRANCHES_IN,
        scales="search",
    )
    assert searched == ["neurons.one", "neurons.last"]  # which then fits on no core
    assert [p.name for chip in mapped.chip_segments for p in chip.populations] == ["neurons.one"]
