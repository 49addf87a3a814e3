"""What a report says, before it is decided how it looks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from has8.markup import block, table
from has8.units import many, percent
from hwsim.alternatives import Alternative
from hwsim.experiments.divergence import Comparison
from hwsim.price.cost import CostReport
from hwsim.price.learning import LearningPrice
from mapping.chip.neurons import settings, subtracts
from mapping.cores.flows import Hops, hops_of
from mapping.cores.placement import CoresBound
from mapping.graph.ops import OPS
from mapping.graph.resets import changed_resets
from mapping.integers.errors import LayerError
from mapping.mapped import Mapped
from mapping.partition.segments import Rejection, Segment, Side
from mapping.targets.topology import Topology


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """One segment of the partition.

    Args:
        name: unique in the model.
        side: "host" or "chip".
        nodes: its graph nodes, in the order of execution.
        layers: convolutions and linear layers among them.
        neurons: spiking neurons, on either side.
        cores: neuron cores that it takes; 0 on the host.
        reason: why it is on this side.
    """

    name: str
    side: Side
    nodes: tuple[str, ...]
    layers: int
    neurons: int
    cores: int
    reason: str


@dataclass(frozen=True, slots=True)
class ResetSummary:
    """What reset by subtraction takes on the chip, or what another reset costs.

    Args:
        subtracting: neurons on the chip that reset by subtraction.
        compartments: compartments that these take beside one each.
        changed: layers that were trained to reset by subtraction and reset to zero now.
        accuracy_trained: share of samples that the float model gets right as it was trained, 0..1;
            None if unknown, or nothing was changed.
        share: of samples whose answer the other reset alone leaves as it was, 0..1; None likewise.
    """

    subtracting: int
    compartments: int
    changed: tuple[str, ...]
    accuracy_trained: float | None = None
    share: float | None = None


NO_HOPS = Hops(0, 0, 0.0, 0)


@dataclass(frozen=True, slots=True, repr=False)
class Summary:
    """All that a report shows of one mapped, simulated and priced model.

    Args:
        model: its name.
        partition: the segments, in the order of execution.
        rejections: what could not go to the chip.
        utilisation: (mean over the used cores, fullest core) of each resource, 0..1.
        cost: the prices; also names target and host, and says how many samples were run.
        accuracy_float: share of samples that the float model gets right, 0..1; None if unknown.
        accuracy_mapped: the same of the mapped model.
        verified: how two backends compared; None if they were not.
        unverified: why they were not, in words; empty if they were.
        errors: what quantisation costs each population on the chip, by name.
        provenance: what the mapping was made from.
        weights: the bits of a weight, in words; empty where they are 8.
        reset: what resets cost.
        cores_bound: cores that the tiles take at least, by each resource.
        hops: of this placement and of others, where each neuron sends one message to each core that
            it reaches.
        learning: the price of learning a sample on the chip; None if it was not asked for.
    """

    model: str
    partition: tuple[SegmentSummary, ...]
    rejections: tuple[Rejection, ...]
    utilisation: Mapping[str, tuple[float, float]]
    cost: CostReport
    accuracy_float: float | None = None
    accuracy_mapped: float | None = None
    verified: Comparison | None = None
    unverified: str = ""
    errors: Mapping[str, LayerError] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    reset: ResetSummary = ResetSummary(0, 0, ())
    cores_bound: CoresBound = field(default_factory=CoresBound)
    hops: Hops = NO_HOPS
    learning: LearningPrice | None = None

    def __repr__(self) -> str:
        sides = [segment.side for segment in self.partition]
        known = {"float": self.accuracy_float, "mapped": self.accuracy_mapped}
        accuracy = [f"{name} {share:.2%}" for name, share in known.items() if share is not None]
        return "\n".join(
            (
                f"Summary({self.model}, accuracy {', '.join(accuracy) or 'unknown'})",
                f"  segments {sides.count('chip')} on the chip, {sides.count('host')} on the host",
                f"  {self.cost!r}".replace("\n", "\n  "),
            )
        )

    def _repr_html_(self) -> str:
        """Partition and price, for notebooks."""
        known = {"float": self.accuracy_float, "mapped": self.accuracy_mapped}
        right = [
            f"{name} {percent(share, 2)}" for name, share in known.items() if share is not None
        ]
        parts = (
            (one.name, one.side, f"{one.layers}", f"{one.neurons:,}", f"{one.cores:,}")
            for one in self.partition
        )
        head = ("segment", "side", "layers", "neurons", "cores")
        title = f"{self.model}, accuracy {', '.join(right) or 'unknown'}"
        return block(title, table(head, parts, left=2), self.cost._repr_html_())


def summarize(
    mapped: Mapped,
    cost: CostReport,
    *,
    model: str | None = None,
    accuracy_float: float | None = None,
    accuracy_mapped: float | None = None,
    verified: Comparison | None = None,
    unverified: str = "",
    accuracy_trained: float | None = None,
    reset_share: float | None = None,
    learning: LearningPrice | None = None,
) -> Summary:
    """Gather what a report shows.

    Args:
        mapped: the mapping.
        cost: of a run of it, from :func:`hwsim.estimate`.
        model: its name; without one the name in the mapping's provenance.
        accuracy_float: of the float model, 0..1, on the samples that were run.
        accuracy_mapped: of the mapped model on the same samples.
        verified: from :func:`hwsim.compare`.
        unverified: why there is no such comparison.
        accuracy_trained: of the float model with the resets that it was trained with, where the
            mapping has changed them.
        reset_share: of the samples whose answer that change alone leaves as it was, 0..1.
        learning: from :func:`hwsim.price.learning.learning_price`, if the network learns.
    """
    placement = mapped.placement
    peak = placement.peak_utilisation
    return Summary(
        model=model or str(mapped.provenance["model"]["name"]),
        partition=tuple(_segment(mapped, segment) for segment in mapped.partition.segments),
        rejections=mapped.partition.rejections,
        utilisation={name: (mean, peak[name]) for name, mean in placement.utilisation.items()},
        cost=cost,
        accuracy_float=accuracy_float,
        accuracy_mapped=accuracy_mapped,
        verified=verified,
        unverified=unverified,
        errors=mapped.errors,
        provenance=mapped.provenance,
        weights=_weights(mapped),
        reset=_reset(mapped, accuracy_trained, reset_share),
        cores_bound=placement.cores_bound,
        hops=hops_of(placement, mapped.chip_segments, Topology.of(mapped.target.chip)),
        learning=learning,
    )


def summary_of(found: Alternative, model: str) -> Summary:
    """What a report shows of one of several mappings; its float model was not run beside it."""
    return summarize(
        found.cost.work.mapped,
        found.cost,
        accuracy_mapped=found.accuracy,
        unverified="not asked for",
    )


def _weights(mapped: Mapped) -> str:
    """The bits of a weight on the chip, in words; empty where they are the usual 8 or none."""
    bits, target = mapped.provenance.get("weight_bits", 8), mapped.target
    if bits == 8 or not mapped.chip_segments:
        return ""
    widest = bits == target.registers.weight_bits[-1]
    return many(bits, "bit") + (f", the widest that {target.name} stores" if widest else "")


def _reset(mapped: Mapped, accuracy: float | None, share: float | None) -> ResetSummary:
    registers = mapped.target.registers
    subtracting = [
        population
        for chip in mapped.chip_segments
        for population in chip.populations
        if subtracts(settings(population.neuron).get("reset"))
    ]
    more = sum(p.size * (p.neuron.compartments(registers) - 1) for p in subtracting)
    neurons = sum(population.size for population in subtracting)
    return ResetSummary(neurons, more, changed_resets(mapped.graph), accuracy, share)


def _segment(mapped: Mapped, segment: Segment) -> SegmentSummary:
    nodes = [mapped.graph[name] for name in segment.nodes]
    cores = {tile.core for tile in mapped.placement.tiles if tile.segment == segment.name}
    return SegmentSummary(
        name=segment.name,
        side=segment.side,
        nodes=segment.nodes,
        layers=sum(OPS[node.op].role == "synapse" for node in nodes),
        neurons=sum(node.type.size for node in nodes if OPS[node.op].role == "neuron"),
        cores=len(cores),
        reason=segment.reason,
    )
