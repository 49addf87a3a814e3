"""A step lasts as long as its busiest core or link needs, then a barrier; the host comes on top."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import snntorch as snn
import torch
from builders import BRANCHES_IN, Branches, linear, population, with_constants
from torch import nn

from has8.blocks import OverTime
from has8.encoders import BitPlaneEncoder, Decoder, bitplane_weights
from has8.errors import BadInput, DoesNotFit
from has8.neurons import Leaky
from hwsim.activity import Activity
from hwsim.backends.reference import Reference
from hwsim.price.idle import idle_activity, pipelined
from hwsim.price.latency import latency
from hwsim.price.steps import steps_of as steps_on_chip
from hwsim.price.timing import MeanTiming, barrier_ns, chip_time, launches_of, step_ns
from hwsim.price.traffic import segment_loads
from mapping import load_target, map_model
from mapping.chip.segment import ChipSegment, Port
from mapping.cores.allocate import Tile
from mapping.cores.placement import place
from mapping.cores.tilings import layers_of
from mapping.graph.ir import Graph, Node, Signal
from mapping.hosts.schema import load_host
from mapping.mapped import Mapped
from mapping.partition.segments import Partition, Segment
from mapping.targets.figures import Figure
from mapping.targets.sheets import with_figures

LOIHI = with_figures(
    load_target("loihi"),
    lambda figure: Figure(1.0, 0.5, 2.0) if figure.path.endswith("time_error") else figure,
)
"""Loihi whose steps take what the times of single events add up to."""

SMALL = msgspec.structs.replace(
    LOIHI,
    chip=msgspec.structs.replace(LOIHI.chip, mesh_width=2, mesh_height=1, cores_per_tile=1),
)
"""Loihi with two cores side by side."""

SANAFE = LOIHI.accounting("sanafe")
STEPS, WIDTH = 2, 4


def layer(name, source):
    weight = np.ones((WIDTH, WIDTH), int)
    return population(name, (WIDTH,), linear(f"{name}.w", source, (WIDTH,), weight))


def chain(cores, target=SMALL):
    """Layers of four neurons behind each other; layer i stands on the core ``cores[i]``."""
    names = [f"p{i}" for i in range(len(cores))]
    layers = tuple(layer(n, s) for n, s in zip(names, ["in", *names], strict=False))
    chip = ChipSegment("s", STEPS, (Port("in", (WIDTH,)),), layers, (names[-1],))
    need = {**dict.fromkeys(target.core.limits, 0), "neurons": WIDTH}
    tiles = [
        Tile("s", n, (0,), (WIDTH,), {}, need, core, 0)
        for n, core in zip(names, cores, strict=True)
    ]
    synapses = [*(f"{name}.w" for name in names), "p1.short"]
    nodes = (Node(name, "linear", (), Signal((1,))) for name in synapses)
    graph = Graph((Node("image", "input", (), Signal((1,))), *nodes))
    partition = Partition((Segment("s", "chip", tuple(names), ("in",), (names[-1],), ""),), ())
    return Mapped(graph, partition, (chip,), {}, place(tiles, [chip], target), target, {})


def activity(samples=1, **spikes):
    """Spikes of each layer and step, all by its first neuron; nothing is updated."""
    events = {}
    for name, by_step in spikes.items():
        events[name] = np.zeros((STEPS, WIDTH), np.int64)
        events[name][:, 0] = by_step
    updated = {name: np.zeros((STEPS, WIDTH), np.int64) for name in events}
    return Activity(samples, events, updated, {})


def steps_of(mapped, run):
    (load,) = segment_loads(mapped, run)
    return step_ns(load, run.samples, SANAFE, mapped.target).value


def test_a_step_is_events_times_their_nanoseconds():
    mapped = chain([0])
    idle = WIDTH * 6.0
    arrives = 16.0 + WIDTH * 3.8
    fires = 30.0 + 5.1
    steps = steps_of(mapped, activity(**{"in": [1, 0], "p0": [1, 0]}))
    # visited in every step; neurons work while messages arrive, and the longer of both counts
    assert steps == pytest.approx([max(idle, arrives), idle + fires, idle])
    run = activity(**{"in": [1, 0], "p0": [0, 1]})
    run.updated["p0"][1] = 1
    want = [max(idle, arrives), idle, idle + fires + WIDTH * 3.7]
    assert steps_of(mapped, run) == pytest.approx(want)


def test_an_accounting_whose_cores_do_not_overlap_adds_up():
    mapped, davies = chain([0]), LOIHI.accounting("davies2018")
    (load,) = segment_loads(mapped, activity(**{"in": [1, 0], "p0": [1, 0]}))
    steps = step_ns(load, 1, davies, mapped.target)
    idle, arrives, fires = WIDTH * 5.3, WIDTH * 3.5, 2.1
    assert steps.value == pytest.approx([idle + arrives, idle + fires, idle])
    assert steps.low == pytest.approx(steps.value * 0.5)
    assert steps.high == pytest.approx(steps.value * 2)


@pytest.mark.parametrize(
    ("path", "value", "stage", "us"),
    [
        ("neuron_access.ns", 1e4, "core 0 neurons", 40.0),
        ("synop_dense.ns", 1e4, "core 1 synapses", 40.0),
        ("read_ns", 1e4, "core 1 memory", 10.0),
        ("tile_spikes_per_ns", 1e-4, "link 0,0 to 1,0", 10.0),
        ("barrier_ns.1", 1e4, "barrier", 10.0),
    ],
)
def test_where_all_stages_overlap_a_step_is_the_longest(path, value, stage, us):
    """A layer's spike reaches four neurons on the next core, by one word of memory."""

    def slow(figure):
        named = figure.path.endswith(path)
        return Figure(value, value, value, figure.unit) if named else figure

    loihi2 = with_figures(load_target("loihi2"), slow)
    mesh = msgspec.structs.replace(
        loihi2.chip, mesh_width=2, mesh_height=1, cores_per_tile=1, usable_cores=2
    )
    mapped = chain([0, 1], msgspec.structs.replace(loihi2, chip=mesh))
    run = activity(**{"in": [0, 0], "p0": [1, 0], "p1": [0, 0]})
    (load,), accounting = segment_loads(mapped, run), loihi2.accounting()
    found = list(steps_on_chip(mapped, [load], 1, accounting, MeanTiming()))
    assert found[1].bottleneck == stage
    assert found[1].us == pytest.approx(us)
    whole = chip_time(mapped, load, 1, accounting)
    assert (whole.work_us + whole.barrier_us).value == pytest.approx(sum(s.us for s in found))


def test_a_layer_works_one_step_after_its_source():
    """Two layers on one core: chip step 2 holds step 1 of the first and step 0 of the second."""
    idle, arrives, sends = 2 * WIDTH * 6.0, 16.0 + WIDTH * 3.8, 30.0 + 5.1
    steps = steps_of(chain([0, 0]), activity(**{"in": [1, 0], "p0": [1, 0], "p1": [0, 0]}))
    # in chip step 1 the first layer sends its step 0, which arrives at once
    assert arrives < idle + sends
    assert steps == pytest.approx([max(idle, arrives), idle + sends, idle, idle])


def test_the_busiest_core_counts_not_their_sum():
    run = activity(**{"in": [0, 0], "p0": [0, 0], "p1": [0, 0]})
    assert steps_of(chain([0, 1]), run) == pytest.approx([24, 24, 24, 24])
    assert steps_of(chain([0, 0]), run) == pytest.approx([48, 48, 48, 48])


def side_by_side(order=("s", "t")):
    """Two chip segments of a layer each, s of 2 and t of 3 steps, whose biases reach the threshold.

    Each neuron of s fires in every third step of its own accord. The host writes the biases of t.
    """
    need = {**dict.fromkeys(SMALL.core.limits, 0), "neurons": WIDTH}
    chips, tiles, nodes, fires = [], [], [], {"threshold": 128, "bias": 64 * 50}
    for core, (name, steps) in enumerate({"s": STEPS, "t": STEPS + 1}.items()):
        some = layer(f"{name}.p", f"{name}.in")
        some = with_constants(some, **{k: np.full(WIDTH, v) for k, v in fires.items()})
        ports = [Port(f"{name}.in", (WIDTH,))]
        if name == "t":
            some, ports = replace(some, bias="b"), [*ports, Port("b", (WIDTH,), "bias")]
        chips.append(ChipSegment(name, steps, tuple(ports), (some,), (some.name,)))
        tiles.append(Tile(name, some.name, (0,), (WIDTH,), {}, need, core, 0))
        nodes.append(Node(some.synapses[0].name, "linear", (), Signal((1,))))
    graph = Graph((Node("image", "input", (), Signal((1,))), *nodes))
    parts = (Segment(n, "host" if n == "h" else "chip", (), (), (), "") for n in order)
    placed = place(tiles, chips, SMALL)
    return Mapped(graph, Partition(tuple(parts), ()), tuple(chips), {}, placed, SMALL, {})


def its_activity(mapped):
    """Two samples without a spike; each has biases written."""
    events = {"b": np.full(WIDTH, 2)}
    for chip in mapped.chip_segments:
        for name in (chip.inputs[0].name, chip.populations[0].name):
            events[name] = np.zeros((chip.steps, WIDTH), np.int64)
    return Activity(2, events, events, {})


def test_in_mode_reset_the_others_are_visited_integrate_and_fire():
    """Of 8,192 a bias of 3,200 takes three steps to more than the threshold."""
    mapped = side_by_side()
    first, second = segment_loads(mapped, its_activity(mapped), "reset")
    assert first.by_core["neuron_access"].tolist() == [[8] * 3] * 2
    assert second.by_core["neuron_access"].tolist() == [[8] * 4] * 2
    assert not first.by_core["neuron_spike"].any() and first.idle == {"t.p": (0, 0)}
    # all four neurons of s in both samples, in the third step of the four of t
    assert second.by_core["neuron_spike"].tolist() == [[0, 0, 8, 0], [0] * 4]
    assert second.by_core["message_out"].tolist() == [[0, 0, 8, 0], [0] * 4]
    assert second.by_core["neuron_update"].tolist() == [[8] * 4, [0] * 4]
    assert second.idle == {"s.p": (32, 8)} and second.to_host == 8
    assert (first.controls, second.controls) == (0, 8)  # what the host wrote it takes back
    assert (first.routers, second.routers) == (2, 2)


def test_in_mode_gated_the_cores_of_others_rest():
    mapped = side_by_side()
    first, second = segment_loads(mapped, its_activity(mapped), "gated")
    assert first.by_core["neuron_access"].tolist() == [[8] * 3, [0] * 3]
    assert second.by_core["neuron_access"].tolist() == [[0] * 4, [8] * 4]
    assert (first.controls, second.controls) == (4, 4)  # a core, started and stopped, two samples
    assert first.idle == {} == second.idle
    barrier = barrier_ns(SMALL, SANAFE, 1).value
    assert (first.routers, second.routers) == (1, 1)
    time = chip_time(mapped, second, 2, SANAFE)
    assert time.barrier_us.value == pytest.approx(4 * barrier / 1e3)


def test_where_ways_of_unequal_depth_meet_spikes_wait_in_synapses():
    """As a chip has it, a step a connection: the spikes of the float model, each layer's later."""
    mapped = map_model(Branches(), calibration=BRANCHES_IN, inputs="spikes", placement="snake")
    (chip,) = mapped.chip_segments
    waits = {name: steps for (_, name), steps in chip.waits().items() if steps}
    assert waits == {"skip_fc": 1}  # two layers have it straight, through one more
    depth = chip.depths()
    registers, steps = mapped.target.registers, chip.steps + max(depth.values())
    (port,) = chip.inputs
    spikes = torch.nn.functional.pad(BRANCHES_IN.bool(), (0, 0, 0, 0, 0, steps - chip.steps))
    late = Reference().compile(pipelined(chip, steps), registers)({port.name: spikes}).spikes
    at_once = Reference().compile(chip, registers)({port.name: BRANCHES_IN.bool()}).spikes
    for name, found in at_once.items():
        assert found.any() and torch.equal(late[name][depth[name] :][: chip.steps], found)
    short = msgspec.structs.replace(registers, delay_max=0)
    with pytest.raises(DoesNotFit, match="'skip_fc' .* at least 1 steps of delay and a core has 0"):
        layers_of(chip, short)


def test_in_mode_pipeline_all_run_at_once_unless_the_host_is_between():
    mapped = side_by_side()
    (load,) = segment_loads(mapped, its_activity(mapped), "pipeline")
    assert load.by_core["neuron_access"].tolist() == [[8] * 4, [8] * 4]
    assert (load.segment, load.steps, load.depth, load.controls) == ("s and t", 3, 1, 0)
    time = latency(mapped, [load], [], 2, SANAFE, load_host(), [0])
    assert [(s.name, s.steps) for s in time.segments] == [("s and t", 4)]
    assert time.exchange_us.value == 271
    apart = side_by_side(("s", "h", "t"))
    with pytest.raises(BadInput, match="the host computes 'h' between 's' and 't': take 'reset'"):
        segment_loads(apart, its_activity(apart), "pipeline")


def test_without_a_sample_a_spike_acts_in_the_step_behind():
    """A layer that fires by its bias in every step excites one without a bias a step later."""
    first, second = layer("p0", "in"), layer("p1", "p0")
    first = with_constants(first, threshold=np.full(WIDTH, 1), bias=np.full(WIDTH, 100))
    second = with_constants(second, threshold=np.full(WIDTH, 2))
    chip = ChipSegment("s", STEPS, (Port("in", (WIDTH,)),), (first, second), ("p1",))
    for synapse, late in ((second.synapses[0], 1), (replace(second.synapses[0], delay=3), 3)):
        some = replace(chip, populations=(first, replace(second, synapses=(synapse,))))
        idle = idle_activity(some, LOIHI.registers, 5)
        assert idle.events["p0"][:, 0].tolist() == [1] * 5
        assert idle.events["p1"][:, 0].tolist() == [0] * late + [1] * (5 - late)
        assert (idle.updated["p1"] == idle.events["p1"]).all()


def test_activity_is_a_mean_over_samples():
    mapped = chain([0, 1])
    one = activity(**{"in": [1, 1], "p0": [1, 0], "p1": [1, 0]})
    assert steps_of(mapped, one + one + one) == pytest.approx(steps_of(mapped, one))


def test_a_step_is_the_mean_of_its_samples_maxima_where_they_are_counted_apart():
    """Each of two samples is busy on another core in chip step 2, of which a mean sees half."""
    mapped = chain([0, 1], LOIHI)
    one = activity(**{"in": [0, 0], "p0": [0, 9], "p1": [0, 0]})
    two = activity(**{"in": [0, 0], "p0": [0, 0], "p1": [9, 0]})
    (load,) = segment_loads(mapped, one + two, apart=(one, two))
    steps, at_mean = step_ns(load, 2, SANAFE, LOIHI).value, steps_of(mapped, one + two)
    assert steps == pytest.approx((steps_of(mapped, one) + steps_of(mapped, two)) / 2)
    assert (steps - at_mean)[2] == pytest.approx(9 * (30 + 5.1) / 2)
    time = chip_time(mapped, load, 2, SANAFE)
    assert time.work_us.value == pytest.approx(steps.sum() / 1e3)
    assert time.at_mean_us.value == pytest.approx(at_mean.sum() / 1e3)


def test_messages_take_their_longest_way():
    run = activity(**{"in": [0, 0], "p0": [1, 0], "p1": [0, 0]})
    apart, together = steps_of(chain([0, 1]), run), steps_of(chain([0, 1], LOIHI), run)
    assert apart - together == pytest.approx(np.full(4, 4.1))  # LOIHI has four cores a router


def test_a_link_between_chips_is_slower_by_the_targets_factor():
    """Layers on chips 0 and 1: 1000 spikes in one step take 1000 * 30 / 3.44 ns."""
    mapped = chain([0, 1, 2])
    run = activity(**{"in": [0, 0], "p0": [0, 0], "p1": [1000, 0], "p2": [0, 0]})
    (load,) = segment_loads(mapped, run)
    assert {link: counts.tolist() for link, counts in load.chip_links.items()} == {
        ((1, 0), (2, 0)): [0, 0, 1000, 0, 0]
    }
    free = {e: np.zeros_like(counts) for e, counts in load.by_core.items()}
    steps = step_ns(replace(load, by_core=free), 1, SANAFE, SMALL).value
    assert steps[2] == pytest.approx(1000 * 30 / 3.44 + 4.1)
    assert load.chip_crossings == 1000 == load.hops_east_west


def test_each_step_ends_in_a_barrier():
    run = activity(**{"in": [0, 0], "p0": [0, 0], "p1": [0, 0], "p2": [0, 0]})
    one, two = chain([0, 0, 0]), chain([0, 1, 2])
    assert (one.placement.chips_used, two.placement.chips_used) == (1, 2)
    for mapped, tiles, chips in ((one, 1, 1), (two, 2, 2)):
        (load,) = segment_loads(mapped, run)
        time = chip_time(mapped, load, 1, SANAFE)
        assert time.steps == STEPS + 3
        barrier = barrier_ns(SMALL, SANAFE, tiles, chips).value
        assert time.barrier_us.value == pytest.approx(5 * barrier / 1e3)
    assert barrier_ns(SMALL, SANAFE, 1, 1).value == 600 < barrier_ns(SMALL, SANAFE, 2, 2) < 14_300


def test_the_longest_way_makes_the_depth():
    """A shortcut does not make a segment shallower; what it brings waits where it has arrived."""
    second = layer("p1", "p0")
    shortcut = replace(second.synapses[0], name="p1.short", source="in")
    second = replace(second, synapses=(*second.synapses, shortcut))
    mapped = chain([0, 0])
    chip = replace(
        mapped.chip_segments[0], populations=(mapped.chip_segments[0].populations[0], second)
    )
    (load,) = segment_loads(
        replace(mapped, chip_segments=(chip,)),
        activity(**{"in": [1, 0], "p0": [0, 0], "p1": [0, 0]}),
    )
    assert load.depth == 2
    assert load.by_core["message_in"].tolist() == [[2, 0, 0, 0]]


def delayed(mapped, *synapses):
    """The mapping with synapses of the layers p0, p1, ... in place of their own."""
    chip = mapped.chip_segments[0]
    layers = zip(chip.populations, synapses, strict=True)
    chip = replace(chip, populations=tuple(replace(p, synapses=of) for p, of in layers))
    placement = place(mapped.placement.tiles, [chip], mapped.target)
    return replace(mapped, chip_segments=(chip,), placement=placement)


def test_a_delayed_spike_is_sent_and_read_at_once_whenever_it_acts():
    """Its message leaves when it fires, and its synapses are read in that step, on any core."""
    mapped = chain([0, 1])
    first, second = (p.synapses[0] for p in mapped.chip_segments[0].populations)
    run = activity(**{"in": [0, 0], "p0": [3, 1], "p1": [0, 0]})
    for delay, depth in [(0, 2), (1, 1), (5, 1)]:
        sent = [0, 3, 1, 0][: STEPS + depth]
        late = delayed(mapped, (first,), (replace(second, delay=delay),))
        (load,) = segment_loads(late, run)
        assert load.depth == depth
        assert load.by_core["message_out"][0].tolist() == sent
        assert load.by_core["message_in"][1].tolist() == sent
        assert load.by_core["synop_dense"][1].tolist() == [WIDTH * n for n in sent]


def test_a_loop_hands_its_spikes_on_in_the_step_in_which_it_fires():
    mapped = chain([0, 1])
    first, second = (p.synapses[0] for p in mapped.chip_segments[0].populations)
    back = replace(second, name="p1.short", source="p1", delay=2)
    looped = delayed(mapped, (first, back), (second,))
    (load,) = segment_loads(looped, activity(**{"in": [0, 0], "p0": [0, 0], "p1": [2, 1]}))
    assert load.depth == 2
    assert load.by_core["message_in"][0].tolist() == [0, 0, 2, 1]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        self.encode = BitPlaneEncoder()
        self.spiking = OverTime(nn.Conv2d(2, 2, 1, bias=False))
        self.lif = Leaky()
        self.decode = Decoder(bitplane_weights("lsb"))
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(2 * 4 * 4, 3)

    def forward(self, x):
        x = self.encode(self.relu(self.conv(x)))
        return self.fc(self.flatten(self.decode(self.lif(self.spiking(x)))))


def mapped_net(partition):
    return map_model(Net(), partition=partition, calibration=torch.rand(4, 1, 4, 4))


def test_the_host_starts_every_operation_and_a_neuron_in_every_step():
    mapped = mapped_net("none")
    assert launches_of(mapped.graph) == 6 + 8  # conv, relu, encode, conv, decode, fc; neuron


class Looped(nn.Module):
    """A recurrent layer behind one with maxima of spikes."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)
        self.lif = snn.Leaky(beta=0.5, threshold=0.2)
        self.fc, self.back = nn.Linear(12, 4), nn.Linear(4, 4)
        self.last = snn.Leaky(beta=0.5, threshold=0.2)

    def forward(self, x):
        mem, mem2, total, spikes = self.lif.init_leaky(), self.last.init_leaky(), 0, 0
        spikes = torch.zeros(x.size(1), 4)
        for step in range(len(x)):
            inner, mem = self.lif(self.conv(x[step]), mem)
            drive = self.fc(self.pool(inner).flatten(1)) + self.back(spikes)
            spikes, mem2 = self.last(drive, mem2)
            total = total + spikes
        return total


def test_the_host_starts_a_loop_in_every_step_and_maxima_once():
    spikes = (torch.rand(5, 2, 2, 6, 6) < 0.5).float()
    mapped = map_model(Looped().eval(), partition="none", calibration=spikes, inputs="spikes")
    once = {"conv", "maxima", "fc", "readout"}
    each = {"lif", "delay", "back", "add", "last"}
    assert launches_of(mapped.graph) == len(once) + 5 * len(each)


@pytest.mark.parametrize("host", ["jetson-orin-nano", "jetson-tx1", "horowitz-45nm"])
def test_the_parts_of_a_sample(host):
    mapped, profile = mapped_net("all"), load_host(host)
    chip = mapped.chip_segments[0]
    zeros = {n: np.zeros((8, 2, 4, 4), np.int64) for n in (chip.inputs[0].name, "lif")}
    loads = segment_loads(mapped, Activity(1, zeros, {}, {}))
    time = latency(mapped, loads, [], 1, SANAFE, profile, [70])
    assert [(s.name, s.side) for s in time.segments] == [
        (s.name, s.side) for s in mapped.partition.segments
    ]
    assert time.exchange_us.value == 271 and time.sample_us.value == 300
    assert time.messages_us.value == pytest.approx(70 * 1.92)
    (there,) = (s for s in time.segments if s.side == "chip")
    assert time.management_us.value == pytest.approx(4.13 * there.steps)
    known = [part.value for part in time.parts_us.values() if part is not None]
    assert time.total_us.value == pytest.approx(sum(known))
    if host == "horowitz-45nm":
        assert time.host_us is None
    else:
        alone = profile.latency_us(0, 3) + profile.latency_us(0, 2)
        assert time.host_us.value == pytest.approx(alone.value)


def test_no_chip_no_exchange():
    mapped = mapped_net("none")
    time = latency(mapped, (), [], 1, SANAFE, load_host(), ())
    others = [part for name, part in time.parts_us.items() if name != "host"]
    assert [part.value for part in others] == [0] * 7
    assert time.total_us == time.host_us
