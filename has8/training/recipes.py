"""Recipes: complete settings for training, by name.

``modern`` is ours and the default; ``finetune`` is for models that are trained already. ``paper``
and ``paper-sgdr`` are those of HAS-8 (Luu 2025) as its authors' released code has them, for the
small data sets and for ImageNet; ``hnn`` is that of the MLPs of Muramatsu & Yu 2021, and
``hnn-short`` is ours for few steps of their networks, whose new weights
:func:`has8.training.liven.liven` sets. What a recipe asks of the model is in
:func:`has8.training.new_model.recipe_options`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from has8.data.names import AUGMENTATIONS
from has8.values import Rules, check_fields

OPTIMIZERS = ("adamw", "adam", "sgd")
SCHEDULES = ("cosine", "constant", "cosine-epochs", "steps")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train; the defaults are the recipe ``modern``.

    Args:
        epochs: passes over the training images.
        batch_size: images in a step, over all processes; at least 2 (batch norm learns nothing
            from one).
        lr: highest learning rate.
        weight_decay: decoupled and on weights only (no biases, no norms) for "adamw"; an L2
            penalty on all parameters for "adam" and "sgd", as PyTorch has it.
        optimizer: "adamw", "adam", or "sgd" (Nesterov, momentum 0.9).
        schedule: how the learning rate changes; see :func:`has8.training.optim.learning_rate`.
        label_smoothing: probability mass spread over all classes, in [0, 1).
        augment: how training images are changed at random; see :func:`has8.data.batches`.
        clip_norm: largest norm of the gradient over all parameters; None does not clip.
        seed: at least 0 and below 2**64; it decides the order, the augmentation, the subset and
            dropout.
        subset: train on so many images, drawn at random by the seed; None for all.

    Raises:
        BadInput: for a value of another type or out of range.
    """

    epochs: int = 30
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    optimizer: str = "adamw"
    schedule: str = "cosine"
    label_smoothing: float = 0.1
    augment: str = "crop"
    clip_norm: float | None = 1.0
    seed: int = 0
    subset: int | None = None

    def __post_init__(self) -> None:
        rules: Rules = {
            "epochs": (lambda n: n >= 1, "a whole number of at least 1"),
            "batch_size": (lambda n: n >= 2, "a whole number of at least 2"),
            "lr": (lambda x: 0 < x < math.inf, "a number above 0"),
            "weight_decay": (lambda x: 0 <= x < math.inf, "a number of at least 0"),
            "optimizer": (lambda name: name in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "schedule": (lambda name: name in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "label_smoothing": (lambda x: 0 <= x < 1, "a number of at least 0 and below 1"),
            "augment": (lambda name: name in AUGMENTATIONS, f"one of {', '.join(AUGMENTATIONS)}"),
            "clip_norm": (lambda x: x > 0, "a number above 0, or None"),
            "seed": (lambda n: 0 <= n < 2**64, "a whole number of at least 0 and below 2**64"),
            "subset": (lambda n: n >= 2, "a whole number of at least 2 images, or None"),
        }
        check_fields(self, rules)


_PAPER = TrainConfig(
    epochs=100,
    batch_size=16,
    lr=1e-3,
    weight_decay=1e-3,
    optimizer="adam",
    schedule="constant",
    label_smoothing=0.0,
    augment="flip",
    clip_norm=None,
    seed=3407,
)
_PAPER_SGDR = replace(
    _PAPER, lr=0.1 * 16 / 256, weight_decay=5e-4, optimizer="sgd", schedule="cosine-epochs"
)
_FINETUNE = TrainConfig(epochs=2, lr=2e-4, weight_decay=0.0, label_smoothing=0.0, augment="flip")
_HNN = replace(
    _PAPER, batch_size=64, lr=1e-4, weight_decay=0.0, schedule="steps", augment="none", seed=0
)
_HNN_SHORT = replace(_HNN, epochs=10, batch_size=16, schedule="constant")
RECIPES: Mapping[str, TrainConfig] = MappingProxyType(
    {
        "modern": TrainConfig(),
        "paper": _PAPER,
        "paper-sgdr": _PAPER_SGDR,
        "finetune": _FINETUNE,
        "hnn": _HNN,
        "hnn-short": _HNN_SHORT,
    }
)
"""Settings by name. The paper calls its ImageNet schedule SGDR, that is, with warm restarts; the
released code has none, nor has ``paper-sgdr``. Their images are not normalised."""
