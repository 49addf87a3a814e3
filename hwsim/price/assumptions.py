"""What a price rests on, in sentences that carry the source and trust of their figures.

Sentences written by hand say what the model does and quote the figures that matter most. All other
figures that a price rests on are listed behind them, so that none is missing. The trust tags are
those of :mod:`mapping.targets.figures`: P primary, Q primary as quoted, S secondary, D derived,
M assumed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from hwsim.names import RunMode, Timing
from hwsim.price.counts import PopulationCounts
from mapping.chip.grid import weight_grid
from mapping.chip.neurons import constants, settings
from mapping.graph.ops import OPS
from mapping.hosts.schema import ALONE, Host
from mapping.mapped import Mapped
from mapping.targets.figures import Figure, Trust
from mapping.targets.schema import Target
from mapping.targets.sheets import Sheet, figures_of

NAMES = 4
"""Nodes that a sentence names."""

Kind = Literal["sentence", "figures", "caveat"]
MOST, FEW, FAR = 0.95, 3, 16
"""A grid is coarse for weights of which this part has so few steps, and the largest so many times
that."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """One sentence.

    Args:
        text: the sentence.
        source: where its figure comes from; "has8" for a choice of this model, the file's name
            for a caveat that a target or host states about itself.
        trust: how far to trust it.
        main: whether it belongs into a short list.
        kind: "sentence", written by hand; "figures", a list of those that no sentence quotes; or
            "caveat", which a target or host states about itself.
        figures: those whose numbers the sentence gives; all have its source and trust.
    """

    text: str
    source: str = "has8"
    trust: Trust = "M"
    main: bool = False
    kind: Kind = "sentence"
    figures: tuple[Figure, ...] = ()

    def __str__(self) -> str:
        return f"{self.text} [{self.source}; {self.trust}]"


def assumptions(
    mapped: Mapped,
    host: Host,
    convention: Host,
    populations: Iterable[PopulationCounts],
    without: Sequence[str],
    cited: Iterable[Figure],
    run_mode: RunMode,
    timing: Timing,
) -> tuple[Assumption, ...]:
    """Everything that the prices of a run of this mapping rest on.

    Args:
        mapped: the mapping that ran.
        host: runs the host segments.
        convention: holds the constants of the literature.
        populations: the neuron updates of the run.
        without: the host's nodes whose operations are not counted.
        cited: the entries of target and hosts that the prices rest on.
        run_mode: how chip segments take turns.
        timing: how long a chip step is.

    Returns:
        Sentences, the main ones first; together they quote every figure of ``cited``.
    """
    sentences = [
        *_host(host),
        *_uncounted(() if host.measured else without),
        *_convention(convention),
        *_calls(mapped),
    ]
    if mapped.chip_segments:
        sentences += [*_chip(mapped.target), *_link(mapped.target)]
        sentences += _time(mapped, timing)
        sentences += _turns(mapped, run_mode)
        sentences += _neurons(mapped, populations)
    quoted = {figure for sentence in sentences for figure in sentence.figures}
    sentences += _listed(set(cited) - quoted, (mapped.target, host, convention))
    if mapped.chip_segments:
        sentences += [_caveat(mapped.target, text) for text in mapped.target.caveats]
    sentences += [_caveat(host, text) for text in host.caveats]
    return tuple(sorted(sentences, key=lambda sentence: not sentence.main))


def _quoting(figure: Figure, text: str, *, main: bool = False) -> Assumption:
    """A sentence that gives a figure's number."""
    return Assumption(text, figure.source or figure.sheet, figure.trust, main, figures=(figure,))


def _caveat(sheet: Sheet, text: str) -> Assumption:
    return Assumption(text.strip(), f"caveat of {sheet.name}", "D", kind="caveat")


def _calls(mapped: Mapped) -> Iterator[Assumption]:
    count = sum(OPS[node.op].macs is not None for node in mapped.graph)
    if count:
        yield Assumption(
            f"Nodes that only torch describes ({count:,}) stay on the host: their convolutions and "
            f"products of matrices are counted as multiply-accumulates, padding and zeros "
            f"included.",
            main=True,
        )


def _chip(target: Target) -> Iterator[Assumption]:
    power = target.power
    static = power.static_mw
    yield _quoting(
        static,
        f"A chip draws {_number(static)} without work as long as a sample takes, host time "
        f"included; each of its {target.chip.cores:,} cores has an equal share.",
        main=True,
    )
    yield _quoting(
        power.embedded_mw,
        f"The embedded processors of a chip draw {_number(power.embedded_mw)} on top for the same "
        f"time.",
    )
    yield _quoting(
        power.reset_uj,
        f"Resetting a chip's neurons takes {_number(power.reset_uj)}.",
    )
    error = target.accounting().energy_error
    yield _quoting(
        error,
        f"The events of whole networks took {error.value:g} times ({error.low:g} to "
        f"{error.high:g}) what their single prices add up to, where they were measured; they are "
        f"priced so.",
        main=True,
    )
    for name, accounting in target.accountings.items():
        price = accounting.events["synop_conv"].pj
        text = f"Accounting {name}: {accounting.description.strip()}"
        yield Assumption(text, price.source or target.name, price.trust)
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
    yield Assumption("Programming the chip and regulating its voltages are not counted.")


def _link(target: Target) -> Iterator[Assumption]:
    link = target.link
    yield _quoting(
        link.message_us,
        f"The board needs {_number(link.message_us)} for each spike that enters or leaves the "
        f"chips and for each bias or membrane: sending, receiving and steps do not overlap.",
        main=True,
    )
    yield _quoting(
        link.exchange_us,
        f"Each chip segment takes {_number(link.exchange_us)} on top to exchange spikes with the "
        f"host, in and out.",
    )
    yield _quoting(
        link.sample_us,
        f"Starting and resetting the chip takes {_number(link.sample_us)}; such times depend on "
        f"board and driver more than on the chip.",
        main=True,
    )
    yield _quoting(
        link.step_us,
        f"Managing a step takes {_number(link.step_us)} beside its barrier.",
    )
    yield _quoting(
        link.bits_per_message,
        f"A message between host and chip has {link.bits_per_message:g} bits.",
    )
    yield _quoting(
        link.pj_per_bit,
        f"Moving a bit between host and chip takes {_number(link.pj_per_bit)} at either end.",
    )


def _time(mapped: Mapped, timing: Timing) -> Iterator[Assumption]:
    chip = mapped.target.chip
    yield Assumption(
        f"Latency is that of one sample alone, the mean over samples: segments on the chip run one "
        f"after another, and {STEPS[timing]}; a single sample may take longer. "
        f"Where an accounting says so, a core's neurons work while its messages arrive."
    )
    read = mapped.target.accounting().read_ns
    if read is not None:
        yield _quoting(
            read,
            f"All stages of a step overlap, and it lasts as long as the longest: a core's neurons, "
            f"its synapses, its reads of memory at {_number(read)} a word, a link between routers, "
            f"or the barrier.",
        )
    yield Assumption(
        "While the chip has the sample, messages included, the host computes what waits for none "
        "of it, first what the next segment on the chip waits for; starting the chip comes before "
        "all else. That a driver leaves the host free meanwhile is assumed."
    )
    unseen = "; waiting within the mesh is not counted" if timing == "mean" else ""
    yield Assumption(
        f"The barrier of each step spans all chips that the mapping uses, and the routers whose "
        f"cores take part{unseen}."
    )
    if timing == "events":
        room = "any number" if chip.link_buffer is None else f"at most {chip.link_buffer:,}"
        spikes = chip.tile_spikes_per_ns
        yield Assumption(
            f"A core goes through its neurons in their order and sends each message as it comes to "
            f"it, a link passes {spikes:.3g} spikes a nanosecond, {room} wait at a router for a "
            f"link or for a core, and what the host sends is there when a step begins.",
            spikes.source or spikes.sheet,
            spikes.trust,
        )
    if mapped.placement.chips_used > 1:
        slowdown = chip.chip_link_slowdown
        yield Assumption(
            f"A link between two chips, one for each row of routers, passes "
            f"{chip.tile_spikes_per_ns / slowdown:.3g} spikes a nanosecond; its energy is that of "
            f"a hop.",
            slowdown.source or slowdown.sheet,
            slowdown.trust,
        )


STEPS: dict[Timing, str] = {
    "mean": "a step lasts as long as its busiest core, which is that of the mean activity but "
    "where samples are counted apart too",
    "events": "a step is as much longer than its busiest core at the mean activity as in the "
    "samples whose messages were followed",
}
"""How long a step is, by timing."""

TURNS: dict[RunMode, str] = {
    "gated": "The host starts the cores of a chip segment with a write each and stops them with "
    "another; other cores take no step. That registers can do so in a run is assumed.",
    "pipeline": "All layers on the chip run at once, and the chip is reset once a sample.",
    "reset": "The chip is started and reset for each chip segment. All cores take part in every "
    "step: neurons whose segment has no sample get no spikes, but their biases act, they fire, and "
    "the host drops what reaches it. Biases that the host wrote it takes back.",
}
"""What a run mode assumes where there are several chip segments."""


def _turns(mapped: Mapped, run_mode: RunMode) -> Iterator[Assumption]:
    if len(mapped.chip_segments) > 1:
        yield Assumption(TURNS[run_mode], main=True)
    else:
        yield Assumption("The chip is started and reset once a sample.")
    yield Assumption(
        "Every neuron on a core that takes part is visited in every chip step. A layer's neurons "
        "are cleared as its first step begins; what they do before it and after its last step, "
        "while the pipeline fills and drains, is not counted."
    )


def _neurons(mapped: Mapped, populations: Iterable[PopulationCounts]) -> Iterator[Assumption]:
    offset = mapped.target.registers.membrane_decay_offset
    decays = {
        p.name: constants(p.neuron).get("dv")
        for chip in mapped.chip_segments
        for p in chip.populations
    }
    still = [
        name for name, dv in decays.items() if dv is not None and bool((dv + offset == 0).any())
    ]
    if still:
        yield Assumption(
            f"The neurons of {', '.join(still)} have no leak (dv = {-offset}), which not every "
            f"way of programming the chip may reach; see the target's caveats."
        )
    yield from _compartments(mapped)
    yield from _coarse(mapped)
    yield from _writes(mapped)
    yield from _reads(mapped)
    yield from _packs(mapped)
    yield from _grades(mapped)
    unknown = [population.name for population in populations if not population.exact]
    if unknown:
        yield Assumption(
            f"The backend could not tell which neurons of {', '.join(unknown)} were updated; all "
            f"count as updated in every step."
        )


def _coarse(mapped: Mapped) -> Iterator[Assumption]:
    """Which weights share a grid with a few that are so large that hardly any values are left."""
    for chip in mapped.chip_segments:
        for population, synapse in chip.synapses():
            grid = weight_grid(mapped.target.registers, synapse.weight_bits, synapse.sign_mode)
            steps = np.sort(np.abs(synapse.weight).ravel()) // grid[-1]
            tensors = mapped.graph[synapse.name].tensors.items()
            zeros = sum(int((x == 0).sum()) for name, x in tensors if name == "weight")
            if zeros == len(steps):  # those of the model itself take no grid
                continue
            most = int(steps[zeros:][int((len(steps) - zeros - 1) * MOST)])
            if most <= FEW and steps[-1] >= FAR * max(most, 1):
                free = mapped.provenance.get("scales") == "round" and population.bias is None
                search = "search for scales (--scales search), or " if free else ""
                if population.name in chip.membranes:
                    search = ""
                yield Assumption(
                    f"A few weights of {synapse.name} are so large that {MOST:.0%} of all are "
                    f"rounded to {most} of the {steps[-1]} steps of their grid at most, so "
                    f"{population.name} computes coarsely: {search}train it with a bound on its "
                    f"weights.",
                    main=True,
                )


def _writes(mapped: Mapped) -> Iterator[Assumption]:
    """What it costs that the host writes biases."""
    ports = [p for chip in mapped.chip_segments for p in chip.inputs if p.kind == "bias"]
    if ports:
        each = sum(prod(port.shape) for port in ports)
        yield Assumption(
            f"The host writes {each:,} biases a sample ({', '.join(p.name for p in ports)}), a "
            f"message for each.",
            main=True,
        )


def _packs(mapped: Mapped) -> Iterator[Assumption]:
    """What it costs that values cross as graded spikes."""
    neurons = sum(
        population.size
        for chip in mapped.chip_segments
        for population in chip.populations
        if population.neuron.model in ("pack", "unpack")
    )
    if neurons:
        target, path = mapped.target, "link.graded_messages"
        cited = target.citations.get(path)
        yield Assumption(
            f"A value crosses between host and chip as a graded spike, which is "
            f"{target.link.graded_messages} messages; between cores it is one. {neurons:,} neurons "
            f"on the chip unpack such spikes and pack them: programs of a few instructions, priced "
            f"like other neurons, which have not run on hardware.",
            target.name if cited is None else cited.source,
            "M" if cited is None else cited.trust,
            main=True,
        )


def _grades(mapped: Mapped) -> Iterator[Assumption]:
    """What it does that values of each step cross rounded."""
    grades = [node for node in mapped.graph if node.op == "grade"]
    if grades:
        each = sum(node.type.size for node in grades)
        bits = max(node.type.bits for node in grades)
        yield Assumption(
            f"{each:,} values of each step ({', '.join(node.name for node in grades)}) cross to "
            f"the chip rounded, as graded spikes of {bits} bits, a message or more for each that "
            f"does not round to 0.",
            main=True,
        )


def _reads(mapped: Mapped) -> Iterator[Assumption]:
    """What it costs that the host reads membranes."""
    read = [(chip, name) for chip in mapped.chip_segments for name in chip.membranes]
    if read:
        each = sum(prod(chip.shape_of(name)) for chip, name in read)
        yield Assumption(
            f"The host reads {each:,} membranes once a sample, after the last step "
            f"({', '.join(name for _, name in read)}), a message for each, which no source says.",
            main=True,
        )


def _compartments(mapped: Mapped) -> Iterator[Assumption]:
    """What it costs that some neurons take several compartments, a sentence for each reset."""
    target = mapped.target
    every = [p for chip in mapped.chip_segments for p in chip.populations]
    for reset, each in target.registers.resets.items():
        names = [p.name for p in every if each > 1 and settings(p.neuron).get("reset") == reset]
        if names:
            citation = target.citations.get(f"registers.resets.{reset}")
            yield Assumption(
                f"The neurons of {', '.join(names)} reset by {reset!r}, which takes {each} "
                f"compartments for each: they fill {each} times as much of a core, and their "
                f"visits and updates count {each} times. What joins the compartments of a neuron "
                f"is not counted.",
                citation.source if citation else target.name,
                citation.trust if citation else "M",
                main=True,
            )


def _host(host: Host) -> Iterator[Assumption]:
    if host.measured:
        yield from _measured(host)
        return
    yield _quoting(
        host.utilisation,
        f"The host ({host.description}) reaches {host.utilisation * 100:.3g} % of its peak, so a "
        f"MAC takes {host.pj_per_mac:.3g} pJ; it computes zeros too, and padding is left out.",
        main=True,
    )
    at_peak = host.peak_pj_per_mac
    yield _quoting(at_peak, f"At its peak the host takes {at_peak:g} pJ a MAC.")
    if host.launch_us is not None and host.peak_gmacs is not None:
        yield _quoting(
            host.launch_us,
            f"The host starts an operation in {host.launch_us:,g} µs, neurons and loops anew in "
            f"every step.",
        )
        yield _quoting(host.peak_gmacs, f"The host's peak is {host.peak_gmacs:g} GMAC/s.")
    else:
        yield Assumption(
            "The host's speed is not known, so its time is left out of the latency, and of what "
            "the chip draws meanwhile.",
            main=True,
        )
    drawn = [(host.idle_w, "while it waits for the chip")]
    if host.launch_us is None or host.launch_us.high > 0:
        drawn.append((host.launching_w, "while it starts operations"))
    for watts, meanwhile in drawn:
        if watts is None:
            yield Assumption(
                f"What the host draws {meanwhile} is not known and not counted.", main=True
            )
        else:
            yield _quoting(watts, f"The host draws {_number(watts)} {meanwhile}.", main=True)


def _measured(host: Host) -> Iterator[Assumption]:
    """What a host took that was measured, a sentence for each figure."""
    for name, took in host.measured.items():
        yield _quoting(
            took.us,
            f"The host ({host.description}) took {_number(took.us)} for {name} of one sample.",
            main=name == ALONE,
        )
        if took.w is not None:
            yield _quoting(took.w, f"Meanwhile, in {name}, it drew {_number(took.w)}.")
    if host.launching_w is not None and any(took.w is None for took in host.measured.values()):
        yield _quoting(
            host.launching_w,
            f"What the host draws while it works was not measured: it is taken to be "
            f"{_number(host.launching_w)}.",
            main=True,
        )
    if host.idle_w is not None:
        yield _quoting(
            host.idle_w,
            f"The host draws {_number(host.idle_w)} while it waits for the chip.",
            main=True,
        )
    else:
        yield Assumption("The host's power while it waits is not known and not counted.", main=True)


def _uncounted(nodes: Sequence[str]) -> Iterator[Assumption]:
    if nodes:
        shown = ", ".join(nodes[:NAMES])
        more = f" and {len(nodes) - NAMES:,} more" if len(nodes) > NAMES else ""
        yield Assumption(
            f"The host's work is that of its convolutions and linear layers. Not counted, and "
            f"charged no more than their start, are {shown}{more}.",
            main=True,
        )


def _convention(constants: Host) -> Iterator[Assumption]:
    yield _quoting(
        constants.peak_pj_per_mac,
        f"By the convention of the literature a MAC costs {constants.pj_per_mac:g} pJ and a "
        f"synaptic operation {constants.pj_per_ac:g} pJ: arithmetic alone, not a measurement.",
    )


def _listed(figures: Iterable[Figure], sheets: Sequence[Sheet]) -> Iterator[Assumption]:
    """Figures that no sentence quotes, a line for each subject, source and trust."""
    order = [figure for sheet in sheets for figure in figures_of(sheet)]
    places = {figure: place for place, figure in reversed([*enumerate(order)])}
    groups: dict[tuple[str, str, Trust], list[Figure]] = {}
    for figure in sorted(figures, key=lambda figure: places.get(figure, len(order))):
        key = (_subject(figure, sheets[0].name), figure.source or figure.sheet, figure.trust)
        groups.setdefault(key, []).append(figure)
    for (subject, source, trust), members in groups.items():
        prices: dict[str, list[str]] = {}
        for figure in members:
            prices.setdefault(_name(figure), []).append(_number(figure))
        text = "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in prices.items())
        text = f"{subject}: {text}."
        yield Assumption(text, source, trust, kind="figures", figures=tuple(members))


def _subject(figure: Figure, target: str) -> str:
    """What a figure says something about, such as ``Accounting sanafe``."""
    section, *keys = figure.path.split(".")
    if figure.sheet != target:
        return f"Host {figure.sheet}"
    if section == "accountings":
        return f"Accounting {keys[0]}"
    return section.partition("_")[0].capitalize()


def _name(figure: Figure) -> str:
    """A figure's name within its subject, such as ``synop_conv`` or ``barrier over 4 tiles``."""
    *sections, key = figure.path.split(".")
    if sections and sections[-1].endswith("barrier_ns"):
        thing = "chip" if len(sections) == 1 else "tile"
        return f"barrier over {key} {thing}{'' if key == '1' else 's'}"
    return sections[-1] if "events" in sections else key


def _number(figure: Figure) -> str:
    number = f"{figure.value:,g} {figure.unit}".rstrip()
    if figure.low == figure.high:
        return number
    return f"{number} ({figure.low:,g} to {figure.high:,g})"
