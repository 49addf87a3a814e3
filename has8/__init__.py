"""Hybrid ANN-SNN models that can be cut between a GPU and a neuromorphic chip."""

from __future__ import annotations

from has8.data import Data, load_data
from has8.errors import Has8Error
from has8.models import create_model, model_names, model_options
from has8.training.calibrate import calibrate
from has8.training.checkpoint import Checkpoint
from has8.training.checkpoint import load as load_checkpoint
from has8.training.checkpoint import save as save_checkpoint
from has8.training.fit import History, TrainConfig, evaluate, fit

__all__ = [
    "Checkpoint",
    "Data",
    "Has8Error",
    "History",
    "TrainConfig",
    "calibrate",
    "create_model",
    "evaluate",
    "fit",
    "load_checkpoint",
    "load_data",
    "model_names",
    "model_options",
    "save_checkpoint",
]
