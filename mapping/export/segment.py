"""Which of a mapping's chip segments is written."""

from __future__ import annotations

from has8.errors import BadInput
from has8.values import described
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment
from mapping.mapped import Mapped


def one_segment(mapped: Mapped, name: str | None) -> ChipSegment:
    """The chip segment of a name, or the only one.

    Raises:
        BadInput: if there is none of that name, or several and no name, or it has neurons or
            spikes that no other tool has.
    """
    chosen = _named(mapped, name)
    for population in chosen.populations:
        if not isinstance(population.neuron, Lif):
            raise BadInput(
                f"{population.name!r} has {population.neuron.model!r} neurons, which other tools "
                f"lack: map with coding='binary' to export"
            )
    for port in chosen.inputs:
        if port.payload.graded:
            raise BadInput(
                f"{port.name!r} sends graded spikes, which other tools lack: map with "
                f"coding='binary' to export"
            )
    return chosen


def _named(mapped: Mapped, name: str | None) -> ChipSegment:
    names = [segment.name for segment in mapped.chip_segments]
    if name is None and len(names) == 1:
        return mapped.chip_segments[0]
    if name not in names:
        what = "several" if name is None and names else "none" if name is None else "others"
        raise BadInput(
            f"segment must be one of {', '.join(names) or 'none'}: the mapping has {what}"
            + ("" if name is None else f" than {described(name)}")
        )
    return mapped.chip_segment(str(name))
