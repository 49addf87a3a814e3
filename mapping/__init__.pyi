from .artifact import load as load
from .artifact import save as save
from .export.netx import write_netx as write_netx
from .export.nir import write_nir as write_nir
from .graph.trace.netx import read_netx as read_netx
from .graph.trace.nir import read_nir as read_nir
from .mapped import Mapped as Mapped
from .network import load_model as load_model
from .network import save_model as save_model
from .overview import Overview as Overview
from .overview import check_model as check_model
from .pipeline import map_model as map_model
from .targets.schema import Target as Target
from .targets.schema import load_target as load_target
from .targets.schema import target_names as target_names

__all__ = [
    "Mapped",
    "Overview",
    "Target",
    "check_model",
    "load",
    "load_model",
    "load_target",
    "map_model",
    "read_netx",
    "read_nir",
    "save",
    "save_model",
    "target_names",
    "write_netx",
    "write_nir",
]
