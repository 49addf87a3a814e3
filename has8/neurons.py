"""snnTorch neurons that run a whole time-first tensor."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor

from has8.errors import BadInput, CheckpointError
from has8.kernels import fused, paths
from has8.kernels.storage import real
from has8.scalars import scalar

ATAN_ALPHA = 2.0
"""Width of the arctan surrogate (HAS-8, below equation 22)."""

NEURONS: dict[str, tuple[float, float]] = {"lif": (0.5, 0.5), "if": (1.0, 1.0)}
"""(beta, gain) of the neurons that HAS-8 names: the paper's IF and the released LIF, tau = 2."""


@torch.no_grad()
def leaky(
    currents: Tensor, beta: Tensor | float, threshold: Tensor | float, gain: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Leaky integrate and fire with reset to zero over all steps, without a gradient.

    Starting from ``v = 0``, each step does ``v = beta v + gain i``, fires for ``v > threshold``,
    and then clears the membranes that fired: ``v = (1 - s) v``. These are the operations of
    ``snn.Leaky`` in their order, so that results are equal to its, bit for bit. Compiled kernels
    (:mod:`has8.kernels.fused`) compute the same in one pass.

    Args:
        currents: inputs i of all steps, ``[T, B, ...]``.
        beta: part of the membrane that is left after a step; one number, as are the others.
        threshold: the neuron fires when its membrane is above it.
        gain: factor on the input.

    Returns:
        Membranes v before their reset, and spikes s of 0.0 and 1.0, each ``[T, B, ...]``.
    """
    membranes, spikes = torch.empty_like(currents), torch.empty_like(currents)
    membrane = torch.zeros_like(currents[0])
    for t, current in enumerate(currents):
        drive = current if gain == 1 else current * gain
        torch.add(membrane * beta, drive, out=membranes[t])
        torch.gt(membranes[t], threshold, out=spikes[t])
        membrane = (1 - spikes[t]) * membranes[t]
    return membranes, spikes


class _Run(torch.autograd.Function):
    """:func:`leaky` with the arctan surrogate as its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, beta: Tensor | float, threshold: Tensor | float, alpha: float
    ) -> Any:
        membranes, spikes = leaky(x, beta, threshold)
        ctx.save_for_backward(membranes, spikes)
        ctx.constants = (beta, threshold, alpha)
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        membranes, spikes = ctx.saved_tensors
        beta, threshold, alpha = ctx.constants
        grad_x = torch.empty_like(membranes)
        later: Tensor | None = None
        for t in reversed(range(len(membranes))):
            slope = (
                alpha / 2 / (1 + (torch.pi / 2 * alpha * (membranes[t] - threshold)).pow_(2))
            ) * grads[0][t]
            if later is not None:
                slope += later * beta * (1 - spikes[t])
            grad_x[t] = later = slope
        return grad_x, None, None, None


def _arctan(x: Tensor, alpha: float) -> Tensor:
    """snnTorch's surrogate as a function that can be pickled."""
    spikes: Tensor = surrogate.ATan.apply(x, alpha)
    return spikes


class Leaky(snn.Leaky):  # type: ignore[misc]
    """``snntorch.Leaky`` with reset to zero, over a tensor of all steps.

    Equal, forward and backward, to stepping ``snn.Leaky(beta, threshold,
    reset_mechanism="zero")`` from a cleared membrane, but without a graph node per operation.
    snnTorch resets before it integrates, so this is a hard reset right after the spike, which
    is what Loihi's LIF does; both fire for ``membrane > threshold``, strictly. No state
    outlives a forward.

    Args:
        beta: part of the membrane that is left after a step, in [0, 1].
        threshold: the neuron fires when its membrane is above it; positive.
        gain: factor on the input; with ``beta = gain = 1/2`` this is the released HAS-8 LIF,
            ``v += (x - v) / 2``.
        alpha: width of the arctan surrogate ``(alpha/2) / (1 + (pi alpha (v - threshold)/2)^2)``.

    The buffers ``beta`` and ``threshold``, 32-bit floats that ``state_dict`` holds, are what runs.
    They are constants: no gradient reaches them.

    Raises:
        BadInput: if a constant is out of range.
    """

    beta: Tensor
    threshold: Tensor
    _known: tuple[tuple[Tensor, Tensor], object, tuple[float, float]] | None = None

    def __init__(
        self,
        beta: float = 0.5,
        threshold: float = 1.0,
        gain: float = 1.0,
        alpha: float = ATAN_ALPHA,
    ) -> None:
        beta, threshold, gain, alpha = (
            _number(name, value)
            for name, value in (
                ("beta", beta), ("threshold", threshold), ("gain", gain), ("alpha", alpha)
            )
        )  # fmt: skip
        _check(beta, threshold)
        if not (math.isfinite(gain) and 0 < alpha < math.inf):
            raise BadInput(
                f"a neuron needs a finite gain and a positive alpha, not gain={gain}, alpha={alpha}"
            )
        with torch.device("cpu"):  # snnTorch reads its own constants, which "meta" does not have
            super().__init__(
                beta,
                threshold=threshold,
                spike_grad=partial(_arctan, alpha=alpha),
                reset_mechanism="zero",
            )
        self.to(torch.get_default_device())
        # snnTorch keeps every neuron ever made in a list; it would keep models alive.
        snn.SpikingNeuron.instances.remove(self)
        self.gain, self.alpha = gain, alpha

    @property
    def constants(self) -> tuple[float, float]:
        """(beta, threshold) as floats, as the buffers have them.

        Raises:
            BadInput: if they are out of range, one for each neuron, or to be learned.
        """
        tensors = (self.beta, self.threshold)
        # Reading from a GPU makes the CPU wait for it, so there it is done once for each change.
        changes = (
            None
            if self.beta.device.type == "cpu" or any(t.is_inference() for t in tensors)
            else tuple((t.dtype, t._version) for t in tensors)
        )
        known = self._known
        if known and changes == known[1] and all(map(operator.is_, tensors, known[0])):
            return known[2]
        if any(t.requires_grad for t in tensors):
            raise BadInput(
                "beta and threshold of has8's Leaky are constants, which no gradient reaches: "
                "set requires_grad to False for them"
            )
        values = (_number("beta", self.beta), _number("threshold", self.threshold))
        _check(*values)
        if changes:
            self._known = (tensors, changes, values)
        return values

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Refuse what this neuron cannot compute.

        Raises:
            CheckpointError: for constants out of range, one for each neuron, another reset, or
                graded spikes.
        """
        beta, threshold, reset, factor = (
            scalar(state_dict, prefix + name, default)
            for name, default in (
                ("beta", 0.5), ("threshold", 1.0), ("reset_mechanism_val", 1.0),
                ("graded_spikes_factor", 1.0),
            )
        )  # fmt: skip
        try:
            _check(beta, threshold)
        except BadInput as error:
            raise CheckpointError(
                f"the weights of {prefix.rstrip('.')!r} do not fit: {error}"
            ) from None
        if reset != snn.SpikingNeuron.reset_dict["zero"] or factor != 1:
            raise CheckpointError(
                f"{prefix.rstrip('.')!r} was trained with another reset or with graded spikes, and "
                "has8's Leaky resets to zero and sends spikes of 1: train it with those"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Currents ``[T, B, ...]`` to spikes ``[T, B, ...]`` of 0.0 and 1.0."""
        if paths.usable(x):
            return fused.spikes(x.flatten(0, 1), len(x), self.fused_constants)
        dtype, x = x.dtype, x.to(real(x.dtype))  # a membrane needs more than 8 bits
        symbolic = torch.compiler.is_compiling() or self.beta.is_meta
        beta, threshold = (self.beta, self.threshold) if symbolic else self.constants
        spikes: Tensor = _Run.apply(
            x if self.gain == 1 else x * self.gain, beta, threshold, self.alpha
        )
        return spikes.to(dtype)

    @property
    def fused_constants(self) -> fused.Constants:
        """All constants, as the compiled kernels take them."""
        return fused.Constants(*self.constants, self.gain, self.alpha)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        beta, threshold = (None, None) if self.beta.is_meta else self.constants
        return f"beta={beta}, threshold={threshold}, gain={self.gain}"


def _check(beta: float, threshold: float) -> None:
    if not (0 <= beta <= 1 and 0 < threshold < math.inf):
        raise BadInput(
            f"a neuron needs beta in [0, 1] and a positive threshold, "
            f"not beta={beta}, threshold={threshold}"
        )


def _number(name: str, value: Any) -> float:
    """One number as a float.

    Raises:
        BadInput: if it is none, or several.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"a neuron needs one number as its {name}, not {value!r}") from error


def make_neuron(name: str) -> Leaky:
    """A neuron of HAS-8 by name: "lif" (released code) or "if" (the paper's equation 22).

    Raises:
        BadInput: for another name.
    """
    if name not in NEURONS:
        raise BadInput(f"neuron must be one of {', '.join(sorted(NEURONS))}, not {name!r}")
    beta, gain = NEURONS[name]
    return Leaky(beta=beta, gain=gain)
