"""Bit planes and their decoding in one compiled pass over memory each, differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from has8 import kernels
from has8.kernels import paths
from has8.kernels.storage import dense, memory_order, narrow_type, real
from has8.surrogate import ALPHA

SLOPE_KINDS = (
    "straight_through",
    "fourier",
    "fourier_released",
    "sigmoid",
    "tanh",
    "constant_half",
)
"""Slopes that ``kernels.c`` knows, in the order of its ``enum slope``."""


class _Planes(torch.autograd.Function):
    """Eight bit planes, with a surrogate slope."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lo: float,
        span: float,
        planes: Sequence[int],
        factors: Sequence[float],
        slope: str,
        dtype: torch.dtype,
    ) -> Any:
        by_step = torch.tensor(planes, dtype=torch.int32)
        ctx.save_for_backward(x)
        ctx.rule = (lo, span, by_step, factors, slope, dtype)
        out = torch.empty(
            len(planes) * len(x), *x.shape[1:], dtype=dtype, memory_format=memory_order(x)
        )
        kernels.call("encode", dtype, x.numel(), x, lo, span, by_step, out)
        return out.unflatten(0, (len(planes), -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        lo, span, planes, factors, slope, dtype = ctx.rule
        incoming = grads[0].flatten(0, 1).to(dtype).contiguous(memory_format=memory_order(x))
        grad = torch.empty_like(x)
        by_step = torch.tensor([factors[k] for k in planes.tolist()], dtype=torch.float64)
        kernels.call(
            "encode_backward", dtype, x.numel(), x, lo, span, planes, by_step,
            SLOPE_KINDS.index(slope), ALPHA, incoming, grad,
        )  # fmt: skip
        return grad, None, None, None, None, None, None


def encodes(x: Tensor, slope: str) -> bool:
    """Whether the kernels can make the planes of ``x``, with that slope behind them."""
    return slope in SLOPE_KINDS and paths.usable(x) and narrow_type(x) in kernels.KINDS


def planes(
    x: Tensor,
    lo: float,
    span: float,
    order: Sequence[int],
    factors: Sequence[float],
    slope: str,
) -> Tensor:
    """Bit planes of the codes of ``x``, in autocast's type where that is on.

    Args:
        x: values ``[B, ...]``.
        lo: the value of code 0.
        span: the value of code 255 less that of code 0; negative if ``x`` holds codes already,
            which are then not rounded.
        order: the plane of each step.
        factors: the factor on the slope of each plane.
        slope: a name in :data:`SLOPE_KINDS`.

    Returns:
        ``[8, B, ...]`` of 0 and 1; plane 0 is fractional where codes are not rounded.
    """
    dtype = narrow_type(x)
    out: Tensor = _Planes.apply(dense(x.to(real(dtype))), lo, span, order, factors, slope, dtype)
    return out


class _Decoded(torch.autograd.Function):
    """Weighted sum over the steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Any:
        ctx.rule = (weights, x.dtype, x.shape)
        flat = dense(x.flatten(0, 1))
        out = torch.empty(x.shape[1:], dtype=weights.dtype, memory_format=memory_order(flat))
        kernels.call("decode", x.dtype, len(x), out.numel(), flat, weights, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        weights, dtype, shape = ctx.rule
        incoming = dense(grads[0])
        flat = (shape[0] * shape[1], *shape[2:])
        grad = torch.empty(flat, dtype=dtype, memory_format=memory_order(grads[0]))
        kernels.call("decode_backward", dtype, shape[0], incoming.numel(), incoming, weights, grad)
        return grad.unflatten(0, shape[:2]), None


def decoding_weights(weights: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """A decoder's weights as the kernels take them, one for each step of values of that type.

    Raises:
        RuntimeError: if there are more or fewer weights than steps.
    """
    if weights.shape != (steps,):
        raise RuntimeError(f"{steps} steps cannot be decoded by {tuple(weights.shape)} weights")
    return weights.to(real(dtype)).contiguous()


def decode(x: Tensor, weights: Tensor) -> Tensor:
    """``sum_t weights[t] x[t]`` of ``[T, B, ...]``, in float32 or wider whatever the type of x."""
    out: Tensor = _Decoded.apply(x, decoding_weights(weights, len(x), x.dtype))
    return out
