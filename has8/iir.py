"""Spiking layers as infinite impulse response filters (Fang 2020, Muramatsu & Yu 2021).

Equation 1 of the latter: ``V[t] = lambda V[t-1] + I[t] - Vth R[t]``, ``I[t] = W F[t]``,
``R[t] = theta R[t-1] + O[t-1]``, a spike ``O[t]`` for ``V[t] > Vth``. F is the postsynaptic
potential of each input, here of the dual exponential: ``F[t] = a1 F[t-1] + a2 F[t-2] + b0 O[t]``.

With coefficients that all inputs share, filter and weights may change places, and a pole of the
filter may go to the membrane: such a layer is a current-based LIF whose spikes take the threshold
off after the decay, which chips have. Coefficients of each input, which training changes, cannot.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from has8.errors import BadInput
from has8.kernels import iir, paths
from has8.kernels.storage import real

TAU_M, TAU_S, SIGMA = 4.0, 1.0, 0.4
"""Steps of the two decays, and the surrogate's deviation, of both papers' released code."""


def dual_exponential(tau_m: float = TAU_M, tau_s: float = TAU_S) -> tuple[float, float, float]:
    """(a1, a2, b0) of the filter with response ``A^(n+1) - B^(n+1)`` to a spike n steps ago.

    A is ``exp(-1 / tau_m)`` and B is ``exp(-1 / tau_s)``.

    Args:
        tau_m: steps in which the slower part falls to 1/e.
        tau_s: steps in which the faster part does; above 0 and below ``tau_m``.

    Raises:
        BadInput: for other decays.
    """
    slow, fast = _decays(tau_m, tau_s)
    return slow + fast, -slow * fast, slow - fast


def potentials(x: Tensor, a1: Tensor | float, a2: Tensor | float, b0: Tensor | float) -> Tensor:
    """Postsynaptic potentials, step by step: ``F[t] = a1 F[t-1] + a2 F[t-2] + b0 x[t]``.

    Args:
        x: spikes or values of all steps, ``[T, B, ...]``.
        a1, a2, b0: coefficients, numbers or tensors that broadcast over ``[...]``.

    Returns:
        F, ``[T, B, ...]``, zero before the first step.
    """
    before = earlier = torch.zeros_like(x[0])
    psp = []
    for arriving in x:
        before, earlier = a1 * before + a2 * earlier + b0 * arriving, before
        psp.append(before)
    return torch.stack(psp)


class _Fire(torch.autograd.Function):
    """Spikes of membranes less their threshold; the slope is that of noise (equation 6)."""

    @staticmethod
    def forward(ctx: Any, over: Tensor, sigma: float) -> Any:
        ctx.save_for_backward(over)
        ctx.sigma = sigma
        return (over > 0).to(over.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (over,) = ctx.saved_tensors
        bell = torch.exp(-0.5 * (over / ctx.sigma) ** 2) / (math.sqrt(2 * math.pi) * ctx.sigma)
        return grads[0] * bell, None


def stepped(x: Tensor, constants: iir.Constants) -> tuple[Tensor, Tensor]:
    """The neuron of :class:`IIR` step by step; gradients pass through its resets too.

    Args:
        x: what arrives, ``[T, B, ...]``.
        constants: the neuron's.

    Returns:
        Membranes in which spikes are decided, and spikes of 0 and 1, each ``[T, B, ...]``.
    """
    gain, alpha, beta, theta, threshold, sigma = constants
    current = membrane = trace = fired = torch.zeros_like(x[0])
    membranes, spikes = [], []
    for arriving in x:
        current = current * alpha + arriving * gain
        trace = trace * theta + fired
        membrane = membrane * beta + current - trace * threshold
        fired = _Fire.apply(membrane - threshold, sigma)
        membranes.append(membrane)
        spikes.append(fired)
    return torch.stack(membranes), torch.stack(spikes)


class Axon(nn.Module):
    """The filter of each input: spikes, or values, to postsynaptic potentials.

    Its coefficients, one of each kind for each input, are trained from
    :func:`dual_exponential` on. As state of each input they stay off the chip.

    Args:
        shape: of one sample in one step, such as ``(500,)`` or ``(C, H, W)``.
        tau_m, tau_s: see :func:`dual_exponential`.

    Raises:
        BadInput: for other decays.
    """

    def __init__(self, shape: tuple[int, ...], tau_m: float = TAU_M, tau_s: float = TAU_S) -> None:
        super().__init__()
        a1, a2, b0 = dual_exponential(tau_m, tau_s)
        self.a1 = nn.Parameter(torch.full(shape, a1))
        self.a2 = nn.Parameter(torch.full(shape, a2))
        self.b0 = nn.Parameter(torch.full(shape, b0))

    def forward(self, x: Tensor) -> Tensor:
        """``[T, B, *shape] -> [T, B, *shape]``.

        Raises:
            BadInput: for inputs of another shape.
        """
        if x.shape[2:] != self.a1.shape:
            raise BadInput(
                f"this axon filters inputs of shape {tuple(self.a1.shape)}, not "
                f"{tuple(x.shape[2:])}: make the model for images of that size"
            )
        if paths.usable(x) and self.takes(x):
            return iir.potentials(x, self.a1, self.a2, self.b0)
        return potentials(x.to(real(x.dtype)), self.a1, self.a2, self.b0).to(x.dtype)

    def takes(self, x: Tensor, leading: int = 2) -> bool:
        """Whether x has so many dimensions and then the shape, and the coefficients' type."""
        return x.shape[leading:] == self.a1.shape and self.a1.dtype == real(x.dtype)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"shape={tuple(self.a1.shape)}"


class Neuron(nn.Module):
    """:func:`stepped` by its constants."""

    constants: iir.Constants

    def forward(self, x: Tensor) -> Tensor:
        """Currents ``[T, B, ...]`` to spikes ``[T, B, ...]`` of 0.0 and 1.0."""
        if paths.usable(x):
            return iir.spikes(x, self.constants)
        return stepped(x.to(real(x.dtype)), self.constants)[1].to(x.dtype)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return ", ".join(f"{k}={v:.4g}" for k, v in self.constants._asdict().items())


class IIR(Neuron):
    """A neuron whose reset is a trace of its spikes, over a tensor of all steps.

    ``I[t] = alpha I[t-1] + gain x[t]``, ``R[t] = theta R[t-1] + O[t-1]``,
    ``V[t] = beta V[t-1] + I[t] - threshold R[t]``, from cleared state; it fires for
    ``V > threshold``, strictly. :func:`stepped` is the definition. The defaults are the papers'
    neuron, which an :class:`Axon` feeds.

    Args:
        theta, beta, alpha: parts of the reset trace, of the membrane and of the current that are
            left after a step, in [0, 1].
        gain: factor on the input, positive.
        threshold: positive.
        sigma: deviation of the Gaussian whose density, at the membrane over the threshold, is the
            surrogate slope (equation 6).

    Raises:
        BadInput: if a constant is out of range.
    """

    def __init__(
        self,
        theta: float = math.exp(-1 / TAU_M),
        beta: float = 0.0,
        alpha: float = 0.0,
        gain: float = 1.0,
        threshold: float = 1.0,
        sigma: float = SIGMA,
    ) -> None:
        super().__init__()
        parts = all(0 <= part <= 1 for part in (theta, beta, alpha))
        scales = all(0 < scale < math.inf for scale in (gain, threshold, sigma))
        if not (parts and scales):
            raise BadInput(
                f"a neuron needs theta, beta and alpha in [0, 1] and gain, threshold and sigma "
                f"above 0, not theta={theta}, beta={beta}, alpha={alpha}, gain={gain}, "
                f"threshold={threshold}, sigma={sigma}"
            )
        self.constants = iir.Constants(gain, alpha, beta, theta, threshold, sigma)


class SharedIIR(Neuron):
    """The papers' neuron with the filter of its inputs in it: a current-based LIF.

    It equals an :class:`Axon` that has the same coefficients for all inputs, weights without a
    bias, and :class:`IIR`; a spike takes the threshold, 1, off the membrane after its decay. A
    bias of its layer is part of the current, and is filtered too.

    Args:
        tau_m, tau_s: see :func:`dual_exponential`.
        direct: whether what arrives goes to the membrane as it is, not through the filter.

    Raises:
        BadInput: for other decays.
    """

    def __init__(self, tau_m: float = TAU_M, tau_s: float = TAU_S, direct: bool = False) -> None:
        super().__init__()
        slow, fast = _decays(tau_m, tau_s)
        alpha, gain = (0.0, 1.0) if direct else (fast, slow - fast)
        self.constants = iir.Constants(gain, alpha, slow, 0.0, 1.0, SIGMA)


def _decays(tau_m: float, tau_s: float) -> tuple[float, float]:
    """What both decays leave after a step."""
    if not 0 < tau_s < tau_m < math.inf:
        raise BadInput(f"decays need 0 < tau_s < tau_m, not tau_m={tau_m}, tau_s={tau_s}")
    return math.exp(-1 / tau_m), math.exp(-1 / tau_s)
