"""The largest scale of a layer at which all its integers are in range."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from has8.errors import BadInput
from mapping.chip.arithmetic import largest_state
from mapping.chip.grid import weight_grid
from mapping.chip.neurons import subtracts
from mapping.integers.rounding import FloatLayer, Floats, Integers, Scale, to_integers
from mapping.partition.segments import KEEP
from mapping.targets.schema import Registers

FINE_THRESHOLD = 256
"""A threshold mantissa that is fine enough: truncation then costs 1/16384 threshold a step at
most, and a larger one only brings the membrane nearer to its register's limit."""


def at_largest_scale(layer: FloatLayer, name: str, registers: Registers, bits: int) -> Integers:
    """The layer rounded at the largest scale that keeps weights, biases and currents in range.

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
    bias = layer.bias.detach().abs().numpy() + (layer.written or 0.0)
    modes = tuple(_sign_mode(weight, registers) for weight in weights)
    grids = [weight_grid(registers, bits, mode) for mode in modes]
    most = largest_state(registers.state_bits)
    threshold = 0
    for exponent in range(max(0, registers.weight_exp_min), registers.weight_exp_max + 1):
        found = _threshold(layer, weights, bias, grids, registers, exponent)
        threshold = max(threshold, found)
        if threshold >= fine_threshold(layer):
            break
    threshold = _with_headroom(layer, weights, bias, threshold, registers)
    while threshold >= 1:
        unit = threshold * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
        exponents = tuple(
            _exponent(weight * unit, low, high)
            for weight, (low, high, _) in zip(weights, grids, strict=True)
        )
        scale = Scale((threshold,) * len(bias), exponents, modes)
        integers = to_integers(layer, scale, registers, bits)
        if integers.worst <= most:
            return integers
        threshold = threshold * most // (integers.worst + 1)  # a coarse grid rounded up
    raise BadInput(
        f"layer {name!r} cannot be quantised to {bits}-bit weights: no scale keeps its weights "
        f"(signs: {', '.join(modes)}), bias and currents in range; use more weight bits, or keep "
        f"the layer on the host"
    )


def _threshold(
    layer: FloatLayer,
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
    worst = layer.worst_current(weights)
    if worst > 0:  # no input may make the current wrap around
        reach = layer.current_reach(registers)
        limits.append(largest_state(registers.state_bits) / (worst * reach * unit * shift))
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
    reach = membrane_reach(layer, layer.worst_current(weights), float(np.abs(bias).max(initial=0)))[
        -1
    ]
    if reach * threshold * 2**registers.threshold_shift <= largest_state(registers.state_bits):
        return threshold
    fits = int(largest_state(registers.state_bits) / (reach * 2**registers.threshold_shift))
    return min(threshold, max(fine_threshold(layer), fits))


def fine_threshold(layer: FloatLayer) -> int:
    """A mantissa in whose units a spike's weight is fine enough, with the largest payload too."""
    return FINE_THRESHOLD * max(layer.payloads, default=1)


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


def membrane_reach(layer: FloatLayer, current: float, bias: float) -> list[float]:
    """The largest possible |membrane| before each step, and after the last, in thresholds.

    Args:
        layer: whose neurons; of several constants those count that let it go furthest.
        current: the largest |current| that arrives in a step.
        bias: the largest |bias|.
    """
    # A reset by subtraction can take a membrane below zero: from just above the threshold to so
    # much below what then is left of it.
    alpha, beta = float(np.max(layer.alpha)), float(np.max(layer.beta))
    below = 1 - float(np.min(layer.beta)) if subtracts(layer.reset) else 0.0
    arriving, reach = 0.0, [0.0]
    for _ in range(layer.steps):
        arriving = arriving * alpha + current
        reach.append(max(reach[-1] * beta, below) + (arriving + bias))
    return reach


def unclipped(layer: FloatLayer, name: str, registers: Registers, bits: int) -> Integers:
    """The layer rounded at the largest scale at which nothing is clipped.

    Args:
        layer: in thresholds; its tensors on the CPU.
        name: the population's, for the error.
        registers: the target's.
        bits: width of the grid's weights.

    Raises:
        BadInput: if there is none.
    """
    integers = at_largest_scale(layer, name, registers, bits)
    if integers.clipped:
        raise BadInput(
            f"layer {name!r} cannot be quantised to {bits}-bit weights (signs: "
            f"{', '.join(integers.scale.sign_modes)}) without clipping some to 0: use more weight "
            f"bits, search for scales, or {KEEP.format(name)}"
        )
    return integers
