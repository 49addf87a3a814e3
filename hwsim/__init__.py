"""Run a mapped model and price it.

Names are imported when they are first used: ``python -m hwsim.lava`` runs in environments
without torch, and torch inside a Lava process hangs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwsim.backend import Activity as Activity
    from hwsim.backend import Run as Run
    from hwsim.cosim import simulate as simulate
    from hwsim.cost import CostReport as CostReport
    from hwsim.cost import estimate as estimate
    from hwsim.divergence import Comparison as Comparison
    from hwsim.divergence import compare as compare

_HOME = {
    "Activity": "hwsim.backend",
    "Comparison": "hwsim.divergence",
    "CostReport": "hwsim.cost",
    "Run": "hwsim.backend",
    "compare": "hwsim.divergence",
    "estimate": "hwsim.cost",
    "simulate": "hwsim.cosim",
}

__all__ = ["Activity", "Comparison", "CostReport", "Run", "compare", "estimate", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hwsim' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
