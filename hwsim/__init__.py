"""Run a mapped model and price it.

Names are imported when they are first used: ``python -m hwsim.backends.lava`` runs in environments
without torch, and torch inside a Lava process hangs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwsim.activity import Activity as Activity
    from hwsim.activity import Run as Run
    from hwsim.experiments.cluster import simulate_on_ray as simulate_on_ray
    from hwsim.experiments.divergence import Comparison as Comparison
    from hwsim.experiments.divergence import compare as compare
    from hwsim.experiments.faults import Faults as Faults
    from hwsim.experiments.faults import Faulty as Faulty
    from hwsim.experiments.faults import fault_sweep as fault_sweep
    from hwsim.experiments.fidelity import Agreement as Agreement
    from hwsim.experiments.fidelity import agreement as agreement
    from hwsim.experiments.recording import Recording as Recording
    from hwsim.price.cost import CostReport as CostReport
    from hwsim.price.cost import estimate as estimate
    from hwsim.program import simulate as simulate

_HOME = {
    "Activity": "hwsim.activity",
    "Agreement": "hwsim.experiments.fidelity",
    "Comparison": "hwsim.experiments.divergence",
    "CostReport": "hwsim.price.cost",
    "Faults": "hwsim.experiments.faults",
    "Faulty": "hwsim.experiments.faults",
    "Recording": "hwsim.experiments.recording",
    "Run": "hwsim.activity",
    "agreement": "hwsim.experiments.fidelity",
    "compare": "hwsim.experiments.divergence",
    "estimate": "hwsim.price.cost",
    "fault_sweep": "hwsim.experiments.faults",
    "simulate": "hwsim.program",
    "simulate_on_ray": "hwsim.experiments.cluster",
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
