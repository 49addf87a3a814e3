"""What a price rests on, in sentences that carry the source and trust of their figures.

The trust tags are those of :mod:`mapping.targets.figures`: P primary, Q primary as quoted, S secondary,
D derived, M assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hwsim.price.counts import PopulationCounts
from mapping.hosts.schema import Host
from mapping.mapped import Mapped
from mapping.targets.figures import Sheet, Trust
from mapping.targets.schema import Target


@dataclass(frozen=True, slots=True)
class Assumption:
    """One sentence.

    Args:
        text: the sentence.
        source: where its figure comes from; "has8" for a choice of this model, the file's name
            for a caveat that a target or host states about itself.
        trust: how far to trust it.
        main: whether it belongs into a short list.
    """

    text: str
    source: str = "has8"
    trust: Trust = "M"
    main: bool = False

    def __str__(self) -> str:
        return f"{self.text} [{self.source}; {self.trust}]"


def assumptions(
    mapped: Mapped, host: Host, convention: Host, populations: Iterable[PopulationCounts]
) -> tuple[Assumption, ...]:
    """Everything that the prices of a run of this mapping rest on.

    Args:
        mapped: the mapping that ran.
        host: runs the host segments.
        convention: holds the constants of the literature.
        populations: the neuron updates of the run.
    """
    found = [*_host(host), *_convention(convention)]
    if mapped.chips:
        found += [*_chip(mapped.target), *_link(mapped.target), *_time(mapped)]
        found += _neurons(mapped, populations)
        found += [_caveat(mapped.target, text) for text in mapped.target.caveats]
    found += [_caveat(host, text) for text in host.caveats]
    return tuple(sorted(found, key=lambda item: not item.main))


def _cited(sheet: Sheet, path: str, text: str, *, main: bool = False) -> Assumption:
    """A sentence about the figure at ``path`` of a target or host."""
    citation = sheet.citations.get(path)
    if citation is None:
        return Assumption(text, sheet.name, "M", main)
    return Assumption(text, citation.source, citation.trust, main)


def _caveat(sheet: Sheet, text: str) -> Assumption:
    return Assumption(text.strip(), f"caveat of {sheet.name}", "D")


def _chip(target: Target) -> Iterator[Assumption]:
    power = target.power
    yield _cited(
        target,
        "power.static_mw",
        f"A chip draws {power.static_mw:g} mW without work as long as a sample takes, host time "
        f"included; published are {power.static_low_mw:g} to {power.static_high_mw:g} mW.",
        main=True,
    )
    yield _cited(
        target,
        "power.x86_mw",
        f"The embedded processors of a chip draw {power.x86_mw:g} mW on top for the same time.",
    )
    for name, accounting in target.accountings.items():
        yield _cited(
            target,
            f"accountings.{name}.events.synop_conv.pj",
            f"Accounting {name}: {accounting.description.strip()}",
        )
    yield Assumption(
        "A spike costs one message for each tile that it reaches, and one synaptic operation for "
        "each synapse, those with a weight of zero included: they are stored like all others."
    )
    yield Assumption(
        "Convolutions are priced as convolutional synapses and linear layers as dense ones, "
        "however a core compresses them."
    )
    yield Assumption(
        "Spikes from the host are sent at the price of a message between cores. The way between "
        "a chip's edge and its cores, and from chip to chip, is not counted for them, nor is it "
        "for spikes to the host."
    )
    yield Assumption(
        "Every mapped neuron is visited in every chip step, those of segments that have nothing "
        "to do included."
    )
    yield Assumption("Programming the chip and regulating its voltages are not counted.")


def _link(target: Target) -> Iterator[Assumption]:
    link = target.link
    yield _cited(
        target,
        "link.exchange_us",
        f"Each chip segment takes {link.exchange_us:,g} µs to exchange spikes with the host, in "
        f"and out.",
        main=True,
    )
    yield _cited(
        target,
        "link.sample_us",
        f"Feeding and resetting the chip takes {link.sample_us:,g} µs once a sample; such times "
        f"depend on board and driver more than on the chip.",
        main=True,
    )
    yield _cited(
        target,
        "link.bits_per_message",
        f"A spike between host and chip is a message of {link.bits_per_message} bits.",
    )
    yield _cited(
        target,
        "link.pj_per_bit",
        f"Moving a bit between host and chip takes {link.pj_per_bit:g} pJ.",
    )


def _time(mapped: Mapped) -> Iterator[Assumption]:
    chip = mapped.target.chip
    yield Assumption(
        "Latency is that of one sample alone at the run's mean activity: segments run one after "
        "another, and a step lasts as long as its busiest core; a single sample may take longer."
    )
    yield Assumption(
        "The barrier of each step spans all routers and chips that the mapping uses; waiting "
        "within the mesh is not counted."
    )
    if mapped.placement.chips_used > 1:
        yield _cited(
            mapped.target,
            "chip.chip_link_slowdown",
            f"A link between two chips, one for each row of routers, passes "
            f"{chip.tile_spikes_per_ns / chip.chip_link_slowdown:.3g} spikes a nanosecond; its "
            f"energy is that of a hop.",
        )


def _neurons(mapped: Mapped, populations: Iterable[PopulationCounts]) -> Iterator[Assumption]:
    offset = mapped.target.registers.membrane_decay_offset
    still = [
        p.name
        for chip in mapped.chips
        for p in chip.populations
        if bool((p.neuron.dv + offset == 0).any())
    ]
    if still:
        yield Assumption(
            f"The neurons of {', '.join(still)} have no leak (dv = {-offset}), which not every "
            f"way of programming the chip may reach; see the target's caveats."
        )
    unknown = [population.name for population in populations if not population.exact]
    if unknown:
        yield Assumption(
            f"The backend could not tell which neurons of {', '.join(unknown)} were updated; all "
            f"count as updated in every step."
        )


def _host(host: Host) -> Iterator[Assumption]:
    yield _cited(
        host,
        "utilisation",
        f"The host ({host.description}) reaches {host.utilisation * 100:.3g} % of its peak, so a "
        f"MAC takes {host.pj_per_mac:.3g} pJ; it computes zeros too, and padding is left out.",
        main=True,
    )
    yield _cited(
        host, "peak_pj_per_mac", f"At its peak the host takes {host.peak_pj_per_mac:g} pJ a MAC."
    )
    if host.launch_us is not None and host.peak_gmacs is not None:
        yield _cited(
            host,
            "launch_us",
            f"The host starts an operation in {host.launch_us:,g} µs, a neuron anew in every step; "
            f"that is in its time, not in its energy.",
        )
        yield _cited(host, "peak_gmacs", f"The host's peak is {host.peak_gmacs:g} GMAC/s.")
    else:
        yield Assumption(
            "The host's speed is not known, so its time is left out of the latency, and of what "
            "the chip draws meanwhile.",
            main=True,
        )
    yield Assumption(
        "The host's energy is that of its convolutions and linear layers. Pooling, activations, "
        "encoding, decoding, neurons on the host, and its power while it waits are not counted.",
        main=True,
    )


def _convention(constants: Host) -> Iterator[Assumption]:
    yield _cited(
        constants,
        "peak_pj_per_mac",
        f"By the convention of the literature a MAC costs {constants.pj_per_mac:g} pJ and a "
        f"synaptic operation {constants.pj_per_ac:g} pJ: arithmetic alone, not a measurement.",
    )
