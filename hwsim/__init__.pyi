from .activity import Activity as Activity
from .experiments.cluster import simulate_on_ray as simulate_on_ray
from .experiments.divergence import Comparison as Comparison
from .experiments.divergence import compare as compare
from .experiments.faults import Faults as Faults
from .experiments.faults import Faulty as Faulty
from .experiments.faults import fault_sweep as fault_sweep
from .experiments.fidelity import Agreement as Agreement
from .experiments.fidelity import agreement as agreement
from .experiments.recording import Recording as Recording
from .price.cost import CostReport as CostReport
from .price.cost import estimate as estimate
from .program import Run as Run
from .program import simulate as simulate

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
