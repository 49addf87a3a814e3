"""How far a layer's integers are from its floats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapping.chip.neurons import Lif, subtracts
from mapping.chip.segment import Population
from mapping.integers.rounding import FloatLayer, Floats, kept_of_current, kept_of_membrane
from mapping.integers.scales import membrane_reach
from mapping.targets.schema import Registers


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a quantised population is from its float layer, in thresholds.

    Args:
        weight: the largest error of one weight.
        current: the largest possible error of the current of one step, over all input spikes.
        bias: the largest error of a bias, for one step.
        decay: the largest error of a factor that decays a membrane.
        membrane: a bound on the membrane's error after the last step, as long as every spike
            so far was the float layer's and no register overflowed.
        clipped: weights and biases that were out of range, and are further off than rounding is.
        mismatch: the part of the spikes on the calibration images that are not the float layer's,
            in [0, 1]; None if nobody measured it.
        current_decay: the largest error of a factor that decays a current.
        threshold: the largest error of a threshold among those of a channel.
        written: the largest error of a bias that the host writes, for one step, where it is no
            larger than on the calibration data.
    """

    weight: float
    current: float
    bias: float
    decay: float
    membrane: float
    clipped: int = 0
    mismatch: float | None = None
    current_decay: float = 0.0
    threshold: float = 0.0
    written: float = 0.0


EXACT = LayerError(0.0, 0.0, 0.0, 0.0, 0.0)
"""Of neurons whose integers are no rounded floats."""


def layer_error(
    layer: FloatLayer,
    population: Population,
    clipped: int,
    registers: Registers,
    mismatch: float | None = None,
) -> LayerError:
    """How far a population is from the layer that it was rounded from.

    Args:
        layer: in thresholds; its tensors on the CPU.
        population: its integers, with one bias a channel.
        clipped: weights and biases that are further off than rounding is.
        registers: the target's.
        mismatch: the part of its spikes that differ on calibration images, if it was measured.
    """
    neuron = population.neuron
    assert isinstance(neuron, Lif)
    channels = len(layer.bias)
    each = np.broadcast_to(neuron.threshold, population.shape).reshape(channels, -1)
    threshold, given_bias = each.max(1), neuron.bias.reshape(-1)
    relative = np.broadcast_to(layer.threshold, population.shape).reshape(channels, -1)
    threshold_error = float(np.abs(relative - each / threshold[:, None]).max())
    weights = [weight.numpy() for weight in layer.weights]
    bias = layer.bias.numpy()
    unit = threshold * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
    effective = [
        s.weight * 2.0**s.weight_exp / unit.reshape(-1, *(1,) * (s.weight.ndim - 1))
        for s in population.synapses
    ]
    differences = [w - e for w, e in zip(weights, effective, strict=True)]
    current = layer.worst_current(differences)
    steps_per_threshold = threshold * 2.0**registers.threshold_shift
    resolution = float(np.max(1 / steps_per_threshold))
    effective_bias = given_bias * 2.0 ** int(neuron.bias_exp) / steps_per_threshold
    bias_error = float(np.abs(bias - effective_bias).max(initial=0))
    kept_u, kept_v = (
        kept_of_current(layer.alpha, registers),
        kept_of_membrane(layer.beta, registers),
    )
    current_decay, decay = np.abs(layer.alpha - kept_u), np.abs(layer.beta - kept_v)
    # What lasts, current or membrane, is rounded towards zero in each step, and what it was
    # before is within what the steps before could have added.
    worst, largest_bias = layer.worst_current(weights), float(np.abs(bias).max(initial=0))
    largest_bias += layer.written or 0.0
    reaches = membrane_reach(layer, worst, largest_bias)[:-1]
    lost = np.where(kept_u > 0, resolution, 0.0)
    written = _written_error(layer, neuron, steps_per_threshold, registers)
    constant = bias_error + written + (threshold_error if subtracts(layer.reset) else 0.0)
    error = arriving = held = np.zeros(())
    for reach in reaches:
        arriving = arriving * kept_u + current_decay * held + lost + current
        held = held * layer.alpha + worst
        error = error * kept_v + decay * reach + resolution + arriving + constant
    return LayerError(
        weight=max((float(np.abs(d).max(initial=0)) for d in differences), default=0.0),
        current=current,
        bias=bias_error,
        decay=float(np.max(decay)),
        membrane=float(np.max(error)),
        clipped=clipped,
        mismatch=mismatch,
        current_decay=float(np.max(current_decay)),
        threshold=threshold_error,
        written=written,
    )


def _written_error(layer: FloatLayer, neuron: Lif, unit: Floats, registers: Registers) -> float:
    """The largest error of a written bias in thresholds: rounding, and what is clipped.

    Args:
        layer: in thresholds.
        neuron: its integers.
        unit: of the membrane's register in a threshold of each channel.
        registers: the target's.
    """
    if layer.written is None:
        return 0.0
    step = 2.0 ** int(neuron.bias_exp) / unit
    room = min(registers.bias_max, -registers.bias_min) - np.abs(neuron.bias.reshape(-1))
    return float(np.maximum(step / 2, layer.written - room * step).max())
