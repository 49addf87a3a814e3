"""How tensors are stored for the kernels: their type, and their order in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def real(dtype: torch.dtype) -> torch.dtype:
    """The type that values stored as ``dtype`` are computed in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasts(device: str) -> bool:
    """Whether autocast is on for a type of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def narrow_type(x: Tensor) -> torch.dtype:
    """The type that ``x`` is stored in from here on: autocast's where that is on, else its own."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x.device.type) else x.dtype


def memory_order(x: Tensor) -> torch.memory_format:
    """The memory order that the kernels take: channels innermost for images."""
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """``x`` in memory order with channels innermost."""
    return x.contiguous(memory_format=memory_order(x))


def like(x: Tensor, y: Tensor) -> Tensor:
    """``x`` in the type and memory order of ``y``."""
    x = x.to(y.dtype)
    return x if x.stride() == y.stride() else torch.empty_like(y).copy_(x)
