"""From float layers to the chip's integers, and how far they are off.

One scale per population maps the threshold to an integer mantissa exactly; weights are rounded
to the target's grid. The scale is the largest at which all weights are in range; where that
leaves a coarse threshold, a weight exponent buys a finer one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from has8.errors import BadInput
from mapping.ir import Graph, Node
from mapping.partition import Segment, synapses_of
from mapping.segment import ChipSegment, Population, Port, Synapse
from mapping.target import Registers, weight_grid

Floats = NDArray[np.float64]

FINE_THRESHOLD = 256
"""A threshold mantissa that is fine enough: truncation then costs 1/16384 threshold a step at
most, and a larger one only brings the membrane nearer to its register's limit."""


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a quantised population is from its float layer, in thresholds.

    Args:
        weight: the largest error of one weight.
        current: the largest possible error of the current of one step, over all input spikes.
        bias: the largest error of a bias, for one step.
        decay: the error of the factor that decays the membrane.
        membrane: a bound on the membrane's error after the last step, as long as every spike
            so far was the float layer's and no register overflowed.
    """

    weight: float
    current: float
    bias: float
    decay: float
    membrane: float


def quantize(
    graph: Graph, segment: Segment, registers: Registers, *, weight_bits: int = 8
) -> tuple[ChipSegment, dict[str, LayerError]]:
    """The integers of one chip segment; the graph keeps its floats.

    Args:
        graph: after the passes, batch norms folded.
        segment: of side "chip".
        registers: the target's.
        weight_bits: bits of a stored weight, one that the target stores.

    Returns:
        The integer segment, and the error of each population by name.

    Raises:
        BadInput: if a layer is out of range at any scale, or the target has no such weights.
    """
    populations, errors = [], {}
    for name in segment.nodes:
        if graph[name].op == "neuron":
            population, errors[name] = _population(graph, graph[name], registers, weight_bits)
            populations.append(population)
    inputs = [Port(n, graph[n].type.shape) for n in segment.inputs]
    steps = graph[segment.nodes[-1]].type.steps
    assert steps is not None
    outputs = tuple(segment.outputs)
    chip = ChipSegment(segment.name, steps, tuple(inputs), tuple(populations), outputs)
    return chip, errors


@dataclass(frozen=True, slots=True)
class _FloatLayer:
    """A population in thresholds: gain applied, divided by the threshold."""

    synapses: tuple[Node, ...]
    weights: tuple[Floats, ...]
    bias: Floats
    beta: float
    steps: int


def _float_layer(graph: Graph, neuron: Node) -> _FloatLayer:
    synapses = synapses_of(graph, neuron.name)
    assert not isinstance(synapses, str), synapses
    factor = neuron.attrs["gain"] / neuron.attrs["threshold"]
    weights = tuple(s.tensors["weight"].double().numpy() * factor for s in synapses)
    bias = np.zeros(len(weights[0]))
    for synapse in synapses:
        if "bias" in synapse.tensors:
            bias = bias + synapse.tensors["bias"].double().numpy() * factor
    assert neuron.type.steps is not None
    return _FloatLayer(tuple(synapses), weights, bias, neuron.attrs["beta"], neuron.type.steps)


def _population(
    graph: Graph, neuron: Node, registers: Registers, bits: int
) -> tuple[Population, LayerError]:
    layer = _float_layer(graph, neuron)
    modes = [_sign_mode(w, registers) for w in layer.weights]
    threshold = 0
    for exponent in range(max(0, registers.weight_exp_min), registers.weight_exp_max + 1):
        threshold = max(threshold, _threshold(layer, modes, registers, bits, exponent))
        if threshold >= FINE_THRESHOLD:
            break
    threshold = _with_headroom(layer, threshold, registers)
    population = None
    while threshold >= 1 and population is None:
        population = _rounded(layer, neuron, modes, registers, bits, threshold)
        worst = population.most_drive << registers.synapse_shift
        limit = (1 << (registers.state_bits - 1)) - 1
        if worst > limit:  # rounding to a coarse grid went up
            threshold, population = threshold * limit // (worst + 1), None
    if population is None:
        raise BadInput(
            f"layer {neuron.name!r} cannot be quantised to {bits}-bit weights: no scale keeps its "
            f"weights (signs: {', '.join(modes)}), bias and currents in range; use more weight "
            f"bits, or keep the layer on the host"
        )
    return population, _error(layer, population, registers)


def _with_headroom(layer: _FloatLayer, threshold: int, registers: Registers) -> int:
    """A lower threshold where a fine one would let the membrane reach its register's limit."""
    drive = _worst_current(layer.weights) + float(np.abs(layer.bias).max(initial=0))
    reach = drive * sum(float(layer.beta**step) for step in range(layer.steps))
    limit = (1 << (registers.state_bits - 1)) - 1
    if reach * threshold * 2**registers.threshold_shift <= limit:
        return threshold
    fits = int(limit / (reach * 2**registers.threshold_shift))
    return min(threshold, max(FINE_THRESHOLD, fits))


def _sign_mode(weights: Floats, registers: Registers) -> str:
    """The mode with the finest grid that holds all weights."""
    if weights.min(initial=0) >= 0 and "excitatory" in registers.sign_modes:
        return "excitatory"
    if weights.max(initial=0) <= 0 and "inhibitory" in registers.sign_modes:
        return "inhibitory"
    return "mixed"


def _threshold(
    layer: _FloatLayer, modes: list[str], registers: Registers, bits: int, exponent: int
) -> int:
    """The largest threshold mantissa at which weights, bias and worst-case current fit."""
    limits = [float(registers.threshold_max)]
    shift = 1 << registers.synapse_shift
    unit = (1 << registers.threshold_shift) / shift  # weight units of one threshold unit
    for weights, mode in zip(layer.weights, modes, strict=True):
        low, high, _ = weight_grid(registers, bits, mode)
        for bound, extreme in ((high, weights.max(initial=0)), (-low, -weights.min(initial=0))):
            if extreme > 0:
                limits.append(bound * 2**exponent / (extreme * unit))
    worst = _worst_current(layer.weights)
    if worst > 0:  # no input may make the current wrap around
        limits.append(((1 << (registers.state_bits - 1)) - 1) / (worst * unit * shift))
    largest_bias = float(np.abs(layer.bias).max(initial=0))
    if largest_bias > 0:
        mantissa = min(registers.bias_max, -registers.bias_min)
        limits.append((mantissa << registers.bias_exp_max) / (largest_bias * unit * shift))
    return math.floor(min(limits))


def _worst_current(weights: tuple[Floats, ...]) -> float:
    """The largest sum of absolute weights into one neuron."""
    per_output = sum(np.abs(w).reshape(len(w), -1).sum(1) for w in weights)
    return float(np.max(per_output))


def _rounded(
    layer: _FloatLayer,
    neuron: Node,
    modes: list[str],
    registers: Registers,
    bits: int,
    threshold: int,
) -> Population:
    unit = threshold * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
    synapses = []
    for node, weights, mode in zip(layer.synapses, layer.weights, modes, strict=True):
        low, high, step = weight_grid(registers, bits, mode)
        exponent = _exponent(weights * unit, low, high)
        grid = np.round(weights * unit / 2**exponent / step) * step
        mantissa = np.clip(grid, low, high).astype(np.int64)
        attrs = {k: node.attrs[k] for k in sorted(node.attrs)}
        synapses.append(
            Synapse(node.name, node.inputs[0], node.op, attrs, mantissa, exponent, mode, bits)
        )
    bias, bias_exp = _bias(layer.bias * threshold * 2.0**registers.threshold_shift, registers)
    full = 1 << registers.decay_bits
    return Population(
        name=neuron.name,
        shape=neuron.type.shape,
        synapses=tuple(synapses),
        neuron=neuron.attrs["model"],
        threshold=np.full(len(bias), threshold),
        bias=bias,
        bias_exp=bias_exp,
        du=min(full - registers.current_decay_offset, full - 1),
        dv=min(max(round((1 - layer.beta) * full) - registers.membrane_decay_offset, 0), full - 1),
    )


def _exponent(scaled: Floats, low: int, high: int) -> int:
    """The smallest exponent, at least 0, at which all scaled weights are in range."""
    exponent = 0
    while scaled.max(initial=0) > high * 2**exponent or scaled.min(initial=0) < low * 2**exponent:
        exponent += 1
    return exponent


def _bias(scaled: Floats, registers: Registers) -> tuple[NDArray[np.int64], int]:
    """Mantissas and the smallest common exponent at which they are in range."""
    exponent = 0
    largest = min(registers.bias_max, -registers.bias_min)
    while np.abs(np.round(scaled / 2**exponent)).max(initial=0) > largest:
        exponent += 1
    return np.round(scaled / 2**exponent).astype(np.int64), exponent


def _error(layer: _FloatLayer, population: Population, registers: Registers) -> LayerError:
    unit = population.threshold * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
    effective = [
        s.weight * 2.0**s.weight_exp / unit.reshape(-1, *(1,) * (s.weight.ndim - 1))
        for s in population.synapses
    ]
    differences = tuple(w - e for w, e in zip(layer.weights, effective, strict=True))
    current = _worst_current(differences)
    steps_per_threshold = population.threshold * 2.0**registers.threshold_shift
    resolution = float(np.max(1 / steps_per_threshold))
    effective_bias = population.bias * 2.0**population.bias_exp / steps_per_threshold
    bias = float(np.abs(layer.bias - effective_bias).max(initial=0))
    full = 1 << registers.decay_bits
    kept = 1 - (population.dv + registers.membrane_decay_offset) / full
    decay = abs(layer.beta - kept)
    # The membrane before each step is within what the steps before could have added.
    drive = _worst_current(layer.weights) + float(np.abs(layer.bias).max(initial=0))
    error = reach = 0.0
    for _ in range(layer.steps):
        error = error * kept + decay * reach + resolution + current + bias
        reach = reach * layer.beta + drive
    weight = max(float(np.abs(d).max(initial=0)) for d in differences)
    return LayerError(weight, current, bias, decay, error)
