"""The chips of a mapping as they are drawn: cores with what they hold and did, and links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hwsim.price.cost import CostReport
from hwsim.report import units
from mapping.cores.floorplan import PlanLayer, layers_on, neurons_on
from mapping.cores.routes import routes
from mapping.mapped import Mapped
from mapping.targets.topology import Topology

LOADS = {
    "neuron_update": "neuron updates",
    "neuron_spike": "spikes",
    "message_in": "messages in",
    "message_out": "messages out",
    "synops": "synaptic operations",
}
"""What a core does, and what a person reads; synaptic operations of all kinds are one."""


@dataclass(frozen=True, slots=True)
class CoreView:
    """A core in use.

    Args:
        number: its place in ``Placement.cores``.
        chip: its chip's number.
        index: of the core on its chip.
        layer: place of the layer with most neurons there.
        holds: neurons by layer.
        used: share of each resource, 0..1.
        loads: of one sample, by the names of :data:`LOADS`; empty without a run.
        about: a sentence with all of it.
    """

    number: int
    chip: int
    index: int
    layer: int
    holds: Mapping[str, int]
    used: Mapping[str, float]
    loads: Mapping[str, float]
    about: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """A link between two routers, whose x and y are counted over all chips.

    Args:
        start: the router that messages leave.
        end: the router that they enter.
        messages: of one sample.
    """

    start: tuple[int, int]
    end: tuple[int, int]
    messages: float


@dataclass(frozen=True, slots=True)
class ChipView:
    """All chips of a mapping.

    Args:
        width: routers of a chip from west to east.
        height: routers of a chip from south to north.
        cores_per_router: at each.
        usable: the cores on a chip that a mapping may use.
        origin: x and y of each chip's south-western router, counted over all chips.
        layers: in the order of execution.
        cores: those in use.
        links: those with traffic; none without a run.
    """

    width: int
    height: int
    cores_per_router: int
    usable: frozenset[int]
    origin: Mapping[int, tuple[int, int]]
    layers: tuple[PlanLayer, ...]
    cores: tuple[CoreView, ...]
    links: tuple[Traffic, ...]

    @property
    def cores_per_chip(self) -> int:
        """Cores that a chip offers."""
        return len(self.usable)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The chips in use."""
        return tuple(sorted(self.origin))

    def on_chip(self, number: int) -> Iterator[Traffic]:
        """The links that begin on a chip."""
        x, y = self.origin[number]
        for link in self.links:
            if x <= link.start[0] < x + self.width and y <= link.start[1] < y + self.height:
                yield link


def chips_of(mapped: Mapped, cost: CostReport | None = None) -> ChipView:
    """The chips of a mapping.

    Args:
        mapped: the mapping.
        cost: of a run of it; without one cores have no loads and links no traffic.
    """
    chip, placement = mapped.target.chip, mapped.placement
    topology = Topology.of(chip)
    usable = frozenset(topology.position(n).on_chip for n in range(chip.cores))
    origin = {
        core.chip: (core.x // chip.mesh_width * chip.mesh_width,
                    core.y // chip.mesh_height * chip.mesh_height)
        for core in placement.cores
    }  # fmt: skip
    layers = layers_on(placement)
    return ChipView(
        chip.mesh_width,
        chip.mesh_height,
        chip.cores_per_tile,
        usable,
        origin,
        layers,
        tuple(_cores(mapped, layers, {} if cost is None else loads_of(cost))),
        () if cost is None else tuple(_links(mapped, cost, topology)),
    )


def loads_of(cost: CostReport) -> dict[str, list[float]]:
    """What each core does in one sample, the mean over samples, by the names of :data:`LOADS`."""
    found = {name: np.zeros(cost.cores_used) for name in LOADS}
    for load in cost.loads:
        for event, counts in load.by_core.items():
            name = event if event in LOADS else "synops"
            if event != "neuron_access":
                found[name] += counts.sum(1) / cost.samples
    return {name: counts.tolist() for name, counts in found.items()}


def _cores(
    mapped: Mapped, layers: Sequence[PlanLayer], loads: Mapping[str, list[float]]
) -> Iterator[CoreView]:
    placement = mapped.placement
    places = {(layer.segment, layer.name): place for place, layer in enumerate(layers)}
    for number, core in enumerate(placement.cores):
        neurons = neurons_on(core, placement)
        holds = {name: many for (_, name), many in neurons.items()}
        used = {name: core.used[name] / limit for name, limit in placement.limits.items()}
        own = {name: counts[number] for name, counts in loads.items()}
        held = ", ".join(f"{many:,} neurons of {name}" for name, many in holds.items())
        full = ", ".join(
            f"{name.replace('_', ' ')} {units.percent(share)}" for name, share in used.items()
        )
        did = ", ".join(f"{units.count(own[name])} {LOADS[name]}" for name in own)
        where = f"Core {number} at router {core.x},{core.y} of chip {core.chip}"
        about = f"{where}: {held}. In use: {full}."
        about += f" In a sample: {did}." if did else ""
        ((most, _),) = neurons.most_common(1)
        yield CoreView(number, core.chip, core.index, places[most], holds, used, own, about)


def _links(mapped: Mapped, cost: CostReport, topology: Topology) -> Iterator[Traffic]:
    """Messages over links; none where the counts of single neurons were not kept."""
    placement, events = mapped.placement, cost.work.activity.events
    if not events:
        return
    spikes = {name: counts.sum(0) for name, counts in events.items()}
    pairs: Counter[tuple[int, int]] = Counter()
    for route in routes(placement, mapped.chip_segments):
        if route.sender is not None:
            ends = (placement.tiles[place].core for place in (route.sender, route.destination))
            one, other = ends
            pairs[one, other] += route.messages(spikes[route.source])
    found: Counter[tuple[tuple[int, int], tuple[int, int]]] = Counter()
    for (one, other), messages in pairs.items():
        for link in topology.route(placement.cores[one], placement.cores[other]):
            found[link.start, link.end] += messages
    for (start, end), messages in sorted(found.items()):
        if messages:
            yield Traffic(start, end, messages / cost.samples)
