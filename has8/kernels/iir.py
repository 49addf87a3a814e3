"""The filters and neurons of :mod:`has8.iir` in one compiled pass over memory each, differentiable.

Backward passes compute the states again, so that only their inputs are kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from has8 import kernels
from has8.kernels.storage import dense, like, memory_order, real


class Constants(NamedTuple):
    """The constants of a neuron, as :class:`has8.iir.IIR` has them.

    Args:
        gain: factor on the input.
        alpha: part of the current that is left after a step.
        beta: part of the membrane that is left after a step.
        theta: part of the reset trace that is left after a step.
        threshold: the neuron fires when its membrane is above it.
        sigma: deviation of the Gaussian surrogate.
    """

    gain: float
    alpha: float
    beta: float
    theta: float
    threshold: float
    sigma: float


class _Potentials(torch.autograd.Function):
    """Inputs and coefficients to postsynaptic potentials."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a1: Tensor, a2: Tensor, b0: Tensor) -> Any:
        flat = dense(x.flatten(0, 1))
        # One sample's coefficients lie in memory as a sample does.
        coefficients = [dense(c[None]).to(real(x.dtype)) for c in (a1, a2, b0)]
        ctx.save_for_backward(flat, *coefficients)
        ctx.steps = len(x)
        psp = torch.empty_like(flat)
        rows, size = x.shape[1], a1.numel()
        kernels.call("psp_forward", x.dtype, len(x), rows, size, flat, *coefficients, psp)
        return psp.unflatten(0, x.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        flat, *coefficients = ctx.saved_tensors
        incoming = like(grads[0].flatten(0, 1), flat)
        grad, first = torch.empty_like(flat), coefficients[0]
        rows = len(flat) // ctx.steps
        sums = dense(torch.zeros(3, *first.shape[1:], dtype=torch.float64))
        kernels.call(
            "psp_backward", flat.dtype, ctx.steps, rows, first.numel(), flat, *coefficients,
            incoming, grad, sums,
        )  # fmt: skip
        return grad.unflatten(0, (ctx.steps, rows)), *sums.to(first.dtype)


class _Spikes(torch.autograd.Function):
    """Currents of some steps, merged into the batch, to spikes of so many or more."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, constants: Constants, given: int, steps: int) -> Any:
        flat = dense(x)
        n = flat.numel() // given
        ctx.save_for_backward(flat)
        ctx.rule = (constants, (steps, n, n if given == steps else 0))
        made = len(x) // given * steps
        spikes = torch.empty(made, *x.shape[1:], dtype=x.dtype, memory_format=memory_order(x))
        kernels.call("iir_forward", x.dtype, *ctx.rule[1], flat, *constants[:-1], spikes)
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (flat,) = ctx.saved_tensors
        constants, sizes = ctx.rule
        incoming, grad = dense(grads[0].to(flat.dtype)), torch.empty_like(flat)
        kernels.call("iir_backward", flat.dtype, *sizes, flat, *constants, incoming, grad)
        return grad, None, None, None


class _Fired(torch.autograd.Function):
    """Currents, as of :class:`_Spikes`, to the potentials of their spikes, the largest of pool x
    pool pixels."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a1: Tensor,
        a2: Tensor,
        b0: Tensor,
        rule: tuple[Constants, int, int, int],
    ) -> Any:
        constants, given, steps, pool = rule
        flat = dense(x)
        coefficients = [dense(c[None]).to(real(x.dtype)) for c in (a1, a2, b0)]
        ctx.save_for_backward(flat, *coefficients)
        rows, size = len(x) // given, a1.numel()
        height, width, channels = (1, 1, size) if pool == 1 else (*x.shape[2:], x.shape[1])
        apart = rows * size if given == steps else 0
        ctx.rule = (constants, (steps, rows, height, width, channels, pool, apart))
        made = x.shape[1:] if pool == 1 else (channels, height // pool, width // pool)
        psp = torch.empty(rows * steps, *made, dtype=x.dtype, memory_format=memory_order(x))
        kernels.call(
            "fired_forward", x.dtype, *ctx.rule[1], flat, *constants[:-1], *coefficients, psp
        )
        return psp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        flat, *coefficients = ctx.saved_tensors
        constants, sizes = ctx.rule
        incoming, first = dense(grads[0].to(flat.dtype)), coefficients[0]
        _, _, height, width, _, pool, _ = sizes
        rest = height % pool or width % pool  # pixels outside of all windows
        grad = torch.zeros_like(flat) if rest else torch.empty_like(flat)
        sums = dense(torch.zeros(3, *first.shape[1:], dtype=torch.float64))
        kernels.call(
            "fired_backward", flat.dtype, *sizes, flat, *constants, *coefficients, incoming, grad,
            sums,
        )  # fmt: skip
        return grad, *sums.to(first.dtype), None


def potentials(x: Tensor, a1: Tensor, a2: Tensor, b0: Tensor) -> Tensor:
    """``F[t] = a1 F[t-1] + a2 F[t-2] + b0 x[t]`` of ``[T, B, ...]``, coefficients ``[...]``."""
    psp: Tensor = _Potentials.apply(x, a1, a2, b0)
    return psp


def spikes(x: Tensor, constants: Constants, steps: int | None = None) -> Tensor:
    """Spikes ``[T, B, ...]`` of the neuron.

    Args:
        x: its currents ``[T, B, ...]``, or ``[B, ...]`` with ``steps``.
        constants: of the neuron.
        steps: T, of currents that are the same in all of them.
    """
    flat, given, steps = _over_steps(x, steps)
    out: Tensor = _Spikes.apply(flat, constants, given, steps).unflatten(0, (steps, -1))
    return out


def fired(
    x: Tensor,
    constants: Constants,
    coefficients: tuple[Tensor, Tensor, Tensor],
    steps: int | None = None,
    pool: int = 1,
) -> Tensor:
    """:func:`potentials` of :func:`spikes`, without the spikes in memory.

    Args:
        x, constants, steps: see :func:`spikes`.
        coefficients: a1, a2 and b0, ``[...]``.
        pool: side of windows of which the largest potential is taken: 2 for images, else 1.
    """
    flat, given, steps = _over_steps(x, steps)
    psp: Tensor = _Fired.apply(flat, *coefficients, (constants, given, steps, pool))
    over_time: Tensor = psp.unflatten(0, (steps, -1))
    return over_time


def _over_steps(x: Tensor, steps: int | None) -> tuple[Tensor, int, int]:
    """Currents with their steps merged into the batch, for how many steps they are, and T."""
    return (x.flatten(0, 1), len(x), len(x)) if steps is None else (x, 1, steps)
