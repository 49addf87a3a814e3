from .activity import Activity as Activity
from .alternatives import Alternative as Alternative
from .alternatives import alternative as alternative
from .alternatives import least as least
from .experiments.cluster import simulate_on_ray as simulate_on_ray
from .experiments.divergence import Comparison as Comparison
from .experiments.divergence import compare as compare
from .experiments.faults import Faults as Faults
from .experiments.faults import Faulty as Faulty
from .experiments.faults import fault_sweep as fault_sweep
from .experiments.fidelity import Agreement as Agreement
from .experiments.fidelity import agreement as agreement
from .experiments.host import measure_host as measure_host
from .experiments.recording import Recording as Recording
from .exploration import Exploration as Exploration
from .exploration import Limits as Limits
from .exploration import explore as explore
from .price.cost import CostReport as CostReport
from .price.cost import estimate as estimate
from .program import Run as Run
from .program import simulate as simulate

__all__ = [
    "Activity",
    "Agreement",
    "Alternative",
    "Comparison",
    "CostReport",
    "Exploration",
    "Faults",
    "Faulty",
    "Limits",
    "Recording",
    "Run",
    "agreement",
    "alternative",
    "compare",
    "estimate",
    "explore",
    "fault_sweep",
    "least",
    "measure_host",
    "simulate",
    "simulate_on_ray",
]
