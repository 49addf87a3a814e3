"""What it costs to learn one sample on the chip, beside what it costs to answer for one.

A sample is shown as in inference. On top comes what the learning engine does, the steps for label
and reward, and what the host has to do because neurons and synapses cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from has8.errors import BadInput
from hwsim.activity import LearningActivity
from hwsim.price.assumptions import Assumption
from hwsim.price.cost import CostReport
from mapping.hosts.schema import Host
from mapping.mapped import Mapped
from mapping.targets.figures import Figure
from mapping.targets.prices import Learning
from mapping.targets.schema import Target

INSTEAD = (
    "Not local, and so not on the chip as the full rule has it: resources below the lowest weight "
    "(a weight forgets how often it was wrong), renormalisation (none), the threshold's sum of "
    "positive weights (the host reads weights and writes it), and clearing traces between samples "
    "(held to be part of starting and resetting the chip).",
    "Which neuron of a column wins, gates, forced spikes, noise and stability are held to be the "
    "neurons' own at the price of an update: microcode on Loihi 2; the neurons of Loihi 1 lack it.",
    "Neurons begin as unsettled as they were at first; settled ones pay and earn in fewer steps.",
    "A synapse that learns holds a tag beside its weight, so it takes about twice the memory; the "
    "cores are those of inference.",
)
"""What stands in the place of what a chip does not have, and what that leaves out."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the price: microjoules, with what board and host draw meanwhile, and how long."""

    energy_uj: Figure
    time_us: Figure


@dataclass(frozen=True, slots=True)
class LearningPrice:
    """The price of learning one sample.

    Args:
        samples: that were learned to count.
        updates: synapses of one sample that a product could change, each time it could.
        firing: neurons of one sample that fired or were rewarded, each time they were.
        inference: what answering for a sample costs, which is part of it.
        parts: what comes on top, by name: "engine", "steps" and "host".
        assumptions: what these rest on.
    """

    samples: int
    updates: float
    firing: float
    inference: Share
    parts: Mapping[str, Share]
    assumptions: tuple[Assumption, ...]

    @property
    def total(self) -> Share:
        """All of it."""
        energy, time = self.inference.energy_uj, self.inference.time_us
        for part in self.parts.values():
            energy, time = energy + part.energy_uj, time + part.time_us
        return Share(energy, time)


def check_learns(mapped: Mapped) -> None:
    """Refuse a mapping whose chip has anything but one layer, which learns.

    Raises:
        BadInput: if it has.
    """
    if len(mapped.chip_segments) != 1 or len(mapped.chip_segments[0].populations) != 1:
        raise BadInput(
            "a network that learns on the chip must be there as one layer: leave its neurons "
            "there, and nothing else"
        )


def learning_price(
    mapped: Mapped, cost: CostReport, host: Host, activity: LearningActivity
) -> LearningPrice:
    """Price what was learned, by the target's default accounting.

    Args:
        mapped: of a network whose first synapse on the chip learns.
        cost: of answering, from :func:`hwsim.estimate`.
        host: that it was priced with.
        activity: of the same network while it learned.

    Raises:
        BadInput: if the target states no costs of learning, or the network is not all on the chip.
    """
    target, learning = mapped.target, learning_costs(mapped.target)
    check_learns(mapped)
    link = target.link
    neurons, fullest = mapped.chip_segments[0].populations[0].size, _fullest(mapped)
    shown = next(part for part in cost.price.latency.segments if part.side == "chip")
    accounting, more = target.accounting(), activity.more_steps
    visit = accounting.events["neuron_access"]
    steps_us = more * (shown.barrier_us + shown.management_us) / shown.steps
    steps_us += (more * fullest * visit.ns * accounting.time_error * 1e-3).with_unit("µs")
    steps_uj = (more * neurons * visit.pj * accounting.energy_error * 1e-6).with_unit("µJ")
    messages = activity.thresholds * (activity.inputs + 1) / activity.samples + 1  # and the label
    exchanges = activity.exchanges / activity.samples
    bits = 2 * messages * link.bits_per_message  # at both ends
    host_us = messages * link.message_us + exchanges * link.exchange_us
    engine_uj, engine_us = _engine(mapped, learning, activity, shown.steps + more)
    of = {
        "engine": (engine_uj, engine_us),
        "steps": (steps_uj, steps_us),
        "host": ((bits * link.pj_per_bit * 1e-6).with_unit("µJ"), host_us),
    }
    return LearningPrice(
        samples=activity.samples,
        updates=float(activity.updates[:, 2].sum() / activity.samples),
        firing=len(activity.updates) / activity.samples,
        inference=Share(cost.energy_uj.total, cost.latency_us),
        parts={
            name: Share(energy + _drawn(mapped, host, time), time)
            for name, (energy, time) in of.items()
        },
        assumptions=(*_quoted(learning, messages), *(Assumption(text) for text in INSTEAD)),
    )


def learning_costs(target: Target) -> Learning:
    """What a target says of its learning engine.

    Raises:
        BadInput: if it says nothing.
    """
    if target.learning is None:
        raise BadInput(
            f"target {target.name!r} states no costs of learning: choose another, or give its file "
            "an entry learning"
        )
    return target.learning


def _fullest(mapped: Mapped) -> int:
    """Neurons of the core that has most."""
    sizes = np.bincount([tile.core for tile in mapped.placement.tiles],
                        [tile.size for tile in mapped.placement.tiles])  # fmt: skip
    return int(sizes.max())


def _engine(
    mapped: Mapped, learning: Learning, activity: LearningActivity, steps: int
) -> tuple[Figure, Figure]:
    """Microjoules and microseconds of a sample: in each step as long as its busiest core."""
    core_of = np.zeros(mapped.chip_segments[0].populations[0].size, np.int64)
    for tile in mapped.placement.tiles:
        core_of[tile.start[0] : tile.stop[0]] = tile.core
    step, neuron, synapses = activity.updates.T
    cores = mapped.placement.cores_used
    by_core = np.zeros((int(step.max(initial=-1)) + 1, cores))
    np.add.at(by_core, (step, core_of[neuron]), synapses)
    samples, update = activity.samples, learning.update
    busiest, done = by_core.max(1, initial=0).sum() / samples, synapses.sum() / samples
    every = core_of.size * activity.inputs * steps
    longest = _fullest(mapped) * activity.inputs * steps
    energy = (float(done) + learning.visits * float(every - done)) * update.pj
    time = (float(busiest) + learning.visits * float(longest - busiest)) * update.ns
    return (energy * 1e-6).with_unit("µJ"), (time * 1e-3).with_unit("µs")


def _drawn(mapped: Mapped, host: Host, time_us: Figure) -> Figure:
    """Microjoules that chips, their processors and the waiting host draw in some time."""
    power, chips = mapped.target.power, mapped.placement.chips_used
    # milliwatts times microseconds are nanojoules, watts times microseconds microjoules
    drawn = (chips * (power.static_mw + power.embedded_mw) * time_us * 1e-3).with_unit("µJ")
    return drawn if host.idle_w is None else drawn + (host.idle_w * time_us).with_unit("µJ")


def _quoted(learning: Learning, messages: float) -> tuple[Assumption, ...]:
    """The sentences of figures."""
    update, visits = learning.update, learning.visits
    told = (
        (
            update.pj,
            f"An update of a synapse takes {update.pj} and {update.ns}; counted are the synapses "
            "whose input has fired, of each neuron that fires, pays or earns.",
        ),
        (
            visits,
            f"In each step the engine is held to come by every other synapse {visits:g} times, and "
            f"{visits.high:g} at most; no source says, and it makes most of the range.",
        ),
    )
    text = f"The host reads and writes {messages:,.0f} numbers a sample for the thresholds."
    return (
        *(Assumption(text, f.source or f.sheet, f.trust, True, figures=(f,)) for f, text in told),
        Assumption(text, main=True),
    )
