"""Which training images a run learns."""

from __future__ import annotations

import torch
from torch import Tensor

from has8.errors import BadInput
from has8.training.recipes import TrainConfig


def chosen(count: int, config: TrainConfig) -> Tensor:
    """``int64[N]``: those of ``count`` training images that are learned, by their indices.

    Raises:
        BadInput: if the subset has more.
    """
    if config.subset is None:
        return torch.arange(count)
    if config.subset > count:
        raise BadInput(f"subset must be at most the {count} training images, not {config.subset}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(config.seed))
    return order[: config.subset]
