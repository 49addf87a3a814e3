"""Networks whose energy or time somebody measured on a Loihi 1, built from has8's own types.

Shapes, steps and cores are published, weights are not needed: a price follows from who spikes when,
and from where the neurons lie. Where spikes were not published, rates are those that published code
aims at; where it says nothing, a neuron fires in 5 % of all steps, and the lowest and highest
figures are those at 2 % and at 10 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np

from hwsim.activity import Activity
from hwsim.price.counts import boundary_counts
from hwsim.price.event_timing import jobs_of, network_of
from hwsim.price.messages import messages_of
from hwsim.price.queues import Floats, times
from hwsim.price.traffic import NEURONS, SegmentLoad, segment_loads
from hwsim.price.turns import turns
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.wiring import Axis, Ints, Wiring, dense, shape3
from mapping.cores.allocate import allocate
from mapping.cores.placement import Placement, place
from mapping.cores.routes import routes
from mapping.graph.ir import Graph, Node, Signal
from mapping.mapped import Mapped
from mapping.partition.segments import Partition, Segment
from mapping.targets.prices import Accounting, Event
from mapping.targets.schema import Reset, Target

Rates = tuple[float, float, float]
"""Spikes of a neuron in a step: lowest, assumed, highest."""

ASSUMED: Rates = (0.02, 0.05, 0.10)
"""Where nobody published them."""

REGULATED: Rates = (0.004, 0.01, 0.02)
"""Of neurons that were trained to fire 10 times in 1,000 steps, with as much play."""

NENGO: Rates = (0.059, 0.068, 0.079)
"""Of neurons with Nengo's default gains and biases, without input, in steps of 1 ms.

Largest rates are drawn between 200 and 400 Hz, intercepts between -1 and 0.9 or 1; a neuron rests
for 1 or 2 ms after a spike. Lowest and highest of the four, and the geometric mean of these two.
"""

ON_CHIP = ("chip", "barrier", "management")
STEPS = (*ON_CHIP, "messages")
"""What makes a step long: work and barriers, and the messages that board processors write."""
RUNNING = ("events", "embedded")
CORES = ("used_cores", *RUNNING)
BOARD = ("used_cores", "other_cores", *RUNNING)

AT_ONCE = 64
"""Steps whose messages are in memory at a time."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement of a network.

    Args:
        quantity: energy in microjoules, or time in microseconds, of all steps of the case.
        what: "total", or "dynamic" without what the chip draws when it does nothing.
        value: the number.
        parts: of a price that were measured, by has8's names; the host's were never.
        note: what was measured, in words.
        tells: the entries of the sheet that it tells, if all others are known.
    """

    quantity: Literal["energy", "time"]
    what: Literal["total", "dynamic", "input"]
    value: float
    parts: tuple[str, ...]
    note: str = ""
    tells: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Layer:
    """Neurons of one layer.

    Args:
        channels: of the layer.
        kernel: of a convolution; 0 where all inputs reach all neurons.
        stride: of the convolution.
        padding: of the convolution.
        groups: of the convolution.
        recurrent: whether its neurons feed each other.
        rates: of its spikes.
    """

    channels: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    recurrent: bool = False
    rates: Rates = ASSUMED

    def wiring(self, shape: Sequence[int]) -> Wiring:
        """Between an input of some shape and the layer."""
        if not self.kernel:
            return dense(self.channels, shape)
        channels, *extents = shape3(shape)
        rows, cols = (Axis(self.kernel, self.stride, self.padding, 1, x) for x in extents)
        return Wiring(rows, cols, channels, self.channels, self.groups)


@dataclass(frozen=True, slots=True)
class Stack:
    """Layers one behind the other; the last one's spikes leave the chip.

    Args:
        shape: of the input.
        layers: from the first one.
        inputs: rates of the input.
        reset: of all neurons.
        written: whether the host writes the inputs as biases of neurons, once a sample; else it
            sends their spikes.
    """

    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    inputs: Rates
    reset: Reset = "zero"
    written: bool = False

    @property
    def rates(self) -> Mapping[str, Rates]:
        """Of each port's and population's spikes."""
        return {"input": self.inputs, **{f"layer{n}": x.rates for n, x in enumerate(self.layers)}}

    def chip(self, steps: int) -> ChipSegment:
        """Its segment, for so many steps."""
        source, at = "input", self.shape
        ports, made = (Port(source, at),), []
        if self.written:
            ports = (Port("image", at, "bias"),)
            made.append(Population(source, at, (), neurons(self.reset), "image"))
        for number, layer in enumerate(self.layers):
            name, wires = f"layer{number}", layer.wiring(at)
            synapses = [synapse(f"to {name}", source, wires)]
            at = wires.out_shape if layer.kernel else (layer.channels,)
            if layer.recurrent:
                synapses.append(synapse(f"around {name}", name, dense(layer.channels, at), 1))
            made.append(Population(name, at, tuple(synapses), neurons(self.reset)))
            source = name
        return ChipSegment("net", steps, ports, tuple(made), (source,))


class Adaptive:
    """80 inputs, 140 plain and 100 adaptive neurons that all feed each other, 10 outputs.

    A core of its own passes the inputs on, and a second compartment of each adaptive neuron holds
    its threshold.
    """

    @property
    def rates(self) -> Mapping[str, Rates]:
        """Of each port's and population's spikes; thresholds and outputs send none."""
        inputs = same(0.0299)
        hidden = dict.fromkeys(("plain", "adaptive"), REGULATED)
        return {"input": inputs, "relay": inputs, "thresholds": NEVER, "output": NEVER, **hidden}

    def chip(self, steps: int) -> ChipSegment:
        """Its segment, for so many steps."""
        sizes = {"relay": 80, "plain": 140, "adaptive": 100}

        def fed(name: str, size: int, *sources: str) -> Population:
            synapses = []
            for source in sources:
                late = int(source != "relay" and name in sizes)
                wires = dense(size, (sizes[source],))
                synapses.append(synapse(f"{source} to {name}", source, wires, late))
            return Population(name, (size,), tuple(synapses), neurons())

        def each(name: str, size: int, source: str) -> Population:
            one = synapse(
                f"{source} to {name}", source, Layer(size, 1, groups=size).wiring((size,))
            )
            return Population(name, (size,), (one,), neurons())

        made = (
            each("relay", 80, "input"),
            fed("plain", 140, *sizes),
            fed("adaptive", 100, *sizes),
            each("thresholds", 100, "adaptive"),
            fed("output", 10, "plain", "adaptive"),
        )
        return ChipSegment("net", steps, (Port("input", (80,)),), made, ("output",))


def neurons(reset: Reset = "zero") -> Lif:
    """Neurons with constants that mean nothing to a price, but for their reset."""
    du, dv, threshold, bias, bias_exp = map(np.array, (4095, 128, 64, 0, 0))
    return Lif(du, dv, threshold, bias, bias_exp, reset)


def synapse(name: str, source: str, wires: Wiring, delay: int = 0) -> Synapse:
    """Synapses with random weights of 8 bits and mixed signs."""
    weight = np.random.default_rng(0).integers(-127, 128, wires.weight_shape) * 2
    return Synapse(name, source, wires, weight, 0, "mixed", 8, delay)


@dataclass(frozen=True, slots=True)
class Case:
    """A network, how it ran, and what was measured.

    Args:
        name: of the network.
        source: where the measurements were published.
        note: what is assumed, and what differs from the published network.
        measured: what was measured.
        steps: that ran on the chip.
        net: None where counts were published instead.
        counts: published counts of a sample by event, lowest, assumed and highest.
        cores: that the published network took, where that is known.
        neurons: that one core took.
        stored: part of the synapses that the chip held, where zeros were left out.
        sparse: whether their lists have an index for each synapse, whatever the layer.
        share: of a chip that the network had, where copies of it filled the chip.
        times: the parts of the time for which power was drawn.
        exchanges: with the host, for each that has8 would count.
        stand_in: the case whose network stands for one that is not known.
        others: the population that serves other networks as well: what it takes in is counted, its
            neurons are not. No core may hold another population with it.
    """

    name: str
    source: str
    note: str
    measured: tuple[Measured, ...]
    steps: int = 0
    net: Stack | Adaptive | None = None
    counts: Mapping[Event, tuple[float, float, float]] = field(default_factory=dict)
    cores: int | None = None
    neurons: int = 1024
    stored: float = 1.0
    sparse: bool = False
    share: float = 1.0
    times: tuple[str, ...] = STEPS
    exchanges: int = 1
    stand_in: str = ""
    others: str = ""


def mapped(case: Case, target: Target) -> Mapped:
    """A case's network on cores of a target, as many chip steps long as it was when measured."""
    assert case.net is not None
    late = max(case.net.chip(case.steps).depths().values())
    chip = case.net.chip(case.steps - late)
    core = msgspec.structs.replace(target.core, neurons=case.neurons)
    return on_chip(chip, msgspec.structs.replace(target, core=core))


def on_chip(chip: ChipSegment, target: Target, placement: Placement | None = None) -> Mapped:
    """A mapping that is one chip segment, with as much of a graph as prices need.

    Args:
        chip: the segment.
        target: with its cores.
        placement: where it lies; None lets has8 find cores.
    """
    nodes = [Node("input", "input", (), Signal((1,)))]
    for _, each in chip.synapses():
        kind = "linear" if each.wiring.full else "conv2d"
        nodes.append(Node(each.name, kind, (), Signal((1,))))
    names, inputs = (tuple(p.name for p in of) for of in (chip.populations, chip.inputs))
    partition = Partition((Segment(chip.name, "chip", names, inputs, chip.outputs, ""),), ())
    placement = placement or place(allocate([chip], target), [chip], target)
    return Mapped(Graph(tuple(nodes)), partition, (chip,), {}, placement, target, {})


def activity(case: Case, mapped: Mapped, level: int) -> Activity:
    """What happens in one sample: spikes at random, with the rates of a level, 0 to 2."""
    assert case.net is not None
    (chip,) = mapped.chip_segments
    rng = np.random.default_rng(0)
    written = {p.name: np.ones(p.shape, np.int64) for p in chip.inputs if p.kind == "bias"}
    spikes = {
        name: (rng.random((chip.steps, *chip.shape_of(name))) < rate[level]).astype(np.int64)
        for name, rate in case.net.rates.items()
    }
    return Activity(1, written | spikes, {}, {})


def load(case: Case, mapped: Mapped, level: int) -> tuple[SegmentLoad, int]:
    """What the chip does in one sample, and its messages between board and chip."""
    happened = activity(case, mapped, level)
    (found,) = segment_loads(mapped, happened)
    by_core = as_stored(case, found.by_core)
    cores = [tile.core for tile in mapped.placement.tiles if tile.population == case.others]
    for event in NEURONS:
        by_core[event] = by_core[event].copy()
        by_core[event][cores] = 0
    messages = sum(b.messages for b in boundary_counts(mapped, happened, found.from_ports))
    return replace(found, by_core=by_core), messages


def as_stored(case: Case, events: Mapping[Event, Ints]) -> dict[Event, Ints]:
    """Events whose synapses are those that the published network stored, and as it did."""
    found: dict[Event, Ints] = {}
    for event, counts in events.items():
        synapses = event.startswith("synop")
        kind: Event = "synop_sparse" if synapses and case.sparse else event
        kept = np.rint(counts * case.stored).astype(np.int64) if synapses else counts
        found[kind] = found.get(kind, 0) + kept
    return found


def followed(case: Case, mapped: Mapped, level: int, accounting: Accounting) -> Floats:
    """Nanoseconds of each chip step of one sample if every message is followed."""
    (turn,) = turns(mapped, "gated")
    parts = turn.parts(activity(case, mapped, level))
    ways = tuple(routes(mapped.placement, mapped.chip_segments))
    network, ends = network_of(mapped, accounting), []
    for start in range(0, turn.steps, AT_ONCE):
        some = range(start, min(start + AT_ONCE, turn.steps))
        found = messages_of(mapped, parts, ways, some)
        jobs = jobs_of(replace(found, events=as_stored(case, found.events)), accounting)
        ends.append(times(network, jobs).ends(jobs))
    return np.concatenate(ends)


def same(rate: float) -> Rates:
    """A rate that is known."""
    return (rate, rate, rate)


NEVER = same(0.0)
PIXELS = same(0.1325)
"""The mean of MNIST's test images, of 1: how often an input neuron with that bias fires."""
HALF_PIXELS = same(0.0488)
"""The same where the threshold is 512 to biases of at most 255, and neurons reset to zero."""

MNIST_NET = (Layer(16, 5, 2), Layer(32, 3), Layer(64, 3, 2), Layer(10, 4, rates=NEVER))
MOBILE_NET = (
    Layer(32, 3, 2, 1),
    *(
        layer
        for wide, out, stride in zip(
            (32, 64, 128, 128, 256), (64, 128, 128, 256, 256), (1, 2, 1, 2, 1), strict=True
        )
        for layer in (Layer(wide, 3, stride, 1, wide), Layer(out, 1))
    ),
    Layer(256, 2, 2, 0, 256),
    Layer(10, rates=NEVER),
)

EVENTS_IN = Layer(2312, 1, groups=2312, rates=same(3856 / 450 / 2312))
"""N-MNIST's input neurons: the mean of 100 recordings."""
_CASES = (
    Case(
        name="keyword spotting",
        source="abr/power_benchmarks at fce95c8 (arXiv:1812.01739), Wolf Mountain",
        note="390-256-256-29; as in nengo-loihi's example the host computes the first and the last "
        "layer, and exchanges spikes in each of ten steps, which has8 does once a sample",
        steps=10,
        net=Stack((256,), (Layer(256),), ASSUMED),
        exchanges=10,
        times=(*STEPS, "exchange"),
        measured=(
            Measured(
                "time", "total", 3373, (*STEPS, "exchange"), "296.5 a second", ("exchange_us",)
            ),
            Measured("energy", "dynamic", 271.5, RUNNING, "running less idle"),
            Measured("energy", "total", 371.7, BOARD, "0.1102 W"),
        ),
    ),
    Case(
        name="ten layers of 256",
        source="abr/power_benchmarks at fce95c8 (arXiv:1812.01739), Wolf Mountain",
        note="what another copy of ten layers adds to the power, 1.7 mW at 1,140 steps a second: "
        "ten layers, and the synapses by which all copies reach one more layer, with Nengo's "
        "default gains and biases; 1,000 steps",
        steps=1000,
        net=Stack((256,), (Layer(256, rates=NENGO),) * 11, NENGO),
        others="layer10",
        measured=(
            Measured(
                "energy",
                "dynamic",
                1491,
                ("events",),
                "more power for more cores",
                ("energy_error",),
            ),
        ),
    ),
    Case(
        name="MNIST of NxTF's paper",
        source="Rueckauer et al., arXiv:2101.04261, Table, as quoted; Nahuku",
        note="its layers are not published: the notebook's network stands for it, in 100 steps",
        steps=100,
        cores=14,
        sparse=True,
        stand_in="MNIST of NxTF's notebook",
        net=Stack((1, 28, 28), MNIST_NET, PIXELS, "subtract", written=True),
        times=ON_CHIP,
        measured=(
            Measured("time", "total", 6650, ON_CHIP, "without input", ("time_error",)),
            Measured("energy", "total", 660, CORES, "99 mW: used cores, embedded processors"),
        ),
    ),
    Case(
        name="MNIST of NxTF's notebook",
        source="intel-nrc-ecosystem/models at 3dc53bf, dnn, tutorial a",
        note="28 x 28 input neurons and four convolutions, which reset to zero; 512 steps",
        steps=512,
        sparse=True,
        net=Stack((1, 28, 28), MNIST_NET, HALF_PIXELS, written=True),
        times=STEPS,
        measured=(
            Measured(
                "time",
                "total",
                31_135,
                (*STEPS, "sample"),
                "60.81 µs a step, with input and reset",
                ("time_error",),
            ),
            Measured(
                "time",
                "input",
                1763,
                ("messages", "management", "sample"),
                "all management of 512 steps, with 784 biases written and the reset",
                ("message_us", "step_us"),
            ),
        ),
    ),
    Case(
        name="CIFAR-10 of NxTF's notebook",
        source="intel-nrc-ecosystem/models at 3dc53bf, dnn, tutorial b",
        note="the pseudo-MobileNet, 76,810 neurons and 3,072 inputs; 64 of 512 steps",
        steps=64,
        cores=157,
        sparse=True,
        net=Stack((3, 32, 32), MOBILE_NET, same(0.477), "subtract", written=True),
        times=ON_CHIP,
        measured=(
            Measured(
                "time",
                "total",
                (70_290 - 10_000) * 64 / 512,
                ON_CHIP,
                "137.3 µs a step by the host's clock, less 10 ms a sample of input and reset",
                ("time_error",),
            ),
            Measured(
                "time",
                "input",
                10_000,
                ("messages", "sample"),
                "3,072 biases written and 157 cores reset, in every 512th step",
                ("message_us",),
            ),
        ),
    ),
    Case(
        name="sequential MNIST",
        source="intel-nrc-ecosystem/models at 3dc53bf, lsnn, performance notebook; Nahuku",
        note="80 inputs that fire where pixels cross 40 thresholds (2.4 spikes a step on MNIST), "
        "140 plain and 100 adaptive recurrent neurons, 19.8 % of the synapses, trained to fire in "
        "1 % of all steps (LSNN-official at 0e09090); inputs have a core of their own; 840 steps",
        steps=840,
        cores=2,
        net=Adaptive(),
        stored=0.198,
        measured=(
            Measured("time", "total", 13_985, STEPS, "16.649 µs a step", ("step_us",)),
            Measured(
                "energy", "dynamic", 22.15, ("events",), "1.5835 mW of the core", ("energy_error",)
            ),
            Measured("energy", "total", 362.7, CORES, "one core, embedded processors"),
        ),
    ),
    Case(
        name="Braille",
        source="intel-nrc-ecosystem/models at 3dc53bf, spytorch2loihi, energy notebook; Nahuku",
        note="48-450-28, recurrent; ten neurons a core as published; two copies filled a chip; "
        "inputs read from the board's memory; 270 steps",
        steps=270,
        cores=53,
        net=Stack(
            (48,),
            (Layer(48, 1, groups=48), Layer(450, recurrent=True), Layer(28, rates=NEVER)),
            ASSUMED,
        ),
        neurons=10,
        share=1 / 2,
        times=ON_CHIP,
        measured=(
            Measured("time", "total", 1793, ON_CHIP, "6.641 µs a step", ("step_us",)),
            Measured("energy", "dynamic", 132.4, RUNNING, "73.85 mW a copy", ("energy_error",)),
            Measured("energy", "total", 292.1, BOARD, "162.9 mW a copy"),
        ),
    ),
    Case(
        name="N-TIDIGITS",
        source="intel-nrc-ecosystem/models at 3dc53bf, slayer, energy notebook; Nahuku",
        note="64-256-256-242, 128 neurons a core as published; 20 copies filled a chip; delays of "
        "axons not counted; inputs read from the board's memory; 300 of 3,000 steps",
        steps=300,
        cores=6,
        net=Stack(
            (64,),
            (Layer(64, 1, groups=64), Layer(256), Layer(256), Layer(242, rates=NEVER)),
            ASSUMED,
        ),
        neurons=128,
        share=1 / 20,
        times=ON_CHIP,
        measured=(
            Measured("time", "total", 5287.5, ON_CHIP, "17.625 µs a step", ("step_us",)),
            Measured("energy", "dynamic", 57.6, RUNNING, "10.893 mW a copy", ("energy_error",)),
        ),
    ),
    Case(
        name="N-MNIST",
        source="intel-nrc-ecosystem/models at 3dc53bf, slayer, N-MNIST notebook",
        note="2312-512-10; 3,856 input spikes a sample, the mean of 100 recordings; 450 steps",
        steps=450,
        cores=17,
        net=Stack((2312,), (EVENTS_IN, Layer(512), Layer(10)), EVENTS_IN.rates),
        measured=(
            Measured(
                "time", "total", 16_650, STEPS, "166.65 s for 4.5 million steps", ("message_us",)
            ),
        ),
    ),
    Case(
        name="nearest neighbours",
        source="Frady et al., arXiv:2004.12691, as quoted; Pohoiki Springs",
        note="76,800 patterns; published counts of a query, no network",
        counts={
            "synop_dense": (5.1e7, 5.45e7, 5.8e7),
            "neuron_access": (4.608e6, 4.608e6, 4.608e6),
            "neuron_update": (4.608e6, 4.608e6, 4.608e6),
        },
        measured=(Measured("energy", "dynamic", 1330, ("events",), "a query", ("energy_error",)),),
    ),
)

CASES = {case.name: case for case in _CASES}

LEFT_OUT = {
    "RelNet": "sizes and spikes of its layers are in a data file that was not published",
    "CIFAR-10 of NxTF's paper": "the layers of its 861 cores were not published",
    "N-MNIST of NxTF's paper": "neither cores nor steps were published",
    "DVS gesture, SANA-FE": "measurements were published as plots, without numbers",
    "DVS gesture, SLAYER": "neither time nor energy was published",
    "PilotNet": "measured on a Loihi 2",
}
"""Networks that ran on chips and are not here, with the reason."""
