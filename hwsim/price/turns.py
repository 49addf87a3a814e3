"""Who works when: the runs on the chip of one sample, and what each segment does in their steps.

A run is of one chip segment, or in the mode "pipeline" of all at once. In the mode "reset" the
others run along without input, and their biases act. In any mode layers whose own window has not
begun or is over are only visited: what they do while a pipeline fills and drains is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from has8.errors import BadInput
from hwsim.activity import Activity, Counts
from hwsim.names import RunMode
from hwsim.price.idle import idle_activity
from mapping.chip.segment import ChipSegment
from mapping.mapped import Mapped


@dataclass(frozen=True, slots=True)
class Part:
    """What a segment does in the chip steps of a run, by population and port.

    Args:
        chip: the segment.
        events: spikes, ``int64[T, *shape]``.
        updated: how often neurons were updated, if that is known.
        windows: the chip steps in which that was.
    """

    chip: ChipSegment
    events: Mapping[str, Counts]
    updated: Mapping[str, Counts]
    windows: Mapping[str, slice]


@dataclass(frozen=True, slots=True)
class Turn:
    """One run on the chip.

    Args:
        chips: the segments that have their sample, in the order of execution.
        resting: what the others do from cleared state without input, in at least ``steps`` steps,
            by name; empty where they take no part.
    """

    chips: tuple[ChipSegment, ...]
    resting: Mapping[str, tuple[ChipSegment, Activity]] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Chip steps of one sample, those that fill the pipeline included."""
        return max(map(_chip_steps, self.chips))

    def parts(self, activity: Activity) -> dict[str, Part]:
        """What takes part, by segment.

        Args:
            activity: of the samples.
        """
        idle = {
            name: _at_rest(chip, alone, self.steps, activity.samples)
            for name, (chip, alone) in self.resting.items()
        }
        return {**idle, **{chip.name: _at_work(chip, activity) for chip in self.chips}}


def turns(mapped: Mapped, run_mode: RunMode) -> tuple[Turn, ...]:
    """The runs on the chip, in the order of execution.

    Args:
        mapped: the mapping.
        run_mode: how chip segments take turns.

    Raises:
        BadInput: if the host has to work between chip segments of one pipeline, or a loop has fewer
            steps of delay than connections.
    """
    runs = [Turn(chips) for chips in _runs(mapped, run_mode)]
    if run_mode != "reset" or len(runs) < 2:
        return tuple(runs)
    registers, most = mapped.target.registers, max(run.steps for run in runs)
    idle = {c.name: (c, idle_activity(c, registers, most)) for c in mapped.chip_segments}
    return tuple(
        Turn(run.chips, {n: one for n, one in idle.items() if one[0] not in run.chips})
        for run in runs
    )


def _runs(mapped: Mapped, run_mode: RunMode) -> tuple[tuple[ChipSegment, ...], ...]:
    """The chip segments that run at once, in the order of execution.

    Raises:
        BadInput: if a host segment is between two that would.
    """
    chips = mapped.chip_segments
    if run_mode != "pipeline" or not chips:
        return tuple((chip,) for chip in chips)
    order = mapped.partition.segments
    places = [place for place, segment in enumerate(order) if segment.side == "chip"]
    for before, place in pairwise(places):
        if place > before + 1:
            raise BadInput(
                f"run mode 'pipeline' needs all chip segments side by side, and the host computes "
                f"{order[before + 1].name!r} between {order[before].name!r} and "
                f"{order[place].name!r}: take 'reset' or 'gated'"
            )
    return (chips,)


def _chip_steps(chip: ChipSegment) -> int:
    return chip.steps + max(chip.depths().values())


def _at_work(chip: ChipSegment, activity: Activity) -> Part:
    """With its sample: a layer is as late as it is deep."""
    windows = {name: slice(late, late + chip.steps) for name, late in chip.depths().items()}
    return Part(chip, activity.events, activity.updated, windows)


def _at_rest(chip: ChipSegment, idle: Activity, steps: int, samples: int) -> Part:
    """Without one: all layers at once, in each sample the same."""
    events = {name: counts[:steps] * samples for name, counts in idle.events.items()}
    updated = {name: counts[:steps] * samples for name, counts in idle.updated.items()}
    return Part(chip, events, updated, dict.fromkeys(events, slice(0, steps)))
