"""What one sample costs: exact counts times the prices of target and host.

Every price is data with a source, and whatever is assumed or left out is a sentence in
``CostReport.assumptions``. Published prices of one chip disagree, so each accounting of the
target gives a price of its own; the target's default one is the answer unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from has8.errors import BadInput
from hwsim.activity import Activity, Overflow
from hwsim.price.assumptions import Assumption, assumptions
from hwsim.price.counts import (
    BoundaryCounts,
    LayerCounts,
    PopulationCounts,
    boundary_counts,
    layer_counts,
    population_counts,
)
from hwsim.price.timing import Latency, host_macs, latency, launches_of
from hwsim.price.traffic import SegmentLoad, segment_loads
from hwsim.program import Run
from mapping.graph.ops import OPS
from mapping.hosts.schema import DEFAULT_HOST, Host, load_host
from mapping.mapped import Mapped
from mapping.targets.prices import Accounting, Event

CONVENTION = "horowitz-45nm"
"""The host profile with the constants that most papers on spiking networks use."""

PART = {"synop": "synapse", "neuron": "soma", "message": "network", "hop": "network"}
"""The part of the energy that an event belongs to, by the first word of its name."""


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy of one sample in microjoules, by part.

    Args:
        synapse: synaptic operations on the chip.
        soma: neuron updates on the chip.
        network: messages and hops on the chip.
        static: what the chips in use draw without work, for as long as a sample takes.
        x86: their embedded processors, for as long as a sample takes.
        link: spikes between host and chip.
        host: multiply-accumulates of the host's layers.
    """

    synapse: float
    soma: float
    network: float
    static: float
    x86: float
    link: float
    host: float

    @property
    def dynamic(self) -> float:
        """What the chip's cores and mesh need for their work."""
        return self.synapse + self.soma + self.network

    @property
    def work(self) -> float:
        """What is spent on events, messages and arithmetic on both sides, and not on waiting."""
        return self.dynamic + self.link + self.host

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.dynamic + self.static + self.x86 + self.link + self.host


@dataclass(frozen=True, slots=True)
class Price:
    """What one sample costs by one accounting of the target."""

    energy_uj: Energy
    latency: Latency


@dataclass(frozen=True, slots=True)
class HostOnly:
    """What one sample would cost if the host ran every layer, in all steps.

    Args:
        macs: dense multiply-accumulates.
        energy_uj: of these, in microjoules.
        latency_us: microseconds; None if the host's speed is not known.
    """

    macs: int
    energy_uj: float
    latency_us: float | None


@dataclass(frozen=True, slots=True)
class CostReport:
    """Counts over all samples of a run, and prices of one sample.

    Args:
        samples: of the run; the counts of what follows are sums over these unless said
            otherwise.
        target: the chip's name.
        host: the host profile's name.
        cores_used: neuron cores.
        chips_used: chips.
        layers: operations of each convolution and linear layer.
        populations: neuron updates of each layer on the chip.
        boundaries: spikes between host and chip.
        loads: messages, hops, and the work of each core in each step, by chip segment.
        prices: of one sample, by accounting.
        default_accounting: the target's.
        host_only: the same model without the chip.
        convention_uj: microjoules of one sample by the convention of the literature: a constant
            for each dense MAC and for each synaptic operation. No measurement.
        overflow: registers on the chip that left their range.
        assumptions: what the prices rest on, and what they leave out.
        references: the full titles of the short names that the assumptions' sources use.
    """

    samples: int
    target: str
    host: str
    cores_used: int
    chips_used: int
    layers: tuple[LayerCounts, ...]
    populations: tuple[PopulationCounts, ...]
    boundaries: tuple[BoundaryCounts, ...]
    loads: tuple[SegmentLoad, ...]
    prices: Mapping[str, Price]
    default_accounting: str
    host_only: HostOnly
    convention_uj: float
    overflow: Overflow
    assumptions: tuple[Assumption, ...]
    references: Mapping[str, str]

    @property
    def price(self) -> Price:
        """The price by the target's default accounting."""
        return self.prices[self.default_accounting]

    @property
    def energy_uj(self) -> Energy:
        """Microjoules of one sample by the target's default accounting."""
        return self.price.energy_uj

    @property
    def latency_us(self) -> float:
        """Microseconds of one sample by the target's default accounting."""
        return self.price.latency.total_us

    @property
    def host_macs(self) -> int:
        """Dense multiply-accumulates of one sample on the host."""
        return sum(layer.dense for layer in self.layers if layer.side == "host")

    @property
    def synops(self) -> float:
        """Synaptic operations of one sample on the chip."""
        return self._mean(layer.synops for layer in self.layers if layer.side == "chip")

    @property
    def effective_macs(self) -> float:
        """NeuroBench's ``Effective_MACs`` of one sample: layers that values feed."""
        return self._mean(layer.effective for layer in self.layers if not layer.spiking)

    @property
    def effective_acs(self) -> float:
        """NeuroBench's ``Effective_ACs`` of one sample: layers that spikes feed."""
        return self._mean(layer.effective for layer in self.layers if layer.spiking)

    @property
    def dense(self) -> int:
        """NeuroBench's ``Dense`` of one sample: all layers, nothing skipped but padding."""
        return sum(layer.dense for layer in self.layers)

    @property
    def events(self) -> dict[Event, int]:
        """How often each event on the chip happened, over all samples."""
        return joined_events(load.events() for load in self.loads)

    def _mean(self, counts: Iterable[int]) -> float:
        return sum(counts) / self.samples


def estimate(mapped: Mapped, run: Run, host: str | Path | Host = DEFAULT_HOST) -> CostReport:
    """Price a run.

    Args:
        mapped: the mapping that ran.
        run: from :func:`hwsim.simulate`.
        host: the profile of the host: a bundled one's name, a YAML file, or a profile.

    Raises:
        BadInput: if the run is not one of this mapping.
        UnknownName, TargetError: if the host profile cannot be read.
    """
    activity = run.activity
    _check(mapped, activity)
    processor = host if isinstance(host, Host) else load_host(host)
    convention = load_host(CONVENTION)
    layers = layer_counts(mapped, activity)
    populations = population_counts(mapped, activity)
    boundaries = boundary_counts(mapped, activity)
    loads = segment_loads(mapped, activity)
    target = mapped.target
    work = _Work(mapped, processor, activity.samples, layers, boundaries, loads)
    prices = {name: work.price(accounting) for name, accounting in target.accountings.items()}
    return CostReport(
        samples=activity.samples,
        target=target.name,
        host=processor.name,
        cores_used=mapped.placement.cores_used,
        chips_used=mapped.placement.chips_used,
        layers=layers,
        populations=populations,
        boundaries=boundaries,
        loads=loads,
        prices=prices,
        default_accounting=target.default_accounting,
        host_only=_host_only(mapped, layers, processor),
        convention_uj=convention_uj(layers, activity.samples, convention),
        overflow=sum(activity.overflows.values(), Overflow()),
        assumptions=assumptions(mapped, processor, convention, populations),
        references={**convention.references, **processor.references, **target.references},
    )


def chip_energy_pj(events: Mapping[Event, int], accounting: Accounting) -> dict[str, float]:
    """The dynamic energy of a chip's events in picojoules: synapse, soma and network.

    Args:
        events: how often each happened; those left out did not.
        accounting: the prices.
    """
    parts = dict.fromkeys(PART.values(), 0.0)
    for event, count in events.items():
        parts[PART[event.split("_")[0]]] += count * accounting.events[event].pj
    return parts


def joined_events(events: Iterable[Mapping[Event, int]]) -> dict[Event, int]:
    """The sum of the counts of several segments."""
    joined: dict[Event, int] = {}
    for found in events:
        for event, count in found.items():
            joined[event] = joined.get(event, 0) + count
    return joined


def convention_uj(layers: Iterable[LayerCounts], samples: int, constants: Host) -> float:
    """Microjoules of one sample by constants for a MAC and an accumulate.

    As in the literature: dense MACs where values feed a layer, synaptic operations where spikes
    do, wherever the layer runs; no memory, no neurons, no traffic.
    """
    macs = accumulates = 0
    for layer in layers:
        macs += 0 if layer.spiking else layer.dense
        accumulates += layer.synops
    return (macs * constants.pj_per_mac + accumulates / samples * constants.pj_per_ac) * 1e-6


@dataclass(frozen=True, slots=True)
class _Work:
    """What all accountings price alike."""

    mapped: Mapped
    host: Host
    samples: int
    layers: tuple[LayerCounts, ...]
    boundaries: tuple[BoundaryCounts, ...]
    loads: tuple[SegmentLoad, ...]

    def price(self, accounting: Accounting) -> Price:
        target = self.mapped.target
        time = latency(self.mapped, self.loads, self.layers, self.samples, accounting, self.host)
        events = joined_events(load.events() for load in self.loads)
        chip = chip_energy_pj(events, accounting)
        spikes = sum(boundary.spikes for boundary in self.boundaries)
        link_pj = spikes * target.link.bits_per_message * target.link.pj_per_bit
        macs = sum(host_macs(self.layers).values())
        # milliwatts times microseconds are nanojoules
        chip_us = self.mapped.placement.chips_used * time.total_us
        energy = Energy(
            **{part: pj / self.samples * 1e-6 for part, pj in chip.items()},
            static=target.power.static_mw * chip_us * 1e-3,
            x86=target.power.x86_mw * chip_us * 1e-3,
            link=link_pj / self.samples * 1e-6,
            host=macs * self.host.pj_per_mac * 1e-6,
        )
        return Price(energy, time)


def _host_only(mapped: Mapped, layers: Sequence[LayerCounts], host: Host) -> HostOnly:
    macs = sum(layer.dense for layer in layers)
    launches = launches_of(mapped.graph)
    return HostOnly(macs, macs * host.pj_per_mac * 1e-6, host.latency_us(macs, launches))


def _check(mapped: Mapped, activity: Activity) -> None:
    """The run must have counted what feeds each layer and leaves each population."""
    want: dict[str, tuple[int, ...]] = {}
    for chip in mapped.chips:
        names = [*(port.name for port in chip.inputs), *(p.name for p in chip.populations)]
        want.update({name: (chip.steps, *chip.shape_of(name)) for name in names})
    for segment in mapped.partition.host:
        for node in (mapped.graph[name] for name in segment.nodes):
            if OPS[node.op].role == "synapse":
                given = mapped.graph[node.inputs[0]]
                steps = () if given.type.steps is None else (given.type.steps,)
                want[given.name] = (*steps, *given.type.shape)
    for name, shape in want.items():
        if name not in activity.events or activity.events[name].shape != shape:
            raise BadInput(
                f"the run is not of this mapping: it should have counted {name!r} as "
                f"{list(shape)}; simulate the mapping and price that run"
            )
