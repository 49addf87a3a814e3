"""The compiled paths of encoder and neuron, as differentiable functions.

Batch norm, the neuron's steps and the decoder are one pass over memory behind that which takes
batch norm's statistics. The backward pass computes the membranes again, so that of all that lies
between two convolutions only the first one's output is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from has8 import kernels
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


class Constants(NamedTuple):
    """Of a neuron; see :class:`has8.neurons.Leaky`."""

    beta: float
    threshold: float
    gain: float
    alpha: float


def usable(x: Any, *modules: nn.Module | None) -> bool:
    """Whether the compiled path can stand in for calling ``modules``.

    It is not when ``x`` is being traced or compiled, lies on another device, or somebody
    watches one of the modules through a hook.
    """
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dim() > 1
        and x.dtype in kernels.KINDS
        and x.numel() > 0
        and not must_be_plain()
        and not any(_watched(module) for module in modules if module is not None)
        and kernels.available()
    )


_plain = ContextVar("plain", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """Inside it models run on plain torch without any fast path, whose sums round as torch's do.

    A rounding error can carry a membrane over its threshold, so that whoever compares a model
    with other code of the same operations, bit for bit, has to do it in here.
    """
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def must_be_plain() -> bool:
    """Whether fast paths are off: inside :func:`plain`, or while torch records what is called."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return _plain.get() or tracing or torch.compiler.is_compiling()


def _watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def real(dtype: torch.dtype) -> torch.dtype:
    """What a storage type is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.contiguous_format


class _Norm(NamedTuple):
    """Batch norm as the kernels take it, each ``[C]``; ``training`` when y's own statistics."""

    mean: Tensor
    deviation: Tensor
    scale: Tensor
    shift: Tensor
    training: bool


class _Spikes(torch.autograd.Function):
    """Currents, normalised if ``norm`` is given, to spikes or their decoded sum."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        norm: _Norm | None,
        steps: int,
        constants: Constants,
        weights: Tensor | None,
    ) -> Any:
        ctx.save_for_backward(y)
        ctx.rule = (norm, steps, constants, weights)
        size, channels = y.numel() // steps, y.shape[1] if norm else 1
        scale, shift = (norm.scale, norm.shift) if norm else (None, None)
        spikes = decoded = None
        if weights is None:
            out = spikes = torch.empty_like(y)
        else:
            shape = (len(y) // steps, *y.shape[1:])
            out = decoded = torch.empty(shape, dtype=real(y.dtype), memory_format=_format(y))
        kernels.call(
            "leaky_forward", y.dtype, steps, size, channels, y, scale, shift,
            constants.gain, constants.beta, constants.threshold, weights, spikes, decoded,
        )  # fmt: skip
        return out if weights is not None else out.unflatten(0, (steps, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (y,) = ctx.saved_tensors
        norm, steps, constants, weights = ctx.rule
        size, channels = y.numel() // steps, y.shape[1] if norm else 1
        grad, spikes, decoded = torch.empty_like(y), None, None
        if weights is None:
            spikes = like(grads[0].flatten(0, 1), y)
        else:
            decoded = grads[0].to(real(y.dtype)).contiguous(memory_format=_format(y))
        sums = torch.zeros(2, channels, dtype=torch.float64)
        scale, shift, mean, deviation = (
            (norm.scale, norm.shift, norm.mean, norm.deviation) if norm else (None,) * 4
        )
        kernels.call(
            "leaky_backward", y.dtype, steps, size, channels, y, scale, shift,
            constants.gain, constants.beta, constants.threshold, constants.alpha, weights,
            spikes, decoded, mean, deviation, grad, sums,
        )  # fmt: skip
        if not norm:
            return grad, None, None, None, None, None, None
        _through_norm(y, norm, sums, grad)
        total, moment = sums.to(norm.scale.dtype)
        return grad, moment, total, None, None, None, None


def _through_norm(y: Tensor, norm: _Norm, sums: Tensor, grad: Tensor) -> None:
    """Turn the gradient behind batch norm into the one in front of it, in place."""
    p = norm.scale.double()
    q = r = torch.zeros_like(p)
    if norm.training:
        mean_grad, mean_moment = sums / (y.numel() // y.shape[1])
        q = -p * norm.deviation * mean_moment
        r = -p * mean_grad - q * norm.mean
    p, q, r = (factor.to(norm.scale.dtype) for factor in (p, q, r))
    kernels.call("combine", y.dtype, y.numel(), y.shape[1], y, p, q, r, grad)


def like(x: Tensor, y: Tensor) -> Tensor:
    """``x`` in the type and memory order of ``y``."""
    x = x.to(y.dtype)
    return x if x.stride() == y.stride() else torch.empty_like(y).copy_(x)


def spikes(
    y: Tensor,
    steps: int,
    constants: Constants,
    norm: nn.BatchNorm2d | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Batch norm (training or not, as the module is), neuron and, with weights, decoder.

    Args:
        y: currents of all steps ``[T * B, C, ...]``.
        steps: T.
        constants: of the neuron.
        norm: its running statistics are updated in training.
        weights: ``[T]``, of a decoder.

    Returns:
        Spikes ``[T, B, C, ...]`` in the type of ``y``, or decoded values ``[B, C, ...]``.
    """
    _check_steps(weights, steps)
    y, weights = dense(y), _cast(weights, y)
    if norm is None:
        out = _Spikes.apply(y, None, None, None, steps, constants, weights)
    else:
        known = _statistics(y, norm)
        out = _Spikes.apply(y, norm.weight, norm.bias, known, steps, constants, weights)
    return out  # type: ignore[no-any-return]


def dense(x: Tensor) -> Tensor:
    """``x`` in memory order with channels innermost."""
    return x.contiguous(memory_format=_format(x))


def _cast(weights: Tensor | None, y: Tensor) -> Tensor | None:
    return None if weights is None else weights.to(real(y.dtype)).contiguous()


def _check_steps(weights: Tensor | None, steps: int) -> None:
    if weights is not None and weights.shape != (steps,):
        raise RuntimeError(f"{steps} steps cannot be decoded by {tuple(weights.shape)} weights")


def normalises(norm: nn.Module | None, y: Tensor) -> TypeGuard[nn.BatchNorm2d | None]:
    """Whether the kernels can do what ``norm`` does to ``y``."""
    return norm is None or (
        type(norm) is nn.BatchNorm2d
        and norm.num_features == y.shape[1]
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.weight.dtype == real(y.dtype)
        and y.dim() == 4
    )


@torch.no_grad()
def _statistics(y: Tensor, norm: nn.BatchNorm2d) -> _Norm:
    """Mean, deviation and the factors that follow, from ``y`` in training."""
    assert norm.running_mean is not None and norm.running_var is not None
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        count, channels = y.numel() // y.shape[1], y.shape[1]
        sums = torch.zeros(2, channels, dtype=torch.float64)
        pivot = y[0, :, 0, 0].to(real(y.dtype))
        kernels.call("moments", y.dtype, y.numel(), channels, y, pivot, sums)
        away, square = sums / count
        exact_mean, exact_var = pivot + away, (square - away * away).clamp_(min=0)
        assert norm.num_batches_tracked is not None and norm.momentum is not None
        norm.num_batches_tracked.add_(1)
        unbiased = exact_var * (count / max(1, count - 1))
        norm.running_mean.lerp_(exact_mean.to(mean.dtype), norm.momentum)
        norm.running_var.lerp_(unbiased.to(var.dtype), norm.momentum)
        mean, var = exact_mean.to(mean.dtype), exact_var.to(var.dtype)
    deviation = torch.rsqrt(var + norm.eps)
    scale = norm.weight * deviation
    return _Norm(mean, deviation, scale, norm.bias - mean * scale, norm.training)


class _Decoded(torch.autograd.Function):
    """Weighted sum over the steps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Any:
        ctx.rule = (weights, x.dtype, x.shape)
        flat = dense(x.flatten(0, 1))
        out = torch.empty(x.shape[1:], dtype=weights.dtype, memory_format=_format(flat))
        kernels.call("decode", x.dtype, len(x), out.numel(), flat, weights, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        weights, dtype, shape = ctx.rule
        incoming = grads[0].contiguous(memory_format=_format(grads[0]))
        flat = (shape[0] * shape[1], *shape[2:])
        grad = torch.empty(flat, dtype=dtype, memory_format=_format(grads[0]))
        kernels.call("decode_backward", dtype, shape[0], incoming.numel(), incoming, weights, grad)
        return grad.unflatten(0, shape[:2]), None


def decode(x: Tensor, weights: Tensor) -> Tensor:
    """``sum_t weights[t] x[t]`` of ``[T, B, ...]``, in float32 or wider whatever the type of x."""
    _check_steps(weights, len(x))
    out: Tensor = _Decoded.apply(x, _cast(weights, x))
    return out


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
        order = torch.tensor(planes, dtype=torch.int32)
        ctx.save_for_backward(x)
        ctx.rule = (lo, span, order, factors, slope, dtype)
        out = torch.empty(len(planes) * len(x), *x.shape[1:], dtype=dtype, memory_format=_format(x))
        kernels.call("encode", dtype, x.numel(), x, lo, span, order, out)
        return out.unflatten(0, (len(planes), -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        lo, span, order, factors, slope, dtype = ctx.rule
        incoming = grads[0].flatten(0, 1).to(dtype).contiguous(memory_format=_format(x))
        grad = torch.empty_like(x)
        by_step = torch.tensor([factors[k] for k in order.tolist()], dtype=torch.float64)
        kernels.call(
            "encode_backward", dtype, x.numel(), x, lo, span, order, by_step,
            SLOPE_KINDS.index(slope), ALPHA, incoming, grad,
        )  # fmt: skip
        return grad, None, None, None, None, None, None


def narrow_type(x: Tensor) -> torch.dtype:
    """What ``x`` is stored in from here on: autocast's type where that is on, else its own."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x.device.type) else x.dtype


def autocasts(device: str) -> bool:
    """Whether autocast is on for a type of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def encodes(x: Tensor, slope: str) -> bool:
    """Whether the kernels can make the planes of ``x``, with that slope behind them."""
    return slope in SLOPE_KINDS and usable(x) and narrow_type(x) in kernels.KINDS


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
        lo: value of code 0.
        span: from there to the value of code 255; negative if ``x`` holds codes, not to be
            rounded.
        order: the plane of each step.
        factors: on the slope of each plane.
        slope: in :data:`SLOPE_KINDS`.

    Returns:
        ``[8, B, ...]`` of 0 and 1; plane 0 is fractional where codes are not rounded.
    """
    dtype = narrow_type(x)
    dense = x.to(real(dtype)).contiguous(memory_format=_format(x))
    out: Tensor = _Planes.apply(dense, lo, span, order, factors, slope, dtype)
    return out
