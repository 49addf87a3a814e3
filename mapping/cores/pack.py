"""Tiles onto cores: several small ones share a core where all limits hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

LONGEST = "list_words"
"""The one resource of which a core needs the largest need of its tiles, not the sum."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one tile went.

    Args:
        core: counted from 0 in the order of the cores' first tiles.
        offset: compartments in front of it on that core.
        need: what it takes there of each resource.
    """

    core: int
    offset: int
    need: Mapping[str, int]


def joined(needs: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What the tiles of one core take together of each resource."""
    total: dict[str, int] = {}
    for need in needs:
        for name, amount in need.items():
            before = total.get(name, 0)
            total[name] = max(before, amount) if name == LONGEST else before + amount
    return total


def first_fit(
    tiles: Sequence[Callable[[int], Mapping[str, int]]], limits: Mapping[str, int]
) -> list[Seat]:
    """Put each tile on the first core that has room for it; the largest tiles choose first.

    Many tiles are alike, and so is what they leave of cores: cores that are equally full are looked
    at together, so that the time grows as the number of tiles.

    Args:
        tiles: for each tile, its need as a function of the compartments in front of it, which never
            falls when those grow; alone each fits on a core.
        limits: of one core.

    Returns:
        The seats, in the order of ``tiles``.
    """
    names = tuple(limits)
    have = np.array([limits[name] for name in names])
    seats = [Seat(0, 0, tile(0)) for tile in tiles]
    alone = np.array([[seat.need[name] for name in names] for seat in seats])
    alone = alone.reshape(-1, len(names))
    kinds: dict[bytes, int] = {}  # cores by how full they are
    used = np.zeros_like(alone)
    cores: list[list[int]] = [[] for _ in tiles]  # of each kind
    first = np.full(len(tiles), len(tiles))  # core of each kind
    opened = 0
    for this in np.argsort(-(alone / have).max(1, initial=0), kind="stable"):
        room = (_plus(used[: len(kinds)], alone[this], names) <= have).all(1)
        fitting = np.flatnonzero(room & (first[: len(kinds)] < len(tiles)))
        for kind in fitting[np.argsort(first[fitting])]:
            offset = int(used[kind, names.index("neurons")])
            need = tiles[this](offset)
            after = _plus(used[kind], np.array([need[name] for name in names]), names)
            if (after <= have).all():
                seats[this] = Seat(heappop(cores[kind]), offset, need)
                first[kind] = cores[kind][0] if cores[kind] else len(tiles)
                break
        else:
            seats[this], after = replace(seats[this], core=opened), alone[this]
            opened += 1
        kind = kinds.setdefault(after.tobytes(), len(kinds))
        used[kind] = after
        heappush(cores[kind], seats[this].core)
        first[kind] = cores[kind][0]
    order = {core: place for place, core in enumerate(dict.fromkeys(seat.core for seat in seats))}
    return [replace(seat, core=order[seat.core]) for seat in seats]


def _plus(
    used: NDArray[np.int64], more: NDArray[np.int64], names: Sequence[str]
) -> NDArray[np.int64]:
    both: NDArray[np.int64] = used + more
    if LONGEST in names:
        place = names.index(LONGEST)
        both[..., place] = np.maximum(used[..., place], more[..., place])
    return both
