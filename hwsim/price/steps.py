"""What each step on the chip waits for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from hwsim.price.timing import TimingModel, barrier_ns
from hwsim.price.traffic import SegmentLoad
from mapping.mapped import Mapped
from mapping.targets.prices import Accounting


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run on the chip, the mean over samples.

    Args:
        segment: what has its sample.
        number: counted from 0; the last ones drain the pipeline.
        waits_us: microseconds by what it waits for, one after another, which add up to its length:
            "core N" for a core's neurons and messages, "link X,Y to X,Y" for ways and queues, "way"
            for the longest way of a message where none is followed, "barrier", and "management" by
            the embedded processors. Where all stages of a step overlap, it is the longest of them
            alone, and of a core "core N neurons", "core N synapses" or "core N memory".
    """

    segment: str
    number: int
    waits_us: Mapping[str, float]

    @property
    def us(self) -> float:
        """Its length in microseconds."""
        return sum(self.waits_us.values())

    @property
    def bottleneck(self) -> str:
        """What it waits for longest."""
        return max(self.waits_us, key=lambda name: self.waits_us[name])


def steps_of(
    mapped: Mapped,
    loads: Iterable[SegmentLoad],
    samples: int,
    accounting: Accounting,
    timing: TimingModel,
) -> Iterator[Step]:
    """The steps of all runs on the chip, in the order of execution, by the best figures.

    Args:
        mapped: the mapping that ran.
        loads: of its runs.
        samples: of the runs.
        accounting: one of the target's.
        timing: how long a step is.
    """
    target = mapped.target
    for load in loads:
        lasts = timing.step_ns(load, samples, accounting, target).value
        barrier = barrier_ns(target, accounting, load.routers, mapped.placement.chips_used).value
        ends = {"barrier": barrier / 1e3, "management": target.link.step_us.value}
        for number, waits in enumerate(timing.waits_ns(load, samples, accounting, target)):
            scale = lasts[number] / max(sum(waits.values()), 1e-300) / 1e3
            chain = {name: ns * scale for name, ns in waits.items()}
            if accounting.read_ns is None:
                yield Step(load.segment, number, {**chain, **ends})
            elif lasts[number] > barrier:
                yield Step(load.segment, number, {**ends, "barrier": 0.0, **chain})
            else:
                yield Step(load.segment, number, ends)
