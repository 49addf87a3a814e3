"""Which layers could run as one segment on the chip: the choices that a partition is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import networkx as nx

from mapping.graph.ir import Graph, loops_of
from mapping.partition.rules import layer_nodes

Layers = frozenset[str]
MOST = 500
"""Groups that are listed; where there are more, neighbouring layers move together."""


def groups_of(graph: Graph, layers: Sequence[str], most: int = MOST) -> tuple[Layers, ...]:
    """All groups of layers that :func:`mapping.partition.cut.cut` can make a segment of.

    Layers of a group feed each other or take the same input, and no way from one to another leaves
    the group. The layers of a loop over steps are in the same groups.

    Args:
        graph: after the passes.
        layers: neurons that can be on the chip, in their order.
        most: how many groups there may be. Where there are more, layers beside each other are in
            the same groups, two by two until it is enough.

    Returns:
        The groups, smaller ones first.
    """
    ways = _Ways(graph, layers)
    units = _loops(graph, layers)
    most = max(most, len(units))
    while (groups := _grown(units, ways, most)) is None:
        units = tuple(_paired(units, ways))
    return groups


class _Ways:
    """What feeds each layer, and what lies in front of it and behind it."""

    def __init__(self, graph: Graph, layers: Sequence[str]) -> None:
        self.order = {name: place for place, name in enumerate(layers)}
        self.nodes = {name: frozenset(layer_nodes(graph, name)) for name in layers}
        self.inputs = {
            name: {source for node in own for source in graph[node].inputs} - own
            for name, own in self.nodes.items()
        }
        edges = nx.DiGraph(graph.networkx())
        self.behind = {name: frozenset(nx.descendants(edges, name)) for name in layers}
        self.before = {name: frozenset(nx.ancestors(edges, name)) for name in layers}

    def beside(self, one: Layers, two: Layers) -> bool:
        """Whether a layer of the one feeds one of the other, or both take the same input."""
        fed_one, fed_two = (set().union(*(self.inputs[n] for n in g)) for g in (one, two))
        return bool(fed_one & two or fed_two & one or fed_one & fed_two)

    def whole(self, group: Layers) -> bool:
        """Whether no way from one of its layers to another leaves the group."""
        behind, before, own = (
            frozenset().union(*(kind[name] for name in group))
            for kind in (self.behind, self.before, self.nodes)
        )
        return behind & before <= own


def _loops(graph: Graph, layers: Sequence[str]) -> tuple[Layers, ...]:
    """The layers one by one, but for those of one loop over steps, which stay together."""
    parts = (
        frozenset(node.name for node in part).intersection(layers) for part in loops_of(graph.nodes)
    )
    return tuple(part for part in parts if part)


def _grown(units: Sequence[Layers], ways: _Ways, most: int) -> tuple[Layers, ...] | None:
    """Every group of units, smaller ones first; None if there are too many."""
    beside = [{at for at, other in enumerate(units) if ways.beside(unit, other)} for unit in units]
    last = [frozenset([at]) for at, unit in enumerate(units) if ways.whole(unit)]
    found = {group: units[at] for group in last for at in group}
    while last and len(found) <= most:
        wider = dict.fromkeys(
            group | {at}
            for group in last
            for at in sorted(set().union(*(beside[g] for g in group)) - group)
        )
        layers = {group: frozenset().union(*(units[at] for at in group)) for group in wider}
        last = [group for group in wider if ways.whole(layers[group])]
        found.update((group, layers[group]) for group in last)
    return None if len(found) > most else tuple(found.values())


def _paired(units: Iterable[Layers], ways: _Ways) -> Iterator[Layers]:
    """Each unit with the next one that it runs as one with."""
    waiting = list(units)
    while waiting:
        unit = waiting.pop(0)
        fits = (u for u in waiting if ways.beside(unit, u) and ways.whole(unit | u))
        other = next(fits, None)
        if other is not None:
            waiting.remove(other)
            unit |= other
        yield unit
