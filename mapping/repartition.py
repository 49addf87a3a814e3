"""The same mapping with fewer layers on the chip, their integers as they are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from has8.errors import BadInput
from mapping.integers.quantize import joined
from mapping.mapped import Mapped
from mapping.partition.cut import cut
from mapping.partition.segments import Partition
from mapping.pipeline import Placing, allocated, placed
from mapping.verify import check_mapped

CHOSEN = "it costs less on the host"


def layers_of(mapped: Mapped) -> tuple[str, ...]:
    """The layers on the chip by their neurons, in the order of execution."""
    return tuple(p.name for chip in mapped.chip_segments for p in chip.populations)


def repartition(mapped: Mapped, on_chip: Collection[str], placement: Placing = "descent") -> Mapped:
    """A mapping with some of its layers on the chip, and all others on the host.

    Args:
        mapped: from :func:`mapping.map_model`; its integers are kept.
        on_chip: layers by their neurons, of those that it has on the chip.
        placement: as :func:`mapping.map_model` takes it, with the seed of ``mapped``.

    Raises:
        BadInput: for a layer that it does not have on the chip, or that goes with another one.
        DoesNotFit: if a layer fits on no core when it runs with these.
    """
    populations = {p.name: p for chip in mapped.chip_segments for p in chip.populations}
    if unknown := sorted(set(on_chip) - populations.keys()):
        raise BadInput(f"the mapping has no layer {unknown[0]!r} on the chip")
    graph, target, partition = mapped.graph, mapped.target, parted(mapped, on_chip)
    layers = [[n for n in part.nodes if n in populations] for part in partition.on_chip]
    segments = tuple(
        joined(graph, part, [populations[name] for name in names])
        for part, names in zip(partition.on_chip, layers, strict=True)
    )
    there = [name for names in layers for name in names]
    if lost := sorted(set(on_chip) - set(there)):
        raise BadInput(
            f"{lost[0]!r} goes together with others: the layers of a loop over steps, or the one "
            f"whose bias it is"
        )
    tiles = allocated(segments, target, mapped.provenance.get("allocation", "cores"))
    seed = mapped.provenance.get("placement_seed", 0)
    facts = {key: fact for key, fact in mapped.provenance.items() if key != "pins"}
    moved = replace(
        mapped,
        partition=partition,
        chip_segments=segments,
        errors={name: mapped.errors[name] for name in there},
        placement=placed(tiles, segments, target, placement, seed),
        provenance={**facts, "partition": there or "none", "placement": placement},
    )
    check_mapped(moved)
    return moved


def parted(mapped: Mapped, on_chip: Collection[str]) -> Partition:
    """The partition of a mapping with some of its layers on the chip, and all others on the host.

    A loop over steps of which a layer is on the host stays there.

    Raises:
        BadInput: if values cross as graded spikes, which belong to one partition.
    """
    if any(node.op in ("pack", "unpack", "grade") for node in mapped.graph):
        raise BadInput(
            "the mapping's values cross as graded spikes, which are of its own partition: map it "
            "with coding='binary', and the partition that is chosen with coding='graded'"
        )
    reasons = {rejection.node: rejection.reason for rejection in mapped.partition.rejections}
    neurons = (node.name for node in mapped.graph if node.op == "neuron")
    hosted = {name: reasons.get(name, CHOSEN) for name in neurons if name not in on_chip}
    return cut(mapped.graph, mapped.target.registers, unfit=hosted)
