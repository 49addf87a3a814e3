"""Linear layer over many rows as a 1x1 convolution, whose library is faster on some processors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from has8.kernels import paths
from has8.kernels.storage import autocasts

ROWS, GROUPS = 16, 16
"""Rows that count as one image, and how many such images are needed for it to pay."""


class Linear(nn.Linear):
    """``torch.nn.Linear``, for many rows in float32 on the CPU by oneDNN's convolution.

    PyTorch gives matrix products of float32 to MKL, which uses AVX-512 on Intel's processors
    alone, and convolutions to oneDNN, which uses it on AMD's too: products of layers over time are
    twice as fast there. The sums are the same, rounded in another order.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_features] -> [N, out_features]``, and of any other shape as PyTorch has it."""
        if not self._pays(x):
            return super().forward(x)
        # [N / 16, in_features, 16, 1] with channels innermost: x as it lies in memory.
        images = x.contiguous().view(-1, ROWS, 1, x.shape[1]).permute(0, 3, 1, 2)
        out = F.conv2d(images, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(len(x), -1)

    def _pays(self, x: Tensor) -> bool:
        return (
            type(x) is Tensor
            and x.dim() == 2
            and x.device.type == "cpu"
            and len(x) >= ROWS * GROUPS
            and len(x) % ROWS == 0
            and x.dtype == self.weight.dtype == torch.float32
            and not autocasts("cpu")
            and not paths.must_be_plain()
        )
