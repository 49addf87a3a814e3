from .artifact import load as load
from .artifact import save as save
from .mapped import Mapped as Mapped
from .pipeline import map_model as map_model
from .targets.schema import Target as Target
from .targets.schema import load_target as load_target
from .targets.schema import target_names as target_names

__all__ = ["Mapped", "Target", "load", "load_target", "map_model", "save", "target_names"]
