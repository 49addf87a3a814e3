"""Normalisation of the image by fixed statistics, as a layer of the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from has8.errors import BadInput


class Normalize(nn.BatchNorm2d):
    """``(x - mean) / std`` for each channel, with statistics that training leaves alone.

    It belongs to the model rather than to the data, so that a saved model takes images in [0, 1]
    like any other. It is a batch norm that stays in evaluation mode, and is mapped like one.

    Args:
        mean: mean of each channel, of images in [0, 1].
        std: standard deviation of each channel, above 0.

    Raises:
        BadInput: if they differ in number or a deviation is not positive.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if not mean or len(mean) != len(std) or min(std) <= 0:
            raise BadInput(
                f"normalisation needs one mean and one positive deviation for each channel, "
                f"not mean={list(mean)}, std={list(std)}"
            )
        super().__init__(len(mean), eps=0.0, affine=False)
        self.running_mean = torch.tensor(mean, dtype=torch.float32)
        self.running_var = torch.tensor(std, dtype=torch.float32).square()
        self.train(False)

    def train(self, mode: bool = True) -> Normalize:
        """Stay in evaluation mode, whatever the model's mode is."""
        super().train(False)
        return self


def normalize(
    in_channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalize | nn.Identity:
    """The layer that normalises, or one that does nothing if neither statistic is given.

    Raises:
        BadInput: if only one is given, or their number is not that of the channels.
    """
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None or len(mean) != in_channels:
        raise BadInput(
            f"mean and std belong together, one number for each of {in_channels} channels, "
            f"not mean={mean}, std={std}"
        )
    return Normalize(mean, std)
