"""Convolution that is a matrix product where the kernel sees the whole image from every pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from has8.kernels import paths
from has8.kernels.storage import autocasts, narrow_type

BATCH, PIXELS = 32, 4
"""Putting the matrix together pays from so many images on, and up to so many pixels in each."""

Tap = tuple[int, int, int, int, int, int]
"""Row and column of an output pixel, of an input pixel, and of the kernel's weight between them."""


def _matrix(weight: Tensor, taps: list[Tap], sides: tuple[int, int, int, int]) -> Tensor:
    """``[H' * W' * C', H * W * C]``: the weight between each two pixels, channels innermost."""
    outputs, inputs = weight.shape[:2]
    high, wide, height, width = sides
    matrix = weight.new_empty(high, wide, outputs, height, width, inputs)
    for y, x, v, u, row, column in taps:
        matrix[y, x, :, v, u] = weight[:, :, row, column]
    return matrix.view(high * wide * outputs, height * width * inputs)


class _Product(torch.autograd.Function):
    """``x @ matrix(weight).T`` for pixels in rows, ``[N, H * W * C]``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, taps: list[Tap], sides: tuple[int, int, int, int]
    ) -> Any:
        ctx.save_for_backward(x, weight)
        ctx.rule = (taps, sides)
        return x @ _matrix(weight, taps, sides).t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        taps, sides = ctx.rule
        high, wide, height, width = sides
        outputs, inputs = weight.shape[:2]
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_x = grads[0] @ _matrix(weight, taps, sides) if needs_x else None
        if not needs_weight:
            return grad_x, None, None, None
        pairs = (grads[0].t() @ x).view(high, wide, outputs, height, width, inputs)
        grad = torch.zeros_like(weight)
        for y, row_x, v, u, row, column in taps:
            grad[:, :, row, column] += pairs[y, row_x, :, v, u]
        return grad_x, grad, None, None


class Conv2d(nn.Conv2d):
    """``torch.nn.Conv2d``, faster on the CPU for batches of images as small as the kernel's reach.

    There, as at the end of most nets for small images, every output pixel is connected to every
    input pixel, so that the convolution is one matrix product. A direct convolution spends most
    of its time on the padding: nine tenths for a 3x3 kernel on one pixel, half on 2x2. The
    matrix has to be put together first, which pays from some tens of images on.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, C', H', W']``."""
        if not self._pays(x):
            return super().forward(x)
        (height, width), (down, right) = x.shape[-2:], self.stride
        rows, columns = range(0, height, down), range(0, width, right)
        top, left = (int(side) for side in self.padding)
        taps = [
            (y, z, v, u, v - row + top, u - column + left)
            for y, row in enumerate(rows)
            for z, column in enumerate(columns)
            for v in range(height)
            for u in range(width)
        ]
        dtype, sides = narrow_type(x), (len(rows), len(columns), height, width)
        pixels = x.permute(0, 2, 3, 1).reshape(len(x), -1)
        out: Tensor = _Product.apply(pixels.to(dtype), self.weight.to(dtype), taps, sides)
        out = out.view(len(x), len(rows), len(columns), -1).permute(0, 3, 1, 2)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1)

    def _pays(self, x: Tensor) -> bool:
        reach = [side // 2 for side in self.kernel_size]
        return (
            type(x) is Tensor
            and x.dim() == 4
            and x.device.type == "cpu"
            and (x.shape[-2:] == (1, 1) or (len(x) >= BATCH and x.shape[-2:].numel() <= PIXELS))
            and len(x) > 0
            and (x.dtype == self.weight.dtype or autocasts("cpu"))
            and not paths.must_be_plain()
            and self.groups == 1
            and self.dilation == (1, 1)
            and self.padding_mode == "zeros"
            and all(side % 2 for side in self.kernel_size)
            and list(self.padding) == reach
            and all(0 < side <= far + 1 for side, far in zip(x.shape[-2:], reach, strict=True))
        )
