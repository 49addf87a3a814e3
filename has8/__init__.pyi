from .data.sources import Data as Data
from .data.sources import load_data as load_data
from .errors import Has8Error as Has8Error
from .models import create_model as create_model
from .models import model_names as model_names
from .models import model_options as model_options
from .models.pretrained import pretrained as pretrained
from .steps import over_time as over_time
from .training.calibrate import calibrate as calibrate
from .training.checkpoint import Checkpoint as Checkpoint
from .training.checkpoint import load as load_checkpoint
from .training.checkpoint import save as save_checkpoint
from .training.features import embed as embed
from .training.fit import evaluate as evaluate
from .training.fit import fit as fit
from .training.history import History as History
from .training.recipes import TrainConfig as TrainConfig

__all__ = [
    "Checkpoint",
    "Data",
    "Has8Error",
    "History",
    "TrainConfig",
    "calibrate",
    "create_model",
    "embed",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_data",
    "model_names",
    "model_options",
    "over_time",
    "pretrained",
    "save_checkpoint",
]
