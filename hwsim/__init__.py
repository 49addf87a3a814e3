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
    from hwsim.cluster import simulate_on_ray as simulate_on_ray
    from hwsim.cosim import simulate as simulate
    from hwsim.cost import CostReport as CostReport
    from hwsim.cost import estimate as estimate
    from hwsim.divergence import Comparison as Comparison
    from hwsim.divergence import compare as compare
    from hwsim.faults import Faults as Faults
    from hwsim.faults import Faulty as Faulty
    from hwsim.faults import fault_sweep as fault_sweep
    from hwsim.fidelity import Agreement as Agreement
    from hwsim.fidelity import agreement as agreement
    from hwsim.recording import Recording as Recording

_HOME = {
    "Activity": "hwsim.backend",
    "Agreement": "hwsim.fidelity",
    "Comparison": "hwsim.divergence",
    "CostReport": "hwsim.cost",
    "Faults": "hwsim.faults",
    "Faulty": "hwsim.faults",
    "Recording": "hwsim.recording",
    "Run": "hwsim.backend",
    "agreement": "hwsim.fidelity",
    "compare": "hwsim.divergence",
    "estimate": "hwsim.cost",
    "fault_sweep": "hwsim.faults",
    "simulate": "hwsim.cosim",
    "simulate_on_ray": "hwsim.cluster",
}

__all__ = [
    "Activity",
    "Agreement",
    "Comparison",
    "CostReport",
    "Faults",
    "Faulty",
    "Recording",
    "Run",
    "agreement",
    "compare",
    "estimate",
    "fault_sweep",
    "simulate",
    "simulate_on_ray",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hwsim' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
