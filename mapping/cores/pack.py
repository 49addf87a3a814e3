"""Tiles onto cores: several small ones share a core where all limits hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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

    Args:
        tiles: for each tile, its need as a function of the compartments in front of it, which never
            falls when those grow; alone each fits on a core.
        limits: of one core.

    Returns:
        The seats, in the order of ``tiles``.
    """
    names = tuple(limits)
    have = np.array([limits[name] for name in names])
    needs = [dict(need(0)) for need in tiles]
    alone = np.array([[need[name] for name in names] for need in needs]).reshape(-1, len(names))
    used = np.zeros_like(alone)
    seats = [(0, 0)] * len(tiles)
    opened = 0
    for this in np.argsort(-(alone / have).max(1, initial=0), kind="stable"):
        for core in np.flatnonzero((_plus(used[:opened], alone[this], names) <= have).all(1)):
            offset = int(used[core, names.index("neurons")])
            need = dict(tiles[this](offset))
            amounts = np.array([need[name] for name in names])
            if (_plus(used[core], amounts, names) <= have).all():
                needs[this], seats[this] = need, (int(core), offset)
                used[core] = _plus(used[core], amounts, names)
                break
        else:
            seats[this], used[opened] = (opened, 0), alone[this]
            opened += 1
    order = {core: place for place, core in enumerate(dict.fromkeys(core for core, _ in seats))}
    return [
        Seat(order[core], offset, need) for (core, offset), need in zip(seats, needs, strict=True)
    ]


def _plus(
    used: NDArray[np.int64], more: NDArray[np.int64], names: Sequence[str]
) -> NDArray[np.int64]:
    both: NDArray[np.int64] = used + more
    if LONGEST in names:
        place = names.index(LONGEST)
        both[..., place] = np.maximum(used[..., place], more[..., place])
    return both
