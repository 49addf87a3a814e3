"""A chip segment in integers, and how far they are off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from has8.errors import BadInput
from mapping.chip.grid import stored_bits
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.graph.ir import Graph, Node
from mapping.integers.scales import (
    FloatLayer,
    Scale,
    Scales,
    float_layer,
    largest_scale,
    membrane_decay,
    to_integers,
    worst_current,
)
from mapping.partition.cut import Segment, synapses_of
from mapping.targets.schema import Registers


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
        clipped: weights and biases that were out of range, and are further off than rounding is.
        mismatch: the part of the spikes on the calibration images that are not the float layer's,
            in [0, 1]; None if nobody measured it.
    """

    weight: float
    current: float
    bias: float
    decay: float
    membrane: float
    clipped: int = 0
    mismatch: float | None = None


def quantize(
    graph: Graph,
    segment: Segment,
    registers: Registers,
    *,
    weight_bits: int = 8,
    scales: Scales | None = None,
) -> tuple[ChipSegment, dict[str, LayerError]]:
    """The integers of one chip segment; the graph keeps its floats.

    Args:
        graph: after the passes, batch norms folded.
        segment: of side "chip".
        registers: the target's.
        weight_bits: bits of a weight; stored in as many, or the next width that the target stores.
        scales: of its populations by name; None takes the largest at which nothing is clipped.

    Returns:
        The integer segment, and the error of each population by name.

    Raises:
        BadInput: if a layer is out of range at any scale, the target has no such weights, or
            the scales are not those of these layers.
    """
    populations, errors = [], {}
    for name in segment.nodes:
        if graph[name].op == "neuron":
            layer = layer_of(graph, name)
            if scales is None:
                scale = unclipped_scale(layer, name, registers, weight_bits)
            else:
                scale = _given(scales, layer, name)
            population, errors[name] = _population(
                layer, graph[name], scale, registers, weight_bits
            )
            populations.append(population)
    inputs = [Port(n, graph[n].type.shape) for n in segment.inputs]
    steps = graph[segment.nodes[-1]].type.steps
    assert steps is not None
    outputs = tuple(segment.outputs)
    chip = ChipSegment(segment.name, steps, tuple(inputs), tuple(populations), outputs)
    return chip, errors


def layer_of(graph: Graph, neuron: str) -> FloatLayer:
    """The float layer that ends in a neuron that the chip can take."""
    synapses = synapses_of(graph, neuron)
    assert not isinstance(synapses, str), synapses
    return float_layer(synapses, graph[neuron])


def unclipped_scale(layer: FloatLayer, name: str, registers: Registers, bits: int) -> Scale:
    """The largest scale at which nothing is clipped.

    Raises:
        BadInput: if there is none.
    """
    scale = largest_scale(layer, name, registers, bits)
    if to_integers(layer, scale, registers, bits).clipped:
        raise BadInput(
            f"layer {name!r} cannot be quantised to {bits}-bit weights (signs: "
            f"{', '.join(scale.sign_modes)}) without clipping some to 0: use more weight bits, "
            f"search for scales, or keep the layer on the host"
        )
    return scale


def _given(scales: Scales, layer: FloatLayer, name: str) -> Scale:
    scale = scales.get(name)
    expected = (len(layer.bias), len(layer.synapses))
    if scale is None or (len(scale.thresholds), len(scale.exponents)) != expected:
        raise BadInput(
            f"the scales that were given have none for layer {name!r} of {expected[0]} channels: "
            f"they belong to another model or another partition; let new ones be chosen"
        )
    return scale


def _population(
    layer: FloatLayer, neuron: Node, scale: Scale, registers: Registers, bits: int
) -> tuple[Population, LayerError]:
    integers = to_integers(layer, scale, registers, bits)
    synapses = tuple(
        Synapse(
            node.name,
            node.inputs[0],
            node.op,
            {key: node.attrs[key] for key in sorted(node.attrs)},
            weight.numpy().astype(np.int64),
            exponent,
            mode,
            stored_bits(registers, bits),
        )
        for node, weight, exponent, mode in zip(
            layer.synapses, integers.weights, scale.exponents, scale.sign_modes, strict=True
        )
    )
    full = 1 << registers.decay_bits
    population = Population(
        name=neuron.name,
        shape=neuron.type.shape,
        synapses=synapses,
        neuron=neuron.attrs["model"],
        threshold=np.array(scale.thresholds, np.int64),
        bias=integers.bias.numpy().astype(np.int64),
        bias_exp=integers.bias_exp,
        du=min(full - registers.current_decay_offset, full - 1),
        dv=membrane_decay(layer.beta, registers),
    )
    return population, _error(layer, population, integers.clipped, registers)


def _error(
    layer: FloatLayer, population: Population, clipped: int, registers: Registers
) -> LayerError:
    weights = [weight.numpy() for weight in layer.weights]
    bias = layer.bias.numpy()
    unit = population.threshold * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
    effective = [
        s.weight * 2.0**s.weight_exp / unit.reshape(-1, *(1,) * (s.weight.ndim - 1))
        for s in population.synapses
    ]
    differences = [w - e for w, e in zip(weights, effective, strict=True)]
    current = worst_current(differences)
    steps_per_threshold = population.threshold * 2.0**registers.threshold_shift
    resolution = float(np.max(1 / steps_per_threshold))
    effective_bias = population.bias * 2.0**population.bias_exp / steps_per_threshold
    bias_error = float(np.abs(bias - effective_bias).max(initial=0))
    full = 1 << registers.decay_bits
    kept = 1 - (population.dv + registers.membrane_decay_offset) / full
    decay = abs(layer.beta - kept)
    # The membrane before each step is within what the steps before could have added.
    drive = worst_current(weights) + float(np.abs(bias).max(initial=0))
    error = reach = 0.0
    for _ in range(layer.steps):
        error = error * kept + decay * reach + resolution + current + bias_error
        reach = reach * layer.beta + drive
    weight = max(float(np.abs(d).max(initial=0)) for d in differences)
    return LayerError(weight, current, bias_error, decay, error, clipped)
