"""What every partition would cost by one run: the very price of that partition, mapped and run."""

from itertools import chain, combinations

import pytest
import torch
from builders import BRANCHES_IN, Branches
from torch import nn

from has8.errors import BadInput
from hwsim import estimate, simulate
from hwsim.price.choices import CORES, ENERGY, LATENCY, amount, choices_of
from mapping import map_model
from mapping.hosts.schema import load_host
from mapping.partition.groups import groups_of
from mapping.repartition import layers_of, parted, repartition

HOST = load_host()


def subsets(layers):
    return chain.from_iterable(combinations(layers, size) for size in range(len(layers) + 1))


class BesideValues(nn.Module):
    """Three layers behind each other, and beside them ten of values that take the host longer."""

    def __init__(self):
        super().__init__()
        net = Branches()
        self.fcs = nn.ModuleList([net.one_fc, net.two_fc, net.side_fc])
        self.neurons = nn.ModuleList(net.neurons[name] for name in ("one", "two", "side"))
        self.values = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(5)))
        self.end = nn.Linear(6, 5)

    def forward(self, x):
        membranes = [neuron.init_leaky() for neuron in self.neurons]
        counted = []
        for step in x:
            for place, (fc, neuron) in enumerate(zip(self.fcs, self.neurons, strict=True)):
                step, membranes[place] = neuron(fc(step), membranes[place])
            counted.append(step)
        return torch.stack(counted).sum(0) + self.end(self.values(x.sum(0)))


def priced(network):
    """The choices of a network, and what each partition costs when it is mapped and run."""
    mapped = map_model(network, calibration=BRANCHES_IN, inputs="spikes", placement="snake")
    choices = choices_of(mapped, simulate(mapped, BRANCHES_IN, apart=1), HOST)
    prices = {}
    for on_chip in subsets(layers_of(mapped)):
        moved = repartition(mapped, on_chip, "snake")
        cost = estimate(moved, simulate(moved, BRANCHES_IN, apart=1), HOST)
        amounts = cost.energy_uj.total.value, cost.latency_us.value, float(cost.cores_used)
        prices[frozenset(on_chip)] = dict(zip((ENERGY, LATENCY, CORES), amounts, strict=True))
    return choices, prices


@pytest.fixture(scope="module")
def branches():
    """A network whose integers are its floats: it fires alike in all of its partitions."""
    return priced(Branches())


def test_runs_share_what_the_host_does_meanwhile(monkeypatch):
    """Two runs with a layer on the host between them: what it computes meanwhile counts once."""
    for listed in (True, False):  # each way to divide the region, or their sum as a bound
        choices, prices = priced(BesideValues())
        assert len(prices) == 8 and bool(choices.costed.one_of) is listed
        first, last = choices.costed.layers[0], choices.costed.layers[2]
        together = choices.totals({first, last})[LATENCY]
        alone = [choices.totals({name})[LATENCY] for name in (first, last)]
        twice = choices.totals(())[LATENCY] + choices.mapped.target.link.sample_us.value
        assert together > sum(alone) - twice + 50
        for on_chip, price in prices.items():
            totals = choices.totals(on_chip)
            assert {name: totals[name] for name in price} == pytest.approx(price, rel=1e-9)
        for objective in (ENERGY, LATENCY, "edp"):
            for avoided in ((), [frozenset()], [frozenset(), frozenset(choices.costed.layers)]):
                least = min(amount(p, objective) for s, p in prices.items() if s not in avoided)
                found = choices.best(objective, None, avoided)
                assert amount(found.totals, objective) == pytest.approx(least, rel=1e-9)
        monkeypatch.setattr("hwsim.price.choices.REGION", 2)


def test_each_partition_costs_what_it_does_when_it_is_mapped_and_run(branches):
    choices, prices = branches
    assert len(prices) == 16
    for on_chip, price in prices.items():
        totals = choices.totals(on_chip)
        assert {name: totals[name] for name in price} == pytest.approx(price, rel=1e-9)


def test_the_best_is_the_best_of_all_that_were_run(branches):
    choices, prices = branches
    all_there = frozenset(choices.costed.layers)
    for objective, limits, avoided in (
        (ENERGY, {}, ()),
        (ENERGY, {CORES: 0.0}, ()),
        (ENERGY, {CORES: 1.0}, (all_there,)),
        (LATENCY, {}, ()),
        (LATENCY, {ENERGY: 10_000.0}, (all_there,)),
        (CORES, {LATENCY: 1500.0}, ()),
        ("edp", {CORES: 1.0}, (all_there,)),
    ):
        within = [p for s, p in prices.items() if s not in avoided]
        there = [p for p in within if all(p[name] <= most for name, most in limits.items())]
        found = choices.best(objective, limits, avoided)
        least = min(amount(price, objective) for price in there)
        assert amount(found.totals, objective) == pytest.approx(least, rel=1e-9)
        assert found.gap == 0 and found.on_chip not in avoided
        assert least >= min(amount(price, objective) for price in within)  # a limit only raises it
    assert choices.best(ENERGY, {LATENCY: 100.0}) is None


def test_nothing_dominates_a_point_of_the_front(branches):
    choices, prices = branches
    there = {(p[ENERGY], p[CORES]) for p in prices.values()}
    undominated = sorted(
        (a, b) for a, b in there if not any(c <= a and d <= b for c, d in there - {(a, b)})
    )
    points = choices.front(ENERGY, CORES)
    amounts = [(p.totals[ENERGY], p.totals[CORES]) for p in points]
    assert amounts == [pytest.approx(point, rel=1e-9) for point in undominated]
    assert len(amounts) > 1


def test_pins_bind_and_nothing_is_chosen_where_nothing_can_be(branches):
    choices, prices = branches
    mapped = repartition(choices.mapped, ["neurons.two", "neurons.side"])
    sides = {"neurons.two": "host", "neurons.side": "chip", "neurons.last": "host"}
    pinned = choices_of(mapped, simulate(mapped, BRANCHES_IN, apart=1), HOST, sides).best(ENERGY)
    assert pinned.on_chip == {"neurons.side"}
    assert pinned.totals[ENERGY] == pytest.approx(prices[pinned.on_chip][ENERGY], rel=1e-9)
    nothing = repartition(mapped, ())
    with pytest.raises(BadInput, match="no layer can be on the chip"):
        choices_of(nothing, choices.run, HOST)


def test_groups_are_what_the_cut_makes_segments_of(branches):
    """Of the network's 16 partitions those with one segment."""
    choices, _ = branches
    mapped = choices.mapped
    alone = {
        frozenset(on_chip)
        for on_chip in subsets(layers_of(mapped))
        if len(parted(mapped, on_chip).on_chip) == 1
    }
    groups = groups_of(mapped.graph, layers_of(mapped))
    assert alone == set(groups) and len(groups) == len(alone)
    few = groups_of(mapped.graph, layers_of(mapped), most=4)  # two by two
    assert 1 <= len(few) <= 4 and set(few) < alone


def test_a_repartition_has_the_integers_of_the_mapping(branches):
    mapped = branches[0].mapped
    moved = repartition(mapped, ["neurons.last", "neurons.one"])
    pinned = map_model(
        mapped.graph, mapped.target, ["neurons.last", "neurons.one"], calibration=BRANCHES_IN
    )
    assert moved.partition.on_chip == pinned.partition.on_chip
    assert moved.placement == pinned.placement
    for one, two in zip(moved.chip_segments, pinned.chip_segments, strict=True):
        for a, b in zip(one.populations, two.populations, strict=True):
            assert all(
                (s.weight == t.weight).all() for s, t in zip(a.synapses, b.synapses, strict=True)
            )
    assert torch.equal(simulate(moved, BRANCHES_IN).logits, simulate(pinned, BRANCHES_IN).logits)
    with pytest.raises(BadInput, match="no layer 'neurons.first' on the chip"):
        repartition(mapped, ["neurons.first"])
