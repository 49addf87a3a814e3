"""What partitions of a network let the host do while the chips work, without mapping them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, combinations

import numpy as np

from hwsim.price.latency import node_us
from hwsim.price.timeline import Task, tasks_of, timeline
from mapping.graph.ir import Graph
from mapping.hosts.schema import Host
from mapping.partition.groups import Layers
from mapping.partition.rules import layer_nodes

REGION = 8
"""Layers of the largest region of which all ways to divide it are listed."""


class Meanwhile:
    """The host's work beside runs on the chip, by the best figures.

    Args:
        graph: after the passes.
        layers: neurons that can be on the chip, in their order.
        macs: multiply-accumulates of each node of the graph, if it is on the host.
        host: the host.
    """

    def __init__(
        self, graph: Graph, layers: Sequence[str], macs: Mapping[str, int], host: Host
    ) -> None:
        self.graph, self.macs, self.host = graph, macs, host
        self.nodes = {name: frozenset(layer_nodes(graph, name)) for name in layers}
        self.regions = tuple(self._regions(layers))

    def us(self, runs: Mapping[frozenset[str], float]) -> float:
        """Microseconds in which the host computes while the chips have the sample.

        Args:
            runs: how long each run on the chip lasts, in microseconds by its nodes.
        """
        names = {str(at): nodes for at, nodes in enumerate(runs)}
        tasks, times = tasks_of(self.graph, names), [*runs.values()]
        on_host = self._host_us(tasks)
        us = [on_host.get(t.name, 0.0) if t.side == "host" else times[int(t.name)] for t in tasks]
        return float(timeline(tasks, np.array(us)[:, None]).overlap[0])

    def beside_us(self, run: Collection[str]) -> float:
        """Microseconds of host work that a run alone on the chip does not wait for, nor it for it.

        The host does what a run waits for first, so that a run overlaps with all of this, as far as
        it lasts.

        Args:
            run: its nodes.
        """
        tasks = tasks_of(self.graph, {"run": run})
        place = next(at for at, task in enumerate(tasks) if task.side == "chip")
        on_host, before, behind = self._host_us(tasks), _before(tasks), _behind(tasks)
        tied = before[place] | behind[place] | 1 << place
        return sum(on_host.get(t.name, 0.0) for at, t in enumerate(tasks) if not tied >> at & 1)

    def _host_us(self, tasks: Sequence[Task]) -> dict[str, float]:
        found = node_us(tasks, self.macs, self.host)
        return {name: float(us[0]) for name, us in found.items()}

    def _regions(self, layers: Sequence[str]) -> Iterator[Layers]:
        """Layers between two nodes, of host or chip, at which all ways through the network meet.

        What overlaps in one does not depend on what is on the chip in others, and a run that holds
        such a node overlaps with nothing. Only regions with several layers count.
        """
        tasks = tasks_of(self.graph, {})
        before, behind, every = _before(tasks), _behind(tasks), (1 << len(tasks)) - 1
        layer_of = {node: name for name, nodes in self.nodes.items() for node in nodes}
        own = [{layer_of[n.name] for n in task.nodes if n.name in layer_of} for task in tasks]
        meets = [before[at] | behind[at] | 1 << at == every for at in range(len(tasks))]
        met = {name for at, names in enumerate(own) if meets[at] for name in names}
        region: dict[str, None] = {}
        for at, names in enumerate(own):
            if meets[at]:
                if len(region) > 1:
                    yield frozenset(region)
                region = {}
            region.update(dict.fromkeys(name for name in layers if name in names - met))
        if len(region) > 1:
            yield frozenset(region)


def subsets(region: Layers) -> Iterator[Layers]:
    """All sets of layers of a region with two or more."""
    names = sorted(region)
    sizes = range(2, len(names) + 1)
    return map(frozenset, chain.from_iterable(combinations(names, size) for size in sizes))


def _before(tasks: Sequence[Task]) -> list[int]:
    """Of each task those that it waits for, as bits."""
    found: list[int] = []
    for task in tasks:
        bits = 0
        for place in task.after:
            bits |= found[place] | 1 << place
        found.append(bits)
    return found


def _behind(tasks: Sequence[Task]) -> list[int]:
    """Of each task those that wait for it, as bits."""
    found = [0] * len(tasks)
    for at in reversed(range(len(tasks))):
        for place in tasks[at].after:
            found[place] |= found[at] | 1 << at
    return found
