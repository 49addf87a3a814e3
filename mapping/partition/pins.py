"""Where a user wants layers: names and wildcards of them, and which layers these are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from has8.errors import BadInput
from mapping.graph.ir import Graph
from mapping.partition.rules import current_nodes
from mapping.partition.segments import Segment, Side

Pins = Mapping[str, Side]
"""The side of layers, by a name or a wildcard of their nodes or of a module that contains them."""

UNSELECTED = "not selected for the chip"
PINNED = "pinned to the host"


def unselected(
    graph: Graph, segments: Sequence[Segment], select: str | Sequence[str]
) -> dict[str, str]:
    """The neurons on the chip that a partition by name leaves out, with the reason.

    Args:
        graph: that is cut.
        segments: on the chip if everything is there that can be.
        select: "all", "none", or the names of segments or layers to keep on the chip.

    Raises:
        BadInput: for a name of neither; the message lists the segments.
    """
    if select == "all":
        return {}
    inside = {segment.name: _neurons(graph, segment.nodes) for segment in segments}
    names = [] if select == "none" else [select] if isinstance(select, str) else select
    kept: set[str] = set()
    for name in names:
        layers = inside.get(name) or _layers(graph, name)
        if not layers:
            known = ", ".join(inside) or "none"
            hint = _near(name, [*inside, *_paths(graph)])
            raise BadInput(
                f"no chip segment {name!r}, nor a layer: {hint}the model's segments are {known} "
                f"(or 'all', 'none')"
            )
        kept.update(layers)
    out = (name for layers in inside.values() for name in layers if name not in kept)
    return dict.fromkeys(out, UNSELECTED)


def pinned(graph: Graph, pins: Pins, rejected: Mapping[str, str]) -> dict[str, Side]:
    """The side of each neuron that is pinned; of several pins of one, the last rules.

    Args:
        graph: that is cut.
        pins: as the user gave them.
        rejected: what the chip cannot take, with the reason.

    Raises:
        BadInput: for a pin to the chip of what it cannot take, or a name of nothing.
    """
    sides: dict[str, Side] = {}
    for pattern, side in pins.items():
        layers = _layers(graph, pattern)
        others = [name for name in rejected if _matches(pattern, [name])]
        if not layers and not others:
            raise BadInput(
                f"no layer {pattern!r} to pin to the {side}: "
                f"{_near(pattern, _paths(graph))}the spiking layers are "
                f"{', '.join(_neurons(graph, (node.name for node in graph))) or 'none'}"
            )
        if not layers and side == "chip":
            raise unkept(others[0], rejected[others[0]])
        sides.update(dict.fromkeys(layers, side))
    return sides


def called(graph: Graph, on_chip: Sequence[str], layers: Sequence[str]) -> str:
    """What a partition is called: "all", "none", or the fewest names that --partition takes.

    Args:
        graph: that is cut.
        on_chip: its layers on the chip, by their neurons.
        layers: all that can be there.
    """
    if not on_chip or len(on_chip) == len(layers):
        return "all" if on_chip else "none"
    paths = {
        neuron: {p for n in (neuron, *current_nodes(graph, neuron)) for p in _containing(n)}
        for neuron in _neurons(graph, (node.name for node in graph))
    }
    names: list[str] = []
    left = list(on_chip)
    while left:
        for path in reversed(_containing(left[0])):
            named = [neuron for neuron, known in paths.items() if path in known]
            if set(named) <= set(on_chip):
                break
        names.append(path)
        left = [neuron for neuron in left[1:] if neuron not in named]
    return ",".join(names)


def unkept(layer: str, reason: str) -> BadInput:
    """The error for a layer that is pinned to the chip and cannot be there."""
    return BadInput(f"{layer!r} is pinned to the chip and has to stay on the host: {reason}")


def _neurons(graph: Graph, nodes: Iterable[str]) -> list[str]:
    return [name for name in nodes if graph[name].op == "neuron"]


def _layers(graph: Graph, pattern: str) -> list[str]:
    """The neurons that a pattern names: by their own node, or by one that drives them."""
    return [
        node.name
        for node in graph
        if node.op == "neuron" and _matches(pattern, [node.name, *current_nodes(graph, node.name)])
    ]


def _matches(pattern: str, nodes: Iterable[str]) -> bool:
    """Whether a pattern fits the name of a node or of a module that contains it."""
    return any(fnmatchcase(path, pattern) for name in nodes for path in _containing(name))


def _containing(name: str) -> list[str]:
    """A node's name and the paths of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), 0, -1)]


def _paths(graph: Graph) -> list[str]:
    """Every name by which a spiking layer can be called, without wildcards."""
    return list(
        dict.fromkeys(
            path
            for neuron in graph
            if neuron.op == "neuron"
            for name in (neuron.name, *current_nodes(graph, neuron.name))
            for path in _containing(name)
        )
    )


def _near(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=0.3)
    return f"did you mean {near[0]!r}? " if near else ""
