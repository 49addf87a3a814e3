"""Messages of a chip step that wait for one another: at their cores, at links, for full buffers.

A core goes through its neurons one by one, and each message leaves it behind the neuron that fired.
It passes routers along x, then along y (as :mod:`mapping.targets.topology` says): at each it waits
for its turn on the link ahead, which sends one message at a time, and for room behind the link. At
its core messages are taken in as they arrive, one by one. A full buffer stops what is in front of
it, back to the core that sends. The way along x and then y has no circles, so that nothing stops
for ever. queues.c does the same as :func:`_plain`, which is the definition.
"""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from has8.kernels import build
from mapping.chip.wiring import Ints

Floats = NDArray[np.float64]

ENDLESS = 1 << 40
"""The buffer of a target that states none."""


@dataclass(frozen=True, eq=False, slots=True)
class Network:
    """Routers, links and cores. A router's number is ``y * width + x``.

    Args:
        width: routers from west to east, over all chips.
        where: the router of each core, ``int64[cores]``.
        hold: nanoseconds in which a link takes no other message, ``float64[4 * routers]``: of each
            router those to the east, west, north and south.
        delay: nanoseconds until a message is at the next router, of the same shape.
        buffer: messages that wait for one link, or for one core, at most; others wait farther back.
        overlaps: whether a core takes messages in while it goes through its neurons.
    """

    width: int
    where: Ints
    hold: Floats
    delay: Floats
    buffer: int = ENDLESS
    overlaps: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class Jobs:
    """What cores have to do in some steps, message by message, in compressed rows.

    Of each step those of a core follow one another in the order in which it sends them.

    Args:
        first: where each step begins, and where the last ends, ``int64[steps + 1]``.
        sender: the core; ``len(where)`` for messages of the host, which are there from the start.
        dest: the core that takes it in; -1 where none does.
        gap: nanoseconds of the sender's neurons since the message before, ``float64[messages]``.
        service: nanoseconds that the destination needs for it.
    """

    first: Ints
    sender: Ints
    dest: Ints
    gap: Floats
    service: Floats


@dataclass(frozen=True, eq=False, slots=True)
class Times:
    """When it was, in nanoseconds from the begin of the step, ``float64[messages]`` each.

    Args:
        ready: the sender had come to it.
        sent: it left the sender, for whose links there was room.
        arrived: it was at its core.
        done: it was taken in.
    """

    ready: Floats
    sent: Floats
    arrived: Floats
    done: Floats

    def ends(self, jobs: Jobs) -> Floats:
        """When each step has nothing left to do, ``float64[steps]``."""
        padded = np.append(self.done, 0.0)
        ends = np.maximum.reduceat(padded, jobs.first[:-1]) if len(jobs.first) > 1 else padded[:0]
        return np.where(np.diff(jobs.first) > 0, ends, 0.0)


def times(network: Network, jobs: Jobs) -> Times:
    """Let the messages of each step go their way; steps do not wait for one another's."""
    library = _library()
    if library is None:
        return _plain(network, jobs)
    messages, cores, links = len(jobs.sender), len(network.where), len(network.hold)
    found = Times(*(np.zeros(messages) for _ in range(4)))
    room = np.empty(2 * messages + 8 * (links + cores) + 4 * cores, np.int64)
    heap = np.empty(3 * (messages + links + 2 * cores), np.int64)
    numbers = len(jobs.first) - 1, messages, cores, links, network.width, network.buffer
    arrays: tuple[NDArray[Any], ...] = (
        *(jobs.first, jobs.sender, jobs.dest, network.where),
        *(jobs.gap, jobs.service, network.hold, network.delay),
        *(found.ready, found.sent, found.arrived, found.done, room, heap),
    )
    arrays = tuple(map(np.ascontiguousarray, arrays))
    pointers = (array.ctypes.data for array in arrays)
    build.call(library, "queues", *numbers, network.overlaps, *pointers)
    return found


@cache
def _library() -> ctypes.CDLL | None:
    source = Path(__file__).with_name("queues.c")
    return build.load([source], {"queues": "n" * 8 + "p" * 14})


def _plain(network: Network, jobs: Jobs) -> Times:
    """What queues.c does."""
    found = Times(*(np.zeros(len(jobs.sender)) for _ in range(4)))
    for first, stop in zip(jobs.first[:-1].tolist(), jobs.first[1:].tolist(), strict=True):
        _Step(network, jobs, found, range(first, stop)).run()
    return found


class _Step:
    """One step while it runs: what happens when is in a heap, and what waits is in queues.

    A queue is a link's, by the link's number, or behind the links a core's, for messages that it
    will take in. What waits for room in a queue is a link, by its number, or behind the links a
    core that sends.
    """

    def __init__(self, network: Network, jobs: Jobs, found: Times, messages: range) -> None:
        self.net, self.jobs, self.found = network, jobs, found
        self.links, self.cores = len(network.hold), len(network.where)
        queues = range(self.links + self.cores)
        self.queue: list[deque[int]] = [deque() for _ in queues]
        self.waits: list[deque[int]] = [deque() for _ in queues]
        self.taken = [0 for _ in queues]
        self.blocked, self.busy = [False for _ in queues], [False for _ in queues]
        self.todo: list[deque[int]] = [deque() for _ in range(self.cores)]
        self.working = [False for _ in range(self.cores)]
        self.processing: list[int | None] = [None for _ in range(self.cores)]
        self.at: dict[int, int] = {}
        self.heap: list[tuple[float, int, str, int]] = []
        self.number = 0
        for m in messages:
            if jobs.sender[m] == self.cores:
                self.queue[self.links + jobs.dest[m]].append(m)
            else:
                self.todo[jobs.sender[m]].append(m)

    def run(self) -> None:
        """Until nothing is left."""
        for core in range(self.cores):
            self.serve(core, 0.0)
        while self.heap:
            time, _, kind, who = heappop(self.heap)
            getattr(self, kind)(who, time)

    def schedule(self, time: float, kind: str, who: int) -> None:
        heappush(self.heap, (time, self.number, kind, who))
        self.number += 1

    def queue_at(self, router: int, m: int) -> int:
        """The queue in which a message at a router waits: for a link, or for its core."""
        dest = int(self.jobs.dest[m])
        y, x = divmod(router, self.net.width)
        to_y, to_x = divmod(int(self.net.where[dest]), self.net.width)
        if x != to_x:
            return 4 * router + (to_x < x)
        return 4 * router + 2 + (to_y < y) if y != to_y else self.links + dest

    def serve(self, core: int, time: float) -> None:
        """A core begins with what waits for it: a message, and neurons up to its next message."""
        inbox, overlaps = self.queue[self.links + core], self.net.overlaps
        if self.processing[core] is None and inbox and (overlaps or not self.working[core]):
            m = self.processing[core] = inbox.popleft()
            self.schedule(time + self.jobs.service[m], "processed", core)
            if self.jobs.sender[m] < self.cores:
                self.release(self.links + core, time)
        free = not self.working[core] and not self.blocked[self.links + core]
        if free and self.todo[core] and (overlaps or self.processing[core] is None):
            self.working[core] = True
            self.schedule(time + self.jobs.gap[self.todo[core][0]], "ready", core)

    def leave(self, core: int, time: float) -> None:
        """A core's next message leaves it, or the core waits until there is room."""
        m = self.todo[core][0]
        if self.jobs.dest[m] < 0:
            self.found.sent[m] = self.found.arrived[m] = self.found.done[m] = time
        else:
            queue = self.queue_at(int(self.net.where[core]), m)
            if self.taken[queue] >= self.net.buffer:
                self.wait_for(queue, self.links + core)
                return
            self.taken[queue] += 1
            self.found.sent[m], self.at[m] = time, queue
            self.schedule(time, "arrived", m)
        self.todo[core].popleft()

    def move(self, link: int, time: float) -> None:
        """A link takes the first message that waits for it, once there is room behind it."""
        if self.busy[link] or self.blocked[link] or not self.queue[link]:
            return
        m, router = self.queue[link][0], link // 4
        ahead = self.queue_at(router + (1, -1, self.net.width, -self.net.width)[link % 4], m)
        if self.taken[ahead] >= self.net.buffer:
            self.wait_for(ahead, link)
            return
        self.queue[link].popleft()
        self.taken[ahead] += 1
        self.busy[link], self.at[m] = True, ahead
        hold, delay = self.net.hold[link], self.net.delay[link]
        self.schedule(time + hold, "passed", link)
        self.schedule(time + max(hold, delay), "arrived", m)

    def wait_for(self, queue: int, who: int) -> None:
        self.waits[queue].append(who)
        self.blocked[who] = True

    def release(self, queue: int, time: float) -> None:
        """A slot of a queue is free: whoever has waited longest takes it."""
        self.taken[queue] -= 1
        if not self.waits[queue]:
            return
        who = self.waits[queue].popleft()
        self.blocked[who] = False
        if who < self.links:
            self.move(who, time)
        else:
            self.leave(who - self.links, time)
            self.serve(who - self.links, time)

    def ready(self, core: int, time: float) -> None:
        """A core has come to its next message."""
        self.working[core] = False
        self.found.ready[self.todo[core][0]] = time
        self.leave(core, time)
        self.serve(core, time)

    def arrived(self, m: int, time: float) -> None:
        """A message is at a router, or at its core."""
        self.queue[self.at[m]].append(m)
        if self.at[m] < self.links:
            self.move(self.at[m], time)
        else:
            self.found.arrived[m] = time
            self.serve(int(self.jobs.dest[m]), time)

    def passed(self, link: int, time: float) -> None:
        """A link can take the next message."""
        self.busy[link] = False
        self.release(link, time)
        self.move(link, time)

    def processed(self, core: int, time: float) -> None:
        """A core has taken a message in."""
        m, self.processing[core] = self.processing[core], None
        self.found.done[m] = time
        self.serve(core, time)
