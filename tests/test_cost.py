"""Counts are exact, prices are counts times published figures, and both add up."""

from dataclasses import astuple, replace
from math import prod

import msgspec
import numpy as np
import pytest
import snntorch as snn
import torch
import torchvision
from builders import conv, law, linear, population
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import has8
from has8 import create_model
from has8.errors import BadInput, UnknownName
from hwsim import estimate, simulate
from hwsim.activity import Activity
from hwsim.price.counts import boundary_counts, layer_counts, population_counts
from hwsim.price.energy import chip_energy_pj, convention_uj
from hwsim.price.traffic import segment_loads
from hwsim.program import Run
from mapping import load_target, map_model
from mapping.chip.segment import ChipSegment, Port
from mapping.cores.allocate import allocate
from mapping.cores.placement import place
from mapping.graph.ir import Graph, Kind, Node, Signal
from mapping.graph.trace.modules import trace
from mapping.hosts.schema import load_host
from mapping.mapped import Mapped
from mapping.partition.cut import cut
from mapping.partition.segments import Partition, Segment
from mapping.targets.figures import Figure

LOIHI = load_target("loihi")
SMALL = msgspec.structs.replace(
    LOIHI,
    core=msgspec.structs.replace(LOIHI.core, neurons=8),
    chip=msgspec.structs.replace(LOIHI.chip, mesh_width=2, mesh_height=2, cores_per_tile=1),
)
"""Loihi with four cores of 8 neurons, so that tiny nets take several chips."""

LOIHI2 = load_target("loihi2")
SHARED = msgspec.structs.replace(
    LOIHI2,
    core=msgspec.structs.replace(LOIHI2.core, neurons=8),
    chip=msgspec.structs.replace(
        LOIHI2.chip, mesh_width=2, mesh_height=2, cores_per_tile=1, usable_cores=4
    ),
)
"""The same of Loihi 2, whose accounting asks what is read of memory."""

STEPS, SAMPLES = 2, 3


def on_chip(chip, target=LOIHI):
    """A mapping that is one chip segment; the names of its convolutions start with "c"."""
    synapses = [synapse for _, synapse in chip.synapses()]
    kinds = {s.name: "conv2d" if s.name.startswith("c") else "linear" for s in synapses}
    image = Node("image", "input", (), Signal((1,)))
    graph = Graph((image, *(Node(n, kind, (), Signal((1,))) for n, kind in kinds.items())))
    names = tuple(p.name for p in chip.populations)
    inputs = tuple(p.name for p in chip.inputs)
    partition = Partition((Segment(chip.name, "chip", names, inputs, chip.outputs, ""),), ())
    placement = place(allocate([chip], target), [chip], target)
    return Mapped(graph, partition, (chip,), {}, placement, target, {})


def on_host(*nodes):
    """A mapping with all nodes on the host."""
    graph = Graph(nodes)
    return Mapped(
        graph, cut(graph, LOIHI.registers, "none"), (), {}, place((), (), LOIHI), LOIHI, {}
    )


def activity_of(spikes, updated=None):
    """The activity of spikes ``bool[T, B, *shape]`` by name."""
    samples = next(iter(spikes.values())).shape[1]
    events = {name: s.sum(1) for name, s in spikes.items()}
    return Activity(samples, events, updated or {}, {})


def connections(synapse, weight):
    """Synapses from each source neuron to each neuron: torch applied to one spike at a time."""
    wires = synapse.wiring
    basis = torch.eye(prod(wires.in_shape), dtype=torch.float64).reshape(-1, *wires.in_shape)
    stride, padding, dilation = (
        (getattr(wires.rows, name), getattr(wires.cols, name))
        for name in ("stride", "padding", "dilation")
    )
    weight = torch.from_numpy(weight.astype(np.float64))
    reached = F.conv2d(basis, weight, None, stride, padding, dilation, wires.groups)
    return reached.flatten(1).numpy().astype(np.int64)


@st.composite
def segments(draw):
    """Two convolutions, a third beside the second, and a linear layer; and random spikes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.sampled_from([1, 2]))
    shape = (2, draw(st.integers(4, 6)), draw(st.integers(4, 6)))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(r >= n + 2 * p for r, n, p in zip(reach, shape[1:], padding, strict=True)):
        dilation = (1, 1)

    def weights(*size):
        return rng.integers(-1, 2, size) * 2

    window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    first = conv("c1", "in", shape, weights(4, 2 // groups, *kernel), **window)
    blank = torch.zeros(1, *shape), torch.zeros(first.weight.shape)
    middle = tuple(F.conv2d(*blank, None, stride, padding, dilation, groups).shape[1:])
    same = {"padding": (1, 1), "groups": groups}
    turned = draw(st.sampled_from([middle, (middle[0], *middle[:0:-1])]))  # the same spikes
    second = conv("c2", "p1", turned, weights(4, 4 // groups, 3, 3), **same)
    third = conv("c3", "p1", turned, weights(4, 4, 1, 1))
    chip = ChipSegment(
        "chip",
        STEPS,
        (Port("in", shape),),
        (population("p1", middle, first), population("p2", turned, second, third)),
        ("p2",),
    )
    sizes = {"in": shape, "p1": middle, "p2": turned}
    spikes = {name: rng.random((STEPS, SAMPLES, *size)) < 0.3 for name, size in sizes.items()}
    return chip, spikes


def neurons_of(tile, shape):
    """Places of a tile's neurons in the flattened population."""
    block = tuple(map(slice, tile.start, tile.stop))
    return np.arange(prod(shape)).reshape(shape)[block].ravel()


@law(15)
@given(segments())
def test_operations_equal_a_walk_over_every_synapse(drawn):
    chip, spikes = drawn
    layers = {c.name: c for c in layer_counts(on_chip(chip), activity_of(spikes))}
    for synapse in (s for p in chip.populations for s in p.synapses):
        every = connections(synapse, np.ones_like(synapse.weight))
        stored = connections(synapse, synapse.weight != 0)
        synops = effective = 0
        fired = spikes[synapse.source].reshape(STEPS, SAMPLES, -1)
        for _, _, neuron in np.argwhere(fired):
            synops += every[neuron].sum()
            effective += stored[neuron].sum()
        layer = layers[synapse.name]
        assert (layer.synops, layer.effective) == (synops, effective)
        assert layer.dense == every.sum() * STEPS
        assert layer.spiking and layer.side == "chip" and layer.steps == STEPS


@law(15)
@given(segments())
def test_traffic_equals_a_walk_over_every_spike_and_tile(drawn):
    chip, spikes = drawn
    mapped = on_chip(chip, SMALL)
    (load,) = segment_loads(mapped, activity_of(spikes))
    tiles, cores = mapped.placement.tiles, mapped.placement.cores
    depth = {"in": 0, "p1": 1, "p2": 2}
    shape = (len(cores), STEPS + 2)
    want = {event: np.zeros(shape, np.int64) for event in load.by_core}
    for target in tiles:  # whatever the step
        size = len(neurons_of(target, chip.shape_of(target.population)))
        want["neuron_access"][target.core] += size * SAMPLES
    between = from_host = to_host = east_west = north_south = crossings = 0
    for target in tiles:
        body = neurons_of(target, chip.shape_of(target.population))
        late = depth[target.population]
        fired = spikes[target.population].reshape(STEPS, SAMPLES, -1)
        for step in range(STEPS):
            want["neuron_update"][target.core, step + late] += len(body) * SAMPLES
            want["neuron_spike"][target.core, step + late] += fired[step][:, body].sum()
            if target.population == "p2":
                want["message_out"][target.core, step + late] += fired[step][:, body].sum()
                to_host += fired[step][:, body].sum()
        for synapse in chip.population(target.population).synapses:
            source = chip.shape_of(synapse.source)
            every = connections(synapse, np.ones_like(synapse.weight))[:, body]
            for step, _, neuron in np.argwhere(spikes[synapse.source].reshape(STEPS, SAMPLES, -1)):
                if not every[neuron].any():
                    continue
                sent = step + depth[synapse.source]
                want["message_in"][target.core, sent] += 1
                want["synop_conv"][target.core, sent] += every[neuron].sum()
                if synapse.source == "in":
                    from_host += 1
                    continue
                (sender,) = [
                    tile
                    for tile in tiles
                    if tile.population == synapse.source and neuron in neurons_of(tile, source)
                ]
                want["message_out"][sender.core, step + depth[synapse.source]] += 1
                a, b = cores[sender.core], cores[target.core]
                between += 1
                east_west += abs(a.x - b.x)
                north_south += abs(a.y - b.y)
                crossings += abs(a.chip - b.chip)
    for event, counts in want.items():
        np.testing.assert_array_equal(load.by_core[event], counts, event)
    assert (load.from_host, load.between_tiles, load.to_host) == (from_host, between, to_host)
    assert (load.hops_east_west, load.hops_north_south) == (east_west, north_south)
    assert load.chip_crossings == crossings
    assert sum(int(link.sum()) for link in load.chip_links.values()) == crossings
    assert load.reads is None and not load.mesh_links
    assert load.events()["message_out"] == load.messages


@law(10)
@given(segments())
def test_memory_is_read_tap_by_tap(drawn):
    """A spike reads, for each pixel of a tile that it reaches, one list of channels."""
    chip, spikes = drawn
    mapped = on_chip(chip, SHARED)
    (load,) = segment_loads(mapped, activity_of(spikes))
    want = np.zeros((mapped.placement.cores_used, STEPS + 2), np.int64)
    for tile in mapped.placement.tiles:
        shape = chip.shape_of(tile.population)
        body = neurons_of(tile, shape)
        pixels = [b - a for a, b in zip(tile.start, tile.stop, strict=True)]
        for synapse in chip.population(tile.population).synapses:
            every = connections(synapse, np.ones_like(synapse.weight))[:, body]
            bits = synapse.weight_bits * every.reshape(-1, *pixels).sum(1)
            words = np.where(bits, -(-(bits + 10) // 64), 0).sum((1, 2))
            late = {"in": 0, "p1": 1}[synapse.source]
            for step, sent in enumerate(spikes[synapse.source].reshape(STEPS, SAMPLES, -1)):
                want[tile.core, step + late] += (sent.sum(0) * words).sum()
    np.testing.assert_array_equal(load.reads, want)
    on_one_chip = load.hops_east_west + load.hops_north_south - load.chip_crossings
    assert sum(int(link.sum()) for link in load.mesh_links.values()) == on_one_chip


@law(10)
@given(segments())
def test_counts_add_over_runs_and_over_cores(drawn):
    chip, spikes = drawn
    mapped = on_chip(chip, SMALL)
    other = {name: np.roll(s, 1, 0) for name, s in spikes.items()}
    a, b = activity_of(spikes), activity_of(other)

    def crossing(mapped, run):
        (load,) = segment_loads(mapped, run)
        return boundary_counts(mapped, run, load.from_ports)

    for count in (layer_counts, population_counts, crossing):
        for x, y, both in zip(*(count(mapped, run) for run in (a, b, a + b)), strict=True):
            for field in ("effective", "synops", "accessed", "updated", "spikes", "messages"):
                if hasattr(both, field):
                    assert getattr(both, field) == getattr(x, field) + getattr(y, field)
    (load,) = segment_loads(mapped, a)
    layers, (first, second) = layer_counts(mapped, a), population_counts(mapped, a)
    assert load.events()["synop_conv"] == sum(layer.synops for layer in layers)
    visits = (first.accessed + second.accessed) // STEPS
    assert load.events()["neuron_access"] == visits * (load.steps + load.depth)
    assert load.events()["neuron_spike"] == first.spikes + second.spikes
    assert not first.exact and first.updated == first.accessed


def test_one_layer_that_other_counters_disagree_on():
    """Border and stride count, as in NeuroBench, SpikingJelly and sinabs; some are off 4.5-fold."""
    torch.manual_seed(0)
    image = torch.rand(2, 3, 16, 16) < 0.2
    weight = np.ones((8, 3, 3, 3), np.int64)
    synapse = conv("c", "in", (3, 16, 16), weight, stride=2, padding=1)
    chip = ChipSegment(
        "s", 1, (Port("in", (3, 16, 16)),), (population("p", (8, 8, 8), synapse),), ()
    )
    spikes = {"in": image.numpy()[None], "p": np.zeros((1, 2, 8, 8, 8), bool)}
    (layer,) = layer_counts(on_chip(chip), activity_of(spikes))
    assert (
        layer.synops == F.conv2d(image.double(), torch.ones(8, 3, 3, 3).double(), None, 2, 1).sum()
    )
    assert layer.synops < int(image.sum()) * 8 * 9
    assert layer.dense_padded == 8 * 8 * 8 * 27 > layer.dense


def test_a_corner_reaches_one_synapse_and_the_centre_four():
    """sinabs: eye(3) into Conv2d(1, 5, 2) are 30 synaptic operations."""
    synapse = conv("c", "in", (1, 3, 3), np.ones((5, 1, 2, 2), np.int64))
    chip = ChipSegment("s", 1, (Port("in", (1, 3, 3)),), (population("p", (5, 2, 2), synapse),), ())
    spikes = {"in": np.eye(3, dtype=bool)[None, None, None], "p": np.zeros((1, 1, 5, 2, 2), bool)}
    (layer,) = layer_counts(on_chip(chip), activity_of(spikes))
    assert layer.synops == 5 * (1 + 4 + 1)


@pytest.mark.parametrize(
    ("weight", "shape", "padding", "dense", "padded"),
    [
        ((1, 1, 3, 3), (1, 3, 3), 0, 9, 9),
        ((1, 1, 3, 3), (1, 12, 12), 0, 900, 900),
        ((1, 1, 3, 3), (1, 3, 3), 1, 49, 81),
    ],
)
def test_dense_is_that_of_neurobench(weight, shape, padding, dense, padded):
    attrs = {"stride": [1, 1], "padding": [padding] * 2, "dilation": [1, 1], "groups": 1}
    out = Signal((1, *(n + 2 * padding - 2 for n in shape[1:])))
    mapped = on_host(
        Node("x", "input", (), Signal(shape)),
        Node("c", "conv2d", ("x",), out, attrs, {"weight": torch.ones(weight)}),
    )
    run = Activity(4, {"x": np.full(shape, 4)}, {}, {})
    (layer,) = layer_counts(mapped, run)
    assert (layer.dense, layer.dense_padded, layer.effective) == (dense, padded, 4 * dense)
    assert not layer.spiking and layer.synops == 0


def fully_connected(kind, weight, steps, events, samples):
    """Counts of one linear layer that spikes or values feed over some steps."""
    outputs, inputs = weight.shape
    mapped = on_host(
        Node("x", "input", (), Signal((inputs,), kind, steps)),
        Node(
            "fc",
            "linear",
            ("x",),
            Signal((outputs,), Kind.VALUE, steps),
            {},
            {"weight": weight},
        ),
    )
    (layer,) = layer_counts(mapped, Activity(samples, {"x": np.asarray(events)}, {}, {}))
    return layer


def test_spikes_into_a_linear_layer_are_accumulates():
    """NeuroBench: ones(5, 10, 20) into Linear(20, 5) are 1000 ACs a sample."""
    layer = fully_connected(Kind.SPIKE, torch.ones(5, 20), 10, np.full((10, 20), 5), 5)
    assert layer.spiking and layer.effective / 5 == 1000 == layer.synops / 5 == layer.dense


def test_the_type_of_the_edge_decides_not_the_values():
    spikes = fully_connected(Kind.SPIKE, torch.ones(3, 4), None, [1, 0, 1, 0], 1)
    values = fully_connected(Kind.VALUE, torch.ones(3, 4), None, [1, 0, 1, 0], 1)
    assert (spikes.effective, spikes.synops, spikes.spiking) == (6, 6, True)
    assert (values.effective, values.synops, values.spiking) == (6, 0, False)


def test_weights_of_zero_are_synops_but_not_effective():
    weight = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    layer = fully_connected(Kind.SPIKE, weight, None, [0, 1], 1)
    assert (layer.synops, layer.effective, layer.dense) == (2, 1, 4)


def test_sums_past_the_exact_range_of_float32_stay_exact():
    layer = fully_connected(Kind.SPIKE, torch.ones(3, 2), None, [2**24 + 1, 2**33], 2**34)
    assert layer.synops == 3 * (2**24 + 1 + 2**33)


def test_resnet18_has_the_macs_that_other_counters_give():
    graph = trace(torchvision.models.resnet18(), (3, 224, 224))
    mapped = on_host(*graph)
    events = {n.name: np.zeros(n.type.shape, np.int64) for n in graph}
    layers = layer_counts(mapped, Activity(1, events, {}, {}))
    convolutions = [layer for layer in layers if layer.kind == "conv2d"]
    assert sum(layer.dense for layer in layers) == 1_680_390_912
    assert sum(layer.dense_padded for layer in convolutions) == 1_813_561_344
    assert [layer.dense for layer in layers if layer.kind == "linear"] == [512_000]


def values(figures):
    """The values of figures by name."""
    return {name: figure.value for name, figure in figures.items()}


def without_error(name):
    """An accounting as it was published, whatever whole networks took."""
    return msgspec.structs.replace(LOIHI.accounting(name), energy_error=Figure.exact(1.0))


def test_energy_of_a_published_run_is_that_of_sana_fe():
    """SANA-FE 2.2.9 on its DVS gesture network, 128 steps: 131.227, 154.138 and 46.395 uJ."""
    to_last_layer = 5_714 * 11
    hops, network_uj = 928_624, 46.395
    north_south = round((network_uj * 1e6 - 386_640 * 111 - hops * 3) / 1.2)
    events = {
        "synop_conv": 5_437_656 - to_last_layer,
        "synop_dense": to_last_layer,
        "neuron_access": 18_678 * 128,
        "neuron_update": 1_346_821,
        "neuron_spike": 38_081,
        "message_out": 386_640,
        "message_in": 386_640,
        "hop_east_west": hops - north_south,
        "hop_north_south": north_south,
    }
    energy = values(chip_energy_pj(events, without_error("sanafe")))
    assert energy["synapse"] * 1e-6 == pytest.approx(131.227, abs=5e-4)
    assert energy["soma"] * 1e-6 == pytest.approx(154.138, abs=1e-3)
    assert energy["network"] * 1e-6 == pytest.approx(network_uj)


def test_energy_by_the_table_of_the_chips_paper():
    """Davies 2018 as KerasSpiking uses it: 23.6 pJ a synaptic operation, 81 pJ a neuron."""
    events = {"synop_dense": 1000, "neuron_access": 30, "neuron_update": 10}
    energy = values(chip_energy_pj(events, without_error("davies2018")))
    assert energy == pytest.approx({"synapse": 23_600, "soma": 20 * 52 + 10 * 81, "network": 0})
    hops = chip_energy_pj({"hop_north_south": 2}, without_error("davies2018"))
    assert hops["network"].value == 8


@pytest.fixture(scope="module")
def images():
    return torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vgg(images):
    """A small model with random weights, whose batch norms have seen the images."""
    torch.manual_seed(0)
    options = {"base": 6, "depth": 2, "head": (24,), "neuron": "if"}
    model = create_model("has8_vgg", num_classes=10, in_channels=1, **options)
    with torch.no_grad():
        for _ in range(20):
            model(images)
    return model


@pytest.fixture(scope="module")
def priced(vgg, images):
    """Its mapping, a run and the prices."""
    mapped = map_model(vgg, calibration=images)
    run = simulate(mapped, images)
    assert all(
        run.activity.events[name].any() for chip in mapped.chip_segments for name in chip.outputs
    )
    return mapped, run, estimate(mapped, run)


def test_parts_add_up_and_are_what_a_hand_computes(priced):
    mapped, run, cost = priced
    spikes = sum(
        int(run.activity.events[name].sum())
        for chip in mapped.chip_segments
        for name in (*(port.name for port in chip.inputs), *chip.outputs)
    )
    assert sum(boundary.spikes for boundary in cost.boundaries) == spikes
    crossed = sum(boundary.messages for boundary in cost.boundaries)
    assert crossed + sum(load.controls for load in cost.loads) == cost.messages * 16
    messages = sum(load.from_host + load.to_host for load in cost.loads)
    assert messages >= spikes  # one for each core that it reaches
    messages += 2 * 16 * cost.cores_used  # each core is started and stopped
    for name, price in cost.prices.items():
        energy, events = price.energy_uj, LOIHI.accounting(name).events
        error = LOIHI.accounting(name).energy_error.value
        assert energy.total.value == pytest.approx(sum(astuple(energy)).value)
        by_hand = sum(events[event].pj.value * count for event, count in cost.events.items())
        assert energy.events.value == pytest.approx(error * by_hand / 16 * 1e-6)
        time_us, chips, cores = price.latency.total_us.value, cost.chips_used, cost.cores_used
        assert energy.used_cores.value == pytest.approx(0.0918 * cores / 128 * time_us)
        assert energy.cores.value == pytest.approx(energy.events.value + energy.used_cores.value)
        assert energy.other_cores.value == pytest.approx(0.0918 * (chips - cores / 128) * time_us)
        assert energy.embedded.value == pytest.approx(0.0378 * chips * time_us)
        assert energy.reset.value == pytest.approx(5.9 * chips)
        assert energy.link.value == pytest.approx(messages * 32 * 10 * 2 / 16 * 1e-6)
        assert price.latency.messages_us.value == pytest.approx(messages * 1.92 / 16)
        assert energy.host.value == pytest.approx(cost.host_macs * 23.4 / 0.2 * 1e-6)
    assert cost.energy_uj is cost.prices["sanafe"].energy_uj
    assert cost.prices["davies2018"].energy_uj.events != cost.energy_uj.events


def test_every_layer_is_counted_once_whatever_the_partition(priced, vgg, images):
    mapped, _, cost = priced
    nodes = [node.name for node in mapped.graph if node.op in ("conv2d", "linear")]
    assert sorted(layer.name for layer in cost.layers) == sorted(nodes)
    alone = map_model(vgg, partition="none", calibration=images)
    host = estimate(alone, simulate(alone, images))
    assert {x.name: x.dense for x in host.layers} == {x.name: x.dense for x in cost.layers}
    assert host.host_only == cost.host_only
    energy = host.energy_uj
    assert energy.total == energy.host + energy.launching == host.host_only.energy_uj
    assert host.latency_us == host.host_only.latency_us
    assert (host.cores_used, host.synops) == (0, 0)


def test_neurobench_names_split_all_operations(priced):
    _, _, cost = priced
    fed_by_spikes = [layer for layer in cost.layers if layer.spiking]
    assert cost.effective_acs == sum(layer.effective for layer in fed_by_spikes) / cost.samples
    assert 0 < cost.effective_acs < cost.synops + cost.host_macs
    assert cost.effective_macs + cost.effective_acs <= cost.dense


def test_the_convention_prices_macs_and_synops(priced):
    _, _, cost = priced
    values = sum(layer.dense for layer in cost.layers if not layer.spiking)
    by_hand = (values * 4.6 + cost.synops * 0.9) * 1e-6
    assert cost.convention_uj.value == pytest.approx(by_hand)
    assert convention_uj([], 1, load_host("horowitz-45nm")).value == 0


@law(10)
@given(drawn=segments(), seed=st.integers(0, 99))
def test_more_spikes_never_cost_less(drawn, seed):
    chip, spikes = drawn
    mapped = on_chip(chip, SMALL)
    more = {k: s | (np.random.default_rng(seed).random(s.shape) < 0.2) for k, s in spikes.items()}
    few, many = (
        estimate(mapped, Run("fast", torch.zeros(1), activity_of(s))) for s in (spikes, more)
    )
    for name in few.prices:
        less, greater = few.prices[name], many.prices[name]
        for part, other in zip(astuple(less.energy_uj), astuple(greater.energy_uj), strict=True):
            assert part <= other
        assert less.latency.total_us <= greater.latency.total_us


def test_every_figure_is_cited(priced):
    """Static power, exchange and utilisation come with source and trust."""
    _, _, cost = priced
    cited = {item.source: item.trust for item in cost.assumptions}
    for path in ("power.static_mw", "power.embedded_mw", "link.message_us", "link.pj_per_bit"):
        assert cited[LOIHI.citations[path].source] == LOIHI.citations[path].trust
    host = load_host()
    assert cited[host.citations["utilisation"].source] == host.citations["utilisation"].trust
    assert len({item.text for item in cost.assumptions}) == len(cost.assumptions)


@pytest.mark.parametrize("read", ["count", "membrane_last"])
@pytest.mark.parametrize("outlier", [False, True])
def test_a_few_weights_that_leave_no_steps_to_the_others_are_named(read, outlier):
    torch.manual_seed(0)
    layer = nn.Linear(20, 10)
    layer.weight.data[:, :4] = 0  # pruned: no grid is needed for these
    if outlier:
        layer.weight.data[3, 7] = 30.0
    cell = snn.Leaky(0.5, init_hidden=True, output=True, reset_mechanism="subtract")
    net = has8.over_time(nn.Sequential(layer, cell), steps=3, readout=read, input="steps")
    x = (torch.rand(3, 8, 20) < 0.5).float()
    mapped = map_model(net, calibration=x, inputs="spikes")
    cost = estimate(mapped, simulate(mapped, x))
    said = [item.text for item in cost.assumptions if "steps of their grid" in item.text]
    assert len(said) == outlier
    if outlier:
        assert said[0].startswith("A few weights of net.0 are so large that 95% of all are rounded")
        assert ("search for scales" in said[0]) is (read == "count")


def test_assumptions_name_what_this_model_makes_of_them():
    def texts(dv, target=LOIHI, host="jetson-orin-nano", updated=True):
        p = population("p", (2,), linear("l", "in", (2,), np.ones((2, 2), np.int64)), dv=dv)
        chip = ChipSegment("s", 1, (Port("in", (2,)),), (p,), ("p",))
        spikes = {name: np.zeros((1, 1, 2), bool) for name in ("in", "p")}
        activity = activity_of(spikes, {"p": np.zeros((1, 2), np.int64)} if updated else None)
        cost = estimate(on_chip(chip, target), Run("fast", torch.zeros(1), activity), host)
        return " ".join(item.text for item in cost.assumptions)

    assert "have no leak" in texts(0) and "have no leak" not in texts(2048)
    assert "could not tell" in texts(0, updated=False) and "could not tell" not in texts(0)
    assert "speed is not known" in texts(0, host="horowitz-45nm")
    assert "speed is not known" not in texts(0)


def test_a_run_of_another_mapping_is_refused(priced):
    mapped, run, cost = priced
    on_the_host = next(layer.name for layer in cost.layers if layer.side == "host")
    for name in (mapped.chip_segments[0].outputs[0], mapped.graph[on_the_host].inputs[0]):
        lacking = {k: v for k, v in run.activity.events.items() if k != name}
        with pytest.raises(BadInput, match=f"counted '{name}'.*simulate the mapping"):
            estimate(mapped, replace(run, activity=replace(run.activity, events=lacking)))
    with pytest.raises(UnknownName, match="jetson-orin-nano"):
        estimate(mapped, run, host="jetson-orin-nan")


@pytest.mark.parametrize("partition", ["all", "none"])
def test_a_host_computes_layers_as_they_are_written(partition):
    """What becomes one layer for a chip, an average in it, is no more work for the host alone."""

    def neuron():
        return snn.Leaky(beta=0.9, init_hidden=True)

    torch.manual_seed(0)
    steps, x = 3, (torch.rand(3, 4, 2, 12, 12) > 0.6).float()
    step = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), neuron(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 2), neuron()),
        *(nn.Conv2d(6, 4, 3), neuron(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(4, 5), nn.BatchNorm1d(5), neuron()),
    ).eval()
    with FlopCounterMode(display=False) as flops:
        step(x[0, :1])
    net = has8.over_time(step, input="steps")
    mapped = map_model(net, partition=partition, calibration=x, inputs="spikes")
    cost = estimate(mapped, simulate(mapped, x))
    assert cost.host_only.macs == steps * flops.get_total_flops() // 2
    assert cost.host_macs == (cost.host_only.macs if partition == "none" else 0)
    larger = [layer for layer in cost.layers if layer.dense > layer.host_macs]
    assert larger and {layer.side for layer in larger} <= {"chip", "host"}
