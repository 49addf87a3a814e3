"""SANA-FE's DVS gesture network (Loihi 1) in has8's own types, held to what SANA-FE counts of it.

Six layers on 49 cores, whose inputs fire by biases of their own. Weights and thresholds come with
the package sanafe (GPL-3, so none of them is here); ``snn/dvs.yaml`` of its repository says on
which core each neuron lies. has8 simulates it, counts it and prices it; nothing here runs SANA-FE.

SANA-FE and has8 differ in two things, which are evened out here. SANA-FE stops all layers in the
same step, where has8 gives each layer all steps of its own; and it updates a neuron that spikes
reach even if their weights cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import as_file, files

import numpy as np

from benchmarks.cost_cases import on_chip
from benchmarks.oracles import edges, package
from hwsim.activity import Activity
from hwsim.backends.reference import weighted_sum
from hwsim.backends.registry import find_backend
from hwsim.price.energy import events_pj
from hwsim.price.traffic import segment_loads
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.chip.wiring import Axis, Ints, Wiring, dense
from mapping.cores.allocate import Tile
from mapping.cores.placement import Core, Placement
from mapping.mapped import Mapped
from mapping.targets.prices import Event
from mapping.targets.schema import Target, load_target

STEPS = 128
STRIDES = (2, 1, 1, 1)
"""Of the four convolutions; the fifth layer is dense."""

CORES: tuple[Callable[[Ints], Ints], ...] = (
    lambda n: n * 0 + 48,
    lambda n: 40 + n % 240 // 32,
    lambda n: 32 + n % 32 // 4,
    lambda n: 10 + n // 704 * 2 + n % 64 // 32,
    lambda n: 1 + n // 99,
    lambda n: n * 0,
)
"""The core of each neuron of a layer by its number there, as ``snn/dvs.yaml`` has it."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one sample does, and what it costs without static power.

    Args:
        spikes: of each layer, from the inputs on.
        updated: updates of neurons, inputs included.
        synops: synapses that spikes reach.
        messages: from a neuron to each core that it reaches.
        hops: routers that these pass.
        energy_uj: microjoules.
    """

    spikes: tuple[int, ...]
    updated: int
    synops: int
    messages: int
    hops: int
    energy_uj: float


PUBLISHED = Counts(
    (3064, 2857, 7423, 18_980, 5714, 43), 1_346_821, 5_437_656, 386_640, 928_624, 331.760
)
"""What SANA-FE 2.2.9 counts of its ``snn/dvs.yaml`` in 128 steps."""


def published() -> ChipSegment:
    """The network with the weights that come with sanafe.

    Raises:
        BackendError: if sanafe is not installed.
    """
    package("sanafe")
    with as_file(files("sanafe.examples") / "dvs_challenge.npz") as path, np.load(path) as data:
        arrays = {name: data[name].astype(np.int64) for name in data.files}
    *kernels, last = (arrays[name] for name in arrays if name not in ("inputs", "thresholds"))
    # stored as (y, x, in, out) and (in, out)
    weights = [*(kernel.transpose(3, 2, 0, 1) for kernel in kernels), last.T]
    return network(weights, arrays["thresholds"], arrays["inputs"].reshape(1, 32, 32), STEPS)


def network(weights: list[Ints], thresholds: Ints, biases: Ints, steps: int) -> ChipSegment:
    """Convolutions and dense layers behind neurons that their biases drive.

    Args:
        weights: ``int64[out, in, y, x]`` of a convolution, ``int64[out, in]`` of a dense layer.
        thresholds: of all layers, the inputs' first.
        biases: of the inputs, ``int64[1, rows, columns]``.
        steps: to run.
    """
    shape = biases.shape
    made = [Population("inputs", shape, (), _neurons(thresholds[0], biases))]
    for number, weight in enumerate(weights, 1):
        name, before = f"layer{number}", made[-1]
        if weight.ndim == 4:
            rows, cols = (
                Axis(k, STRIDES[number - 1], 0, 1, n)
                for k, n in zip(weight.shape[2:], shape[1:], strict=True)
            )
            wires = Wiring(rows, cols, shape[0], len(weight), 1)
        else:
            wires = dense(len(weight), shape)
        shape = wires.out_shape if weight.ndim == 4 else (len(weight),)
        fed = Synapse(
            f"to {name}", before.name, wires, weight.reshape(wires.weight_shape), 0, "mixed", 8
        )
        made.append(Population(name, shape, (fed,), _neurons(thresholds[number], np.array(0))))
    return ChipSegment("dvs", steps, (), tuple(made), ())


def _neurons(threshold: int, bias: Ints) -> Lif:
    """Without current, leaking by 1 / 4096 a step, with biases in units of weights."""
    return Lif(np.array(4095), np.array(1), np.array(threshold), bias, np.array(6))


def cores_of(chip: ChipSegment, *, boxes: bool) -> dict[str, Ints]:
    """SANA-FE's number of each neuron's core, as the published network has it.

    Its authors counted neurons with channels last when they gave them to cores, while SANA-FE
    counts them with channels first, so that a core's neurons lie all over a layer.

    Args:
        chip: the network, as :func:`published` makes it.
        boxes: whether to count neurons with channels last here too: then the neurons of a core
            are a box of channels, rows and columns.
    """
    found = {}
    for population, on_core in zip(chip.populations, CORES, strict=True):
        channels, *pixels = population.shape
        number = np.arange(population.size).reshape(population.shape)
        if boxes:
            number = np.moveaxis(number.reshape(*pixels, channels), -1, 0)
        found[population.name] = on_core(number)
    return found


def placed(chip: ChipSegment, target: Target, cores: Mapping[str, Ints]) -> Mapped:
    """The network with its neurons on given cores, each layer's share of a core a box."""
    mesh, tiles = target.chip, []
    held: dict[int, int] = {}
    for population in chip.populations:
        for core in np.unique(cores[population.name]).tolist():
            where = np.nonzero(cores[population.name] == core)
            start = tuple(int(along.min()) for along in where)
            stop = tuple(int(along.max()) + 1 for along in where)
            need = {"neurons": len(where[0])}
            assert np.prod(np.subtract(stop, start)) == need["neurons"], "no box"
            at = held.setdefault(core, len(held))
            tiles.append(Tile(chip.name, population.name, start, stop, {}, need, at, 0))
    used = []
    for core, at in held.items():
        router, slot = divmod(core, mesh.cores_per_tile)
        x, y = divmod(router, mesh.mesh_height)
        index = mesh.cores_per_tile * (y * mesh.mesh_width + x) + slot
        on_it = tuple(n for n, tile in enumerate(tiles) if tile.core == at)
        used.append(Core(0, index, x, y, on_it, {}))
    return on_chip(chip, target, Placement(tuple(tiles), tuple(used), {}))


def simulated(chip: ChipSegment, target: Target) -> Activity:
    """What the network does until all layers stop in the same step, as SANA-FE counts it."""
    run = find_backend("fast").compile(chip, target.registers)({})
    events: dict[str, Ints] = {}
    updated: dict[str, Ints] = {}
    for population in chip.populations:
        name = population.name
        fired = run.spikes[name][:, 0].numpy().astype(np.int64)
        reached = run.updated[name] > 0
        for synapse in population.synapses:
            reached |= _arrivals(synapse, events[synapse.source], reached.shape) > 0
        events[name], updated[name] = fired, reached.astype(np.int64)
    first = min(chip.depths().values())
    for name, depth in chip.depths().items():
        for counts in (events[name], updated[name]):
            counts[chip.steps - (depth - first) :] = 0
    return Activity(1, events, updated, {})


def _arrivals(synapse: Synapse, spikes: Ints, shape: Sequence[int]) -> Ints:
    """How many spikes reach each neuron, ``[T, 1, ...]`` for ``[T, C, ...]``: channels alike."""
    wires = replace(synapse.wiring, channels_out=1)
    ones = replace(synapse, wiring=wires, weight=np.ones(wires.weight_shape, np.int64))
    return weighted_sum(ones, spikes).reshape(shape[0], 1, *shape[2:])


def packets(
    chip: ChipSegment, activity: Activity, cores: Mapping[str, Ints], target: Target
) -> Mapping[Event, int]:
    """Messages, and the hops that they take, where a spike is one message for each core it reaches.

    Args:
        chip: the network.
        activity: of it.
        cores: SANA-FE's number of each neuron's core, by population.
        target: with the mesh.
    """
    mesh, found = target.chip, np.zeros(3, np.int64)
    for population, synapse in chip.synapses():
        senders, takers, _ = edges(synapse)
        ends = cores[population.name].ravel()[takers]
        senders, ends = np.divmod(np.unique(senders * target.chip.cores + ends), target.chip.cores)
        starts = cores[synapse.source].ravel()[senders]
        places = [divmod(core // mesh.cores_per_tile, mesh.mesh_height) for core in (starts, ends)]
        along = [np.abs(a - b) for a, b in zip(*places, strict=True)]
        spikes = activity.events[synapse.source].sum(0).ravel()[senders]
        found += [int((spikes * way).sum()) for way in (1, *along)]
    names: tuple[Event, ...] = ("message_out", "hop_east_west", "hop_north_south")
    return dict(zip(names, found.tolist(), strict=True))


def counted(mapped: Mapped, cores: Mapping[str, Ints]) -> Counts:
    """What has8 simulates, counts and prices of the network.

    Args:
        mapped: the network on cores of has8's.
        cores: between which messages go, SANA-FE's number of each neuron's, by population.
    """
    (chip,), target = mapped.chip_segments, mapped.target
    activity = simulated(chip, target)
    (load,) = segment_loads(mapped, activity)
    events = {**load.events(), **packets(chip, activity, cores, target)}
    # of the chip's steps those that pass while the segment's last layer still works do not count
    events["neuron_access"] = int(load.by_core["neuron_access"][:, : chip.steps].sum())
    energy = events_pj(events, target.accounting("sanafe"))
    return Counts(
        tuple(int(activity.events[p.name].sum()) for p in chip.populations),
        events["neuron_update"],
        events["synop_conv"] + events["synop_dense"],
        events["message_out"],
        events["hop_east_west"] + events["hop_north_south"],
        sum(part.value for part in energy.values()) * 1e-6,
    )


@cache
def compared() -> dict[str, Counts]:
    """What SANA-FE counts of the published network, and what has8 does, by name.

    "boxes" are has8's counts if each core's neurons are a box of channels, rows and columns.

    Raises:
        BackendError: if sanafe is not installed.
    """
    chip, target = published(), load_target("loihi")
    scattered, boxes = (cores_of(chip, boxes=boxes) for boxes in (False, True))
    on_boxes = placed(chip, target, boxes)
    ours = {name: counted(on_boxes, of) for name, of in (("has8", scattered), ("boxes", boxes))}
    return {"SANA-FE": PUBLISHED, **ours}


def table() -> list[str]:
    """The comparison in Markdown."""
    lines = [
        "| DVS network | spikes of each layer | updates | synapses | messages | hops | uJ |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, of in compared().items():
        numbers = (of.updated, of.synops, of.messages, of.hops)
        spikes, cells = (" | ".join(f"{n:,}" for n in some) for some in (of.spikes, numbers))
        lines.append(f"| {name} | {spikes.replace(' |', ',')} | {cells} | {of.energy_uj:.3f} |")
    return lines
