"""Decoding: a weighted sum over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from has8.kernels import coding, paths
from has8.kernels.storage import autocasts, real


class Decoder(nn.Module):
    """``y = sum_t weights[t] * s[t]`` (HAS-8 equations 19 and 20), linear and differentiable.

    Because it is linear, average pooling and addition in front of it can move behind it exactly.

    Args:
        weights: one per step; ``len(weights)`` is the number of steps T.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    @property
    def steps(self) -> int:
        """T, the number of steps that it sums over."""
        return len(self.weights)

    def forward(self, spikes: Tensor) -> Tensor:
        """``[T, B, ...] -> [B, ...]``."""
        if paths.usable(spikes):
            return coding.decode(spikes, self.weights)
        spikes = spikes.to(real(spikes.dtype))  # codes need 8 bits and a sign
        device = spikes.device.type
        full = torch.autocast(device, enabled=False) if autocasts(device) else nullcontext()
        with full:
            decoded: Tensor = torch.tensordot(self.weights.to(spikes.dtype), spikes, dims=1)
        return decoded

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"steps={self.steps}"
