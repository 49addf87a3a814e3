"""A new model for some data: what a recipe asks of it, and its weights by a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from has8.data import Data, channel_statistics
from has8.errors import BadInput
from has8.models import create_model, model_options

CIFAR_STEM_UP_TO = 64
"""Side in pixels up to which ``modern`` takes the stem that keeps the image's size."""
STATISTICS_IMAGES = 50_000
"""Images, spread evenly over the training images, that per-channel statistics are taken of."""
SMALLEST_STD = 1e-4
"""Smallest deviation of a channel, so that one that never varies can be divided by it."""


def recipe_options(recipe: str, model: str, data: Data) -> dict[str, Any]:
    """What a recipe asks of the model, as options of :func:`has8.models.create_model`.

    ``modern`` takes, where the model's family has these options, ``stem="cifar"`` for images of
    up to 64 pixels a side, and ``mean`` and ``std`` of each channel of the training images (of
    50,000 of them where there are more), rounded to 4 digits. The other recipes ask for nothing
    but ``side``, the images' own, which each takes where the model's family has it.

    Raises:
        UnknownName: for an unknown model.
    """
    known, options = model_options(model), dict[str, Any]()
    if "side" in known:
        options["side"] = data.input_shape[-1]
    if recipe != "modern":
        return options
    if "stem" in known and max(data.input_shape[1:]) <= CIFAR_STEM_UP_TO:
        options["stem"] = "cifar"
    if {"mean", "std"} <= set(known):
        mean, std = channel_statistics(data.train, STATISTICS_IMAGES)
        options["mean"] = [round(value, 4) for value in mean]
        options["std"] = [max(round(value, 4), SMALLEST_STD) for value in std]
    return options


def new_model(name: str, data: Data, options: Mapping[str, Any], seed: int) -> nn.Module:
    """A new model for some data, its weights drawn by a seed; the global generator is left alone.

    Args:
        name: for :func:`has8.models.create_model`.
        data: its classes and channels become the model's outputs and inputs.
        options: options of the model's family.
        seed: decides the weights.

    Raises:
        UnknownName: for an unknown model.
        BadInput: for an unknown option, or one out of range or of a wrong type.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return create_model(
                name, num_classes=len(data.class_names), in_channels=data.input_shape[0], **options
            )
        except (TypeError, RuntimeError) as error:
            raise BadInput(f"{name} cannot be built with {dict(options)}: {error}") from error
