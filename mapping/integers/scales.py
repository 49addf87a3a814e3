"""From floats to legal integers: a small frozen value says how, rounding is a pure function of it.

Everything here works on torch tensors in float64, so that training can pass gradients through the
very rounding that mapping does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from has8.errors import BadInput
from mapping.chip.grid import weight_grid
from mapping.graph.ir import Node
from mapping.targets.schema import Registers

Floats = NDArray[np.float64]
Method = Literal["round", "search"]
METHODS: tuple[Method, ...] = ("round", "search")
"""The largest scale at which everything is in range; the one that changes the fewest spikes."""

FINE_THRESHOLD = 256
"""A threshold mantissa that is fine enough: truncation then costs 1/16384 threshold a step at
most, and a larger one only brings the membrane nearer to its register's limit."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How one population's floats become integers.

    Args:
        thresholds: the mantissa of each channel's threshold, at least 1.
        exponents: of the weights of each synapse.
        sign_modes: of each synapse, "mixed", "excitatory" or "inhibitory".
    """

    thresholds: tuple[int, ...]
    exponents: tuple[int, ...]
    sign_modes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FloatLayer:
    """A population in thresholds: gain applied, divided by the threshold.

    Args:
        synapses: the nodes that it comes from.
        weights: of each synapse, ``float64[C, ...]``.
        bias: the sum of their biases, ``float64[C]``.
        beta: what is left of the membrane after a step.
        steps: of a sample.
    """

    synapses: tuple[Node, ...]
    weights: tuple[Tensor, ...]
    bias: Tensor
    beta: float
    steps: int


def float_layer(synapses: Sequence[Node], neuron: Node) -> FloatLayer:
    """The synapses and the neuron that they drive; gradients pass to the nodes' tensors."""
    factor = neuron.attrs["gain"] / neuron.attrs["threshold"]
    weights = tuple(node.tensors["weight"].double() * factor for node in synapses)
    bias = weights[0].new_zeros(len(weights[0]))
    for node in synapses:
        if "bias" in node.tensors:
            bias = bias + node.tensors["bias"].double() * factor
    assert neuron.type.steps is not None
    return FloatLayer(tuple(synapses), weights, bias, neuron.attrs["beta"], neuron.type.steps)


@dataclass(frozen=True, slots=True)
class Integers:
    """A population's integers, as whole numbers in float64.

    Args:
        weights: mantissas of each synapse, on the target's grid.
        bias: mantissas, ``[C]``.
        bias_exp: their common exponent.
        clipped: weights that are further off than rounding explains, and biases out of range.
        worst: the largest possible |current|, in units of the register, before weights had to
            shrink lest it wrap around.
    """

    weights: tuple[Tensor, ...]
    bias: Tensor
    bias_exp: int
    clipped: int
    worst: int


class _Round(torch.autograd.Function):
    """Rounding to whole numbers, halves to even, that passes gradients straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def _rounded(x: Tensor) -> Tensor:
    whole: Tensor = _Round.apply(x)
    return whole


def to_integers(layer: FloatLayer, scale: Scale, registers: Registers, bits: int) -> Integers:
    """Round a layer to integers that are legal on the target whatever the scale.

    Weights go to the nearest point of the grid, and those beyond its ends to the ends. The weights
    of a channel whose current could still wrap around all shrink, towards zero. Gradients pass
    straight through rounding; what is clipped gets none.

    Args:
        layer: in thresholds.
        scale: one threshold for each channel of the layer, the rest for each synapse.
        registers: the target's.
        bits: width of the grid's weights.
    """
    thresholds = layer.bias.new_tensor(scale.thresholds)
    unit = thresholds * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
    weights, clipped = [], 0
    worst = torch.zeros_like(thresholds)
    for weight, exponent, mode in zip(
        layer.weights, scale.exponents, scale.sign_modes, strict=True
    ):
        low, high, step = weight_grid(registers, bits, mode)
        scaled = weight * unit.view(-1, *(1,) * (weight.dim() - 1)) / 2**exponent / step
        mantissa = _rounded(scaled.clamp(low // step, high // step)) * step
        clipped += int(((scaled * step - mantissa).detach().abs() > step / 2).sum())
        weights.append(mantissa)
        worst += mantissa.detach().abs().flatten(1).sum(1) * 2**exponent
    limit = most_current(registers) >> registers.synapse_shift
    if bool((worst > limit).any()):
        weights = [
            _shrunk(mantissa, (limit / worst).clamp(max=1), weight_grid(registers, bits, mode)[2])
            for mantissa, mode in zip(weights, scale.sign_modes, strict=True)
        ]
        clipped += sum(int(w[worst > limit].numel()) for w in weights)
    bias, bias_exp, outside = _bias(
        layer.bias * thresholds * 2.0**registers.threshold_shift, registers
    )
    largest = int(worst.max()) << registers.synapse_shift
    return Integers(tuple(weights), bias, bias_exp, clipped + outside, largest)


def most_current(registers: Registers) -> int:
    """The largest current, and the largest membrane, that the registers hold either way."""
    return (1 << (registers.state_bits - 1)) - 1


def _shrunk(mantissa: Tensor, factor: Tensor, step: int) -> Tensor:
    """Each channel times its factor, to the grid's next point towards zero."""
    smaller = (mantissa.detach() * factor.view(-1, *(1,) * (mantissa.dim() - 1)) / step).trunc()
    return mantissa + (smaller * step - mantissa.detach())  # whole numbers: exact


def _bias(scaled: Tensor, registers: Registers) -> tuple[Tensor, int, int]:
    """Mantissas, the smallest common exponent at which they are in range, how many never are."""
    largest = min(registers.bias_max, -registers.bias_min)
    most = float(scaled.detach().abs().max()) if len(scaled) else 0.0
    exponent = 0
    while exponent < registers.bias_exp_max and round(most / 2**exponent) > largest:
        exponent += 1
    exact = scaled / 2**exponent
    outside = int((exact.detach().round().abs() > largest).sum())
    return _rounded(exact.clamp(-largest, largest)), exponent, outside


def largest_scale(layer: FloatLayer, name: str, registers: Registers, bits: int) -> Scale:
    """The largest scale at which all weights, biases and currents are in range.

    A weight exponent makes a coarse threshold finer; a fine one is lowered as far as needed for
    the membrane never to reach its register's limit. Signs that the grid does not have (one bit
    of mixed signs stands for 0 and -256) are left out of account.

    Args:
        layer: in thresholds; of tensors on the CPU.
        name: of the population, for the error.
        registers: the target's.
        bits: width of the grid's weights.

    Raises:
        BadInput: if there is none.
    """
    weights = tuple(weight.detach().numpy() for weight in layer.weights)
    bias = layer.bias.detach().numpy()
    modes = tuple(_sign_mode(weight, registers) for weight in weights)
    grids = [weight_grid(registers, bits, mode) for mode in modes]
    threshold = 0
    for exponent in range(max(0, registers.weight_exp_min), registers.weight_exp_max + 1):
        threshold = max(threshold, _threshold(weights, bias, grids, registers, exponent))
        if threshold >= FINE_THRESHOLD:
            break
    threshold = _with_headroom(layer, weights, bias, threshold, registers)
    while threshold >= 1:
        unit = threshold * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
        exponents = tuple(
            _exponent(weight * unit, low, high)
            for weight, (low, high, _) in zip(weights, grids, strict=True)
        )
        scale = Scale((threshold,) * len(bias), exponents, modes)
        worst = to_integers(layer, scale, registers, bits).worst
        if worst <= most_current(registers):
            return scale
        threshold = threshold * most_current(registers) // (worst + 1)  # a coarse grid rounded up
    raise BadInput(
        f"layer {name!r} cannot be quantised to {bits}-bit weights: no scale keeps its weights "
        f"(signs: {', '.join(modes)}), bias and currents in range; use more weight bits, or keep "
        f"the layer on the host"
    )


def _threshold(
    weights: Sequence[Floats],
    bias: Floats,
    grids: Sequence[tuple[int, int, int]],
    registers: Registers,
    exponent: int,
) -> int:
    """The largest threshold mantissa at which weights, bias and worst-case current fit."""
    limits = [float(registers.threshold_max)]
    shift = 1 << registers.synapse_shift
    unit = (1 << registers.threshold_shift) / shift  # weight units of one threshold unit
    for weight, (low, high, _) in zip(weights, grids, strict=True):
        for bound, extreme in ((high, weight.max(initial=0)), (-low, -weight.min(initial=0))):
            if extreme > 0 and bound:
                limits.append(bound * 2**exponent / (extreme * unit))
    worst = worst_current(weights)
    if worst > 0:  # no input may make the current wrap around
        limits.append(most_current(registers) / (worst * unit * shift))
    largest_bias = float(np.abs(bias).max(initial=0))
    if largest_bias > 0:
        mantissa = min(registers.bias_max, -registers.bias_min)
        limits.append((mantissa << registers.bias_exp_max) / (largest_bias * unit * shift))
    return math.floor(min(limits))


def _with_headroom(
    layer: FloatLayer,
    weights: Sequence[Floats],
    bias: Floats,
    threshold: int,
    registers: Registers,
) -> int:
    """A lower threshold where a fine one would let the membrane reach its register's limit."""
    drive = worst_current(weights) + float(np.abs(bias).max(initial=0))
    reach = drive * sum(float(layer.beta**step) for step in range(layer.steps))
    if reach * threshold * 2**registers.threshold_shift <= most_current(registers):
        return threshold
    fits = int(most_current(registers) / (reach * 2**registers.threshold_shift))
    return min(threshold, max(FINE_THRESHOLD, fits))


def _exponent(scaled: Floats, low: int, high: int) -> int:
    """The smallest exponent, at least 0, at which all scaled weights are in range."""
    exponent = 0
    while (high and scaled.max(initial=0) > high * 2**exponent) or (
        low and scaled.min(initial=0) < low * 2**exponent
    ):
        exponent += 1
    return exponent


def _sign_mode(weights: Floats, registers: Registers) -> str:
    """The mode with the finest grid that holds all weights."""
    if weights.min(initial=0) >= 0 and "excitatory" in registers.sign_modes:
        return "excitatory"
    if weights.max(initial=0) <= 0 and "inhibitory" in registers.sign_modes:
        return "inhibitory"
    return "mixed"


def worst_current(weights: Sequence[Floats]) -> float:
    """The largest sum of absolute weights into one neuron."""
    per_output = sum(np.abs(w).reshape(len(w), -1).sum(1) for w in weights)
    return float(np.max(per_output))


def membrane_decay(beta: float, registers: Registers) -> int:
    """The decay register that leaves ``beta`` of the membrane, as nearly as there is one."""
    full = 1 << registers.decay_bits
    nearest = round((1 - beta) * full) - registers.membrane_decay_offset
    return min(max(nearest, 0), full - 1)


Scales = Mapping[str, Scale]
"""By the population's name."""
