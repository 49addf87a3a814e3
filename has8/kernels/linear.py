"""Linear layer over many rows as a 1x1 convolution, whose library is faster on some processors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from has8.kernels import paths
from has8.kernels.storage import autocasts

IMAGES, ROWS = 16, 256
"""How many images the rows are divided into, the fewest for which PyTorch asks oneDNN on one
thread, and of how many rows on it pays. Larger images are faster than more of them."""


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
        # [16, in_features, N / 16, 1] with channels innermost: x as it lies in memory.
        images = x.contiguous().view(IMAGES, -1, 1, x.shape[1]).permute(0, 3, 1, 2)
        out = F.conv2d(images, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(len(x), -1)

    def _pays(self, x: Tensor) -> bool:
        return (
            type(x) is Tensor
            and x.dim() == 2
            and x.device.type == "cpu"
            and len(x) >= ROWS
            and len(x) % IMAGES == 0
            and x.dtype == self.weight.dtype == torch.float32
            and not autocasts("cpu")
            and not paths.must_be_plain()
        )
