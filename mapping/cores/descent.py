"""Cores onto places so that messages have short ways: swaps of two cores from the snake.

Every swap is priced exactly, by the messages of the two cores alone. At first swaps that lengthen
ways are kept too, up to a threshold that falls to 0 (threshold accepting: Dueck and Scheuer, J.
Comput. Phys. 90, 1990); from there on it is descent. A core is tried near one that it exchanges
messages with, so that the time grows with cores and pairs, not with their squares. All numbers are
integers: the same seed gives the same placement on every machine, compiled or not.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from has8.kernels import build
from mapping.chip.wiring import Ints
from mapping.cores.flows import Flows, hops, hops_bound, routers
from mapping.targets.schema import Chip
from mapping.targets.topology import Topology

TRIES = 400, 1000
"""Swaps that are tried for each core that has messages: at least, and at most."""
ENOUGH = 500_000
"""Swaps that are tried in all, where that is between the two."""
STARTS, SMALL = 8, 1024
"""Runs, of which the best counts, of networks of up to so many such cores; larger ones have one."""
LEVELS = 50
"""Thresholds one after another; the last fifth is 0."""
HOTTEST, COLDEST = 2.0, 0.02
"""First and last threshold above 0, in the messages of a mean core by one hop; every second run
begins with as much by a hop from chip to chip."""
REACH = 4
"""How far from the other core one is tried, in routers along x and y."""
_MASK = 2**64 - 1


def descend(
    flows: Flows,
    chip: Chip,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Ints:
    """Places for cores, with fewer messages times hops than the snake has, or as many.

    A hop from chip to chip counts as many hops as its link is slower than one within a chip: that
    is the one price of a crossing that a chip's sheet has, since accountings charge the same energy
    for both. Together the cores take the places that they have along the snake, so that chips and
    routers in use, and with them idle power and barriers, stay the same.

    Args:
        flows: between cores.
        chip: of the target.
        seed: of the random swaps.
        on_progress: called after each threshold with (done, in all).

    Returns:
        For each core its place, ``int64[cores]``: a number for :meth:`Topology.position`.
    """
    topology = Topology.of(chip)
    where = routers(topology, flows.cores)
    board = Board.of(topology, where, round(chip.chip_link_slowdown.value))
    best = np.arange(flows.cores)
    least, bound = (hops(flows, board.where, best), hops_bound(flows, topology, where))
    if least <= bound:
        return best
    starts = STARTS if flows.busy <= SMALL else 1
    tries = flows.busy * sorted((*TRIES, ENOUGH // flows.busy))[1]
    done = 0
    for start in range(starts):
        thresholds = _thresholds(flows, board.longest if start % 2 else 1)
        swaps = Swaps(flows, board, (seed * STARTS + start + 1) * 0x9E3779B97F4A7C15)
        for threshold in thresholds:
            swaps.run(-(-tries // LEVELS), threshold, REACH)
            done += 1
            if on_progress is not None:
                on_progress(done, starts * LEVELS)
        if swaps.cost < least:
            best, least = swaps.seat, swaps.cost
    return best


def _thresholds(flows: Flows, longest: int) -> list[int]:
    """What a swap may add to the cost, level by level, where the longest hop counts so many."""
    hop = int(flows.messages.sum()) / flows.busy
    hot, first = LEVELS * 4 // 5, HOTTEST * longest
    falling = [first * (COLDEST / first) ** (level / hot) for level in range(hot)]
    return [*(int(hop * part) for part in falling), *[0] * (LEVELS - hot)]


@dataclass(frozen=True, slots=True)
class Board:
    """The places that cores can take.

    Args:
        where: x and y of each place, stretched so that ways between chips are as long as they
            count, ``int64[2, places]``.
        router: the number of its router, ``y * width + x``, ``int64[places]``.
        first: the first place of each router, -1 where there is none, ``int64[height * width]``.
        width: routers from west to east.
        height: routers from south to north.
        per_router: places at one router.
    """

    where: Ints
    router: Ints
    first: Ints
    width: int
    height: int
    per_router: int

    @property
    def longest(self) -> int:
        """What the longest step from router to router counts, at least 1."""
        steps = [np.diff(np.unique(along)).max(initial=1) for along in self.where]
        return int(max(steps))

    @staticmethod
    def of(topology: Topology, where: Ints, crossing: int) -> Board:
        """The first places of a board, where a hop from chip to chip counts as so many."""
        sides = np.array([[topology.mesh_width], [topology.mesh_height]])
        width, height = map(int, where.max(1, initial=0) + 1)
        router = where[1] * width + where[0]
        first = np.full(width * height, -1, np.int64)
        first[router[::-1]] = np.arange(len(router))[::-1]
        stretched = where + (crossing - 1) * (where // sides)
        return Board(stretched, router, first, width, height, topology.cores_per_tile)


class Swaps:
    """Cores on places while they change these.

    Args:
        flows: between the cores.
        board: with a place for each of them.
        seed: of the random numbers, any integer.
    """

    def __init__(self, flows: Flows, board: Board, seed: int) -> None:
        self.flows, self.board, self.starts = flows, board, flows.starts
        self.seat, self.core = np.arange(flows.cores), np.arange(flows.cores)
        self.state = np.array([seed & _MASK | 1], np.uint64)
        self.change = np.array([hops(flows, board.where, self.seat)], np.int64)

    @property
    def cost(self) -> int:
        """Messages times the length of their ways."""
        return int(self.change[0])

    def run(self, tries: int, threshold: int, reach: int) -> None:
        """Try some swaps.

        Args:
            tries: how many.
            threshold: what a swap that is kept may add to the cost, at least 0.
            reach: how far from a core that it talks to one is tried, in routers along x and y.
        """
        library = _library()
        if library is None:
            self._plain(tries, threshold, reach)
            return
        board, flows = self.board, self.flows
        numbers = tries, len(flows.ones), flows.cores, board.width, board.height, board.per_router
        arrays: tuple[NDArray[np.int64] | NDArray[np.uint64], ...] = (
            *(flows.ones, flows.others, flows.messages, self.starts),
            *(*board.where, board.router, board.first, self.seat, self.core),
            *(self.state, self.change, np.empty(2 * flows.cores, np.int64)),
        )
        pointers = (array.ctypes.data for array in arrays)
        build.call(library, "swaps", *numbers, threshold, reach, *pointers)

    def _plain(self, tries: int, threshold: int, reach: int) -> None:
        """What swaps.c does."""
        flows, board = self.flows, self.board
        ones, others, messages = (
            part.tolist() for part in (flows.ones, flows.others, flows.messages)
        )
        starts, router, first = self.starts.tolist(), board.router.tolist(), board.first.tolist()
        (x, y), seat, core = board.where.tolist(), self.seat.tolist(), self.core.tolist()
        state, width, change = int(self.state[0]), board.width, 0

        def draw(n: int) -> int:
            nonlocal state
            state ^= state << 13 & _MASK
            state ^= state >> 7
            state ^= state << 17 & _MASK
            return (state >> 16) % n

        def moved(one: int, other: int, start: int, end: int) -> int:
            return sum(
                messages[i]
                * (
                    abs(x[end] - x[s])
                    + abs(y[end] - y[s])
                    - abs(x[start] - x[s])
                    - abs(y[start] - y[s])
                )
                for i in range(starts[one], starts[one + 1])
                if others[i] != other
                for s in (seat[others[i]],)
            )

        for _ in range(tries):
            pair = draw(len(ones))
            a, near = ones[pair], router[seat[others[pair]]]
            to_x = near % width + draw(2 * reach + 1) - reach
            to_y = near // width + draw(2 * reach + 1) - reach
            slot = draw(board.per_router)
            if not (0 <= to_x < width and 0 <= to_y < board.height):
                continue
            base, start = first[to_y * width + to_x], seat[a]
            end = base + slot
            if base < 0 or end >= flows.cores or router[end] == router[start]:
                continue
            b = core[end]
            delta = moved(a, b, start, end) + moved(b, a, end, start)
            if delta <= threshold:
                seat[a], seat[b], core[start], core[end] = end, start, b, a
                change += delta
        self.seat, self.core = np.array(seat, np.int64), np.array(core, np.int64)
        self.state[0], self.change[0] = state, self.change[0] + change


@cache
def _library() -> ctypes.CDLL | None:
    source = Path(__file__).with_name("swaps.c")
    return build.load([source], {"swaps": "n" * 9 + "p" * 13})
