"""Batch norm, the neuron and the decoder in one compiled pass over memory, differentiable.

In training one more pass takes batch norm's statistics first. The backward pass computes the
membranes again, so that of all that lies between two convolutions only the first one's output is
kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from has8 import kernels
from has8.kernels.coding import decoding_weights
from has8.kernels.storage import dense, like, memory_order, real


class Constants(NamedTuple):
    """The constants of a neuron, as :class:`has8.neurons.Leaky` has them.

    Args:
        beta: part of the membrane that is left after a step.
        threshold: the neuron fires when its membrane is above it.
        gain: factor on the input.
        alpha: width of the arctan surrogate.
    """

    beta: float
    threshold: float
    gain: float
    alpha: float


class _Norm(NamedTuple):
    """Batch norm as the kernels take it: ``(y - mean) * deviation``, times weight, plus bias.

    Args:
        mean: mean of each channel, ``[C]``.
        deviation: one over the standard deviation of each channel, ``[C]``.
        scale: the factor on ``y`` that follows, ``[C]``.
        shift: the summand that follows, ``[C]``.
        training: whether the statistics are those of ``y`` itself, so that gradients pass them.
    """

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
            out = decoded = torch.empty(shape, dtype=real(y.dtype), memory_format=memory_order(y))
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
            decoded = grads[0].to(real(y.dtype)).contiguous(memory_format=memory_order(y))
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
        constants: the neuron's.
        norm: the batch norm in front of the neuron, for which :func:`normalises` must hold; its
            running statistics are updated in training.
        weights: the decoder's weight of each step, ``[T]``.

    Returns:
        Spikes ``[T, B, C, ...]`` in the type of ``y``, or decoded values ``[B, C, ...]``.
    """
    if weights is not None:
        weights = decoding_weights(weights, steps, y.dtype)
    y = dense(y)
    if norm is None:
        out = _Spikes.apply(y, None, None, None, steps, constants, weights)
    else:
        known = _statistics(y, norm)
        out = _Spikes.apply(y, norm.weight, norm.bias, known, steps, constants, weights)
    return out  # type: ignore[no-any-return]


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
    """Mean, deviation and the factors that follow; in training those of ``y``."""
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
