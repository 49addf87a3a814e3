"""Compiled kernels of the fast simulation, on the CPU: neurons, coding, counting.

Without a C compiler plain torch computes the same spikes, more slowly.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

from has8.kernels import build

_ARGUMENTS = {
    "lif": "nnnnnpnppppnnnnnnnnnnnppppp",
    "encode": "nnnnprrppp",
    "decode": "nnnnppp",
    "count": "nnnpp",
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had or are switched off."""
    return build.load([Path(__file__).with_name("chip.c")], _ARGUMENTS)


def available() -> bool:
    """Whether compiled kernels run here."""
    return library() is not None


def call(name: str, *args: Any) -> None:
    """Run a kernel of ``chip.c`` with torch's number of threads.

    Args:
        name: of the function.
        args: see :func:`has8.kernels.build.call`.
    """
    build.call(library(), name, *args)
