"""What a chip costs: its events, idle power, and the way to the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from msgspec import Meta

from mapping.chip.payload import Payload
from mapping.targets.figures import Figure
from mapping.targets.sheets import (
    AboveZero,
    AtLeastOne,
    Data,
    Microjoules,
    Microseconds,
    Milliwatts,
    Nanoseconds,
    NonNegative,
    Picojoules,
    Positive,
    Unit,
)

Event = Literal[
    "synop_conv",
    "synop_dense",
    "synop_sparse",
    "neuron_access",
    "neuron_update",
    "neuron_spike",
    "message_out",
    "message_in",
    "hop_east_west",
    "hop_north_south",
]
EVENTS: tuple[Event, ...] = get_args(Event)


Factor = Annotated[Figure, Unit("", AboveZero)]


class Cost(Data, frozen=True, kw_only=True):
    """Dynamic energy in picojoules and time in nanoseconds of one event."""

    pj: Picojoules
    ns: Nanoseconds


class Accounting(Data, frozen=True, kw_only=True):
    """One published way to price a chip's events; the parts add up.

    Args:
        description: where it comes from and what it leaves out.
        events: the price of each event in :data:`EVENTS`. ``neuron_access`` is paid by every
            mapped neuron in every step, ``neuron_update`` on top where its state, bias or input
            is not zero, ``neuron_spike`` on top where it fires; ``message_*`` by each pair of a
            spike and a destination; ``synop_*`` by each synapse that a message reaches.
        barrier_ns: nanoseconds of the synchronisation that ends a step, by active tiles.
        energy_error: measured over predicted energy of a network's events.
        time_error: measured over predicted time of a core's events in a step.
        overlaps: whether a core updates neurons while it takes messages in, so that the longer of
            the two counts; else their times add up.
        read_ns: nanoseconds of reading a word of synapse memory. Where it is given, all stages of a
            step overlap, and it lasts as long as the longest of them: a core's neurons, its
            synapses, what it reads of its memory, a link between routers, or the barrier (Timcheck
            et al., arXiv:2601.10035).
    """

    description: str
    events: Mapping[Event, Cost]
    barrier_ns: Annotated[Mapping[Positive, Nanoseconds], Meta(min_length=1)]
    energy_error: Factor
    time_error: Factor
    overlaps: bool
    read_ns: Nanoseconds | None = None

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        missing = [event for event in EVENTS if event not in self.events]
        if missing:
            raise ValueError(f"events lacks {', '.join(missing)}")
        if self.read_ns is not None and not self.overlaps:
            raise ValueError("overlaps must be true where read_ns is given: all stages overlap")


class Power(Data, frozen=True, kw_only=True):
    """What a chip draws whether or not it works.

    Args:
        static_mw: milliwatts of all neuron cores of a chip; each core has its share.
        embedded_mw: milliwatts of a chip's embedded processors while they run.
        reset_uj: microjoules that it takes to reset a chip's neurons once.
    """

    static_mw: Milliwatts
    embedded_mw: Milliwatts
    reset_uj: Microjoules


class HostLink(Data, frozen=True, kw_only=True):
    """The way between host and chip.

    Args:
        bits_per_message: size of one message, a whole number.
        graded_messages: messages that a spike with a payload takes; None is one, as of all others.
        pj_per_bit: energy of moving one bit, at one of the link's two ends.
        message_us: microseconds that the board needs for each spike, write or read.
        exchange_us: microseconds of one exchange with the host, however many messages it has.
        sample_us: microseconds of starting and resetting the chip for one sample.
        step_us: microseconds by which the embedded processors' work lengthens each step.
    """

    bits_per_message: Annotated[Figure, Unit("bit", Positive)]
    pj_per_bit: Picojoules
    message_us: Microseconds
    exchange_us: Microseconds
    sample_us: Microseconds
    step_us: Microseconds
    graded_messages: Annotated[Figure, Unit("", AtLeastOne)] | None = None

    def messages_of(self, payload: Payload) -> int:
        """Messages that one spike takes at best, by what it carries."""
        if self.graded_messages is None or not payload.graded:
            return 1
        return int(self.graded_messages.value)

    def message_bytes(self, spikes: int) -> int:
        """Bytes of so many spikes, one message each."""
        return spikes * int(self.bits_per_message.value) // 8


class Learning(Data, frozen=True, kw_only=True):
    """What a chip's learning engine costs.

    Args:
        update: of one synapse in one step in which its products may change it.
        visits: how often in a step the engine comes by each other synapse that learns, for the
            price of an update.
    """

    update: Cost
    visits: Annotated[Figure, Unit("", NonNegative)]
