"""The ways to choose scales, by name."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["round", "search"]
METHODS: tuple[Method, ...] = get_args(Method)
"""The largest scale at which everything is in range; the one that changes the fewest spikes."""
