"""Optimisers and learning rates, as :class:`has8.training.recipes.TrainConfig` names them."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from has8.training.recipes import TrainConfig

WARMUP = 0.05
"""Part of all steps in which the "cosine" schedule's rate rises from zero."""
WARMUP_EPOCHS = 5
"""Epochs in which the rate of "cosine-epochs" rises (the released code's ImageNet recipe)."""
MOMENTUM = 0.9
"""Nesterov momentum of "sgd"."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """A new optimiser over all parameters; fused, so that a step is one kernel."""
    if config.optimizer == "adamw":
        return AdamW(_groups(model, config.weight_decay), lr=config.lr, fused=True)
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    if config.optimizer == "sgd":
        return SGD(model.parameters(), momentum=MOMENTUM, nesterov=True, **settings)
    return Adam(model.parameters(), **settings)


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Biases and the parameters of norms, which have one dimension or none, do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The rate at ``step`` = 0..steps-1 of the whole run.

    "constant" is ``lr``. "cosine" rises linearly over the first 5 % of the steps and falls as a
    half cosine to zero. "cosine-epochs" changes between epochs only: from ``lr * lr / 10`` it
    rises linearly over 5 epochs to ``lr``, then falls as a half cosine over the others; this is
    ``LinearLR(start_factor=lr / 10, total_iters=5)`` followed by ``CosineAnnealingLR(T_max=95)``
    for the 100 epochs of the released code.

    "steps" is ``lr`` for half of the epochs, a tenth of it for a quarter, then a hundredth.

    Args:
        config: its ``lr``, ``schedule`` and ``epochs`` count.
        step: counted from 0.
        steps: steps of the whole run, a multiple of ``config.epochs``.
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine-epochs":
        epoch, start = step * config.epochs // steps, config.lr / 10
        if epoch < WARMUP_EPOCHS:
            return config.lr * (start + (1 - start) * epoch / WARMUP_EPOCHS)
        return config.lr * _half_cosine(epoch - WARMUP_EPOCHS, config.epochs - WARMUP_EPOCHS)
    if config.schedule == "steps":
        epoch = step * config.epochs // steps
        return config.lr * 0.1 ** ((2 * epoch >= config.epochs) + (4 * epoch >= 3 * config.epochs))
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return config.lr * ((step + 1) / warm)
    return config.lr * _half_cosine(step - warm, steps - warm)


def _half_cosine(step: int, steps: int) -> float:
    """From 1 at step 0 to 0 at ``steps``."""
    return (1 + math.cos(math.pi * step / steps)) / 2
