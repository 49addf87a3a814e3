"""What the host does while the chips have the sample: a timeline of two that work at once.

The host runs one part of its layers at a time, the board one run on the chip at a time, from its
exchange with the host to its last message. Each begins when what it needs is there. Of the parts
that could begin, the host takes the one that the next run on the chip waits for, then the first of
the graph; so a branch of values is computed while the chip has the spikes of the other branch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from mapping.graph.ir import Graph, Node, loops_of
from mapping.partition.segments import Side

Floats = NDArray[np.float64]
_Key = tuple[Side, str]


@dataclass(frozen=True, slots=True)
class Task:
    """What is done in one go: a node on the host, a loop over steps there, or a run on the chip.

    Args:
        name: the run's; of a node on the host its own, of a loop that of its first.
        nodes: of the graph, in its order.
        side: who does it.
        after: the tasks whose results it needs, by their places, all of which are less than its.
        due: the place of the first run on the chip that waits for it; the number of tasks if none.
    """

    name: str
    nodes: tuple[Node, ...]
    side: Side
    after: tuple[int, ...]
    due: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each task of one sample is done.

    Args:
        starts: ``float64[tasks]``, microseconds.
        ends: of the same shape.
        overlap: microseconds in which host and board both work, ``float64[*]`` as the durations.
    """

    starts: Floats
    ends: Floats
    overlap: Floats


def tasks_of(graph: Graph, runs: Mapping[str, Collection[str]]) -> tuple[Task, ...]:
    """The tasks of a sample in an order in which they can be done one after another.

    Args:
        graph: after the passes.
        runs: the nodes of each run on the chip by its name; the host has all others.
    """
    run_of = {node: name for name, nodes in runs.items() for node in nodes}
    parts: dict[_Key, list[Node]] = {("chip", name): [] for name in runs}
    owner: dict[str, _Key] = {}
    for part in loops_of(graph.nodes):
        run = run_of.get(part[0].name)
        key: _Key = ("host", part[0].name) if run is None else ("chip", run)
        parts.setdefault(key, []).extend(part)
        owner.update(dict.fromkeys((node.name for node in part), key))
    needs = {
        key: {owner[source] for node in nodes for source in node.inputs} - {key}
        for key, nodes in parts.items()
    }
    feeds: dict[_Key, list[_Key]] = {key: [] for key in parts}
    for key, before in needs.items():
        for source in before:
            feeds[source].append(key)
    at = {node.name: place for place, node in enumerate(graph)}
    ranks = {key: min((at[n.name] for n in own), default=-1) for key, own in parts.items()}
    order = _sorted(ranks, needs, feeds)
    places = {key: place for place, key in enumerate(order)}
    due, tasks = [len(order)] * len(order), []
    for key in reversed(order):
        users = (places[user] for user in feeds[key])
        waits = (place if order[place][0] == "chip" else due[place] for place in users)
        due[places[key]] = min(waits, default=len(order))
        after = tuple(sorted(places[source] for source in needs[key]))
        tasks.append(Task(key[1], tuple(parts[key]), key[0], after, due[places[key]]))
    return tuple(reversed(tasks))


def _sorted(
    rank: Mapping[_Key, int],
    needs: Mapping[_Key, Collection[_Key]],
    feeds: Mapping[_Key, Sequence[_Key]],
) -> list[_Key]:
    """The tasks so that each stands behind what it needs, else by rank."""
    missing = {key: len(before) for key, before in needs.items()}
    ready = [(rank[key], key) for key, count in missing.items() if not count]
    heapify(ready)
    order = []
    while ready:
        _, key = heappop(ready)
        order.append(key)
        for user in feeds[key]:
            missing[user] -= 1
            if not missing[user]:
                heappush(ready, (rank[user], user))
    return order


def timeline(tasks: Sequence[Task], us: Floats) -> Timeline:
    """Who does what when.

    Args:
        tasks: from :func:`tasks_of`.
        us: how long each lasts, ``float64[tasks, ways]`` in microseconds: the first way decides in
            which order tasks are done, and all others keep to that order.
    """
    starts, ends = np.zeros_like(us), np.zeros_like(us)
    free = {side: np.zeros(us.shape[1]) for side in ("host", "chip")}
    nothing = np.zeros(us.shape[1])
    for place in _order(tasks, us[:, 0].tolist()):
        task = tasks[place]
        starts[place] = np.max([free[task.side], *(ends[before] for before in task.after)], axis=0)
        ends[place] = free[task.side] = starts[place] + us[place]
    host, chip = ([at for at, t in enumerate(tasks) if t.side == s] for s in ("host", "chip"))
    overlap = nothing
    for run in chip:
        both = np.minimum(ends[host], ends[run]) - np.maximum(starts[host], starts[run])
        overlap = overlap + both.clip(0).sum(0)
    return Timeline(starts[:, 0], ends[:, 0], overlap)


def _order(tasks: Sequence[Task], us: Sequence[float]) -> list[int]:
    """The places of tasks in the order in which they begin."""
    missing = [len(task.after) for task in tasks]
    feeds: list[list[int]] = [[] for _ in tasks]
    for place, task in enumerate(tasks):
        for before in task.after:
            feeds[before].append(place)
    ready: dict[Side, list[tuple[int, int]]] = {"host": [], "chip": []}
    busy: dict[Side, tuple[float, int]] = {}
    order: list[int] = []

    def waiting(place: int) -> None:
        heappush(ready[tasks[place].side], (tasks[place].due, place))

    for place, count in enumerate(missing):
        if not count:
            waiting(place)
    now = 0.0
    while True:
        for side, queue in ready.items():
            if side not in busy and queue:
                _, place = heappop(queue)
                order.append(place)
                busy[side] = now + us[place], place
        if not busy:
            return order
        now = min(end for end, _ in busy.values())
        for side in [side for side, (end, _) in busy.items() if end == now]:
            _, place = busy.pop(side)
            for user in feeds[place]:
                missing[user] -= 1
                if not missing[user]:
                    waiting(user)
