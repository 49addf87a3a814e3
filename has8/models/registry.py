"""The table of models, and named variants of a family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from has8.registry import Registry

Builder = Callable[..., nn.Module]

MODELS: Registry[Builder] = Registry("model")
"""Functions (num_classes, in_channels, **options) -> module, by name."""

MOST_DEPTH = 1000
"""Most blocks or stages of a model."""


def variant(name: str, family: Builder, **fixed: Any) -> None:
    """Register ``family`` with some options fixed under a name of its own."""

    def build(**options: Any) -> nn.Module:
        return family(**fixed, **options)

    build.family, build.fixed = family, tuple(fixed)  # type: ignore[attr-defined]
    MODELS.register(name)(build)
