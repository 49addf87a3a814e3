"""What the energy of one sample consists of, and what events and operations cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from hwsim.price.counts import LayerCounts
from mapping.hosts.schema import Host
from mapping.targets.figures import Figure
from mapping.targets.prices import Accounting, Event

PART = {"synop": "synapse", "neuron": "soma", "message": "network", "hop": "network"}
"""The part of the energy that an event belongs to, by the first word of its name."""


@dataclass(frozen=True, slots=True, repr=False)
class Energy:
    """The energy of one sample in microjoules, by part.

    The parts are of three circles, each around the one before: events on the chip, the cores that
    they happen on, and the whole board with its host.

    Args:
        synapse: synaptic operations on the chip.
        soma: neuron updates on the chip.
        network: messages and hops on the chip.
        used_cores: what the cores in use draw without work, for as long as a sample takes.
        other_cores: the same of all other cores of the chips in use.
        embedded: embedded processors of these chips, for as long as a sample takes.
        reset: resetting the chips' neurons.
        link: messages between host and chip, at both ends.
        host: multiply-accumulates of the host's layers.
        launching: what the host draws while it starts operations; 0 if its power is not known.
        waiting: what the host draws while it waits for the chip; 0 if its power is not known.
    """

    synapse: Figure
    soma: Figure
    network: Figure
    used_cores: Figure
    other_cores: Figure
    embedded: Figure
    reset: Figure
    link: Figure
    host: Figure
    launching: Figure
    waiting: Figure

    @property
    def parts(self) -> dict[str, Figure]:
        """The parts by name; they add up to the total."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def events(self) -> Figure:
        """What the chip's cores and mesh need for their work."""
        return self.synapse + self.soma + self.network

    @property
    def cores(self) -> Figure:
        """Events, and what the cores in use draw without work."""
        return self.events + self.used_cores

    @property
    def total(self) -> Figure:
        """All parts: the whole board with its host."""
        first, *others = self.parts.values()
        return sum(others, first)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {part}" for name, part in self.parts.items())
        return f"Energy(total {self.total}: {parts})"


def chip_energy_pj(events: Mapping[Event, int], accounting: Accounting) -> dict[str, Figure]:
    """The dynamic energy of a chip's events in picojoules: synapse, soma and network.

    Args:
        events: how often each happened; those left out did not.
        accounting: the prices, and how far such sums were off where they were measured.
    """
    parts = events_pj(events, accounting)
    return {part: pj * accounting.energy_error for part, pj in parts.items()}


def events_pj(events: Mapping[Event, int], accounting: Accounting) -> dict[str, Figure]:
    """The same by the accounting's own prices, as its authors would have it."""
    parts = dict.fromkeys(PART.values(), Figure.exact(0.0, "pJ"))
    for event, count in events.items():
        parts[PART[event.split("_")[0]]] += count * accounting.events[event].pj
    return parts


def joined_events(events: Iterable[Mapping[Event, int]]) -> dict[Event, int]:
    """The sum of the counts of several segments."""
    joined: dict[Event, int] = {}
    for counts in events:
        for event, count in counts.items():
            joined[event] = joined.get(event, 0) + count
    return joined


def convention_uj(layers: Iterable[LayerCounts], samples: int, constants: Host) -> Figure:
    """Microjoules of one sample by constants for a MAC and an accumulate.

    As in the literature, values that feed a layer cost dense MACs and spikes cost synaptic
    operations, wherever the layer runs; memory, neurons and traffic cost nothing.
    """
    macs = accumulates = 0
    for layer in layers:
        macs += 0 if layer.spiking else layer.dense
        accumulates += layer.synops
    pj = macs * constants.pj_per_mac + accumulates / samples * constants.pj_per_ac
    return (pj * 1e-6).with_unit("µJ")
