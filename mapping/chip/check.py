"""What must hold for a chip segment: the one check of integers that are made, saved or loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from has8.errors import BadInput
from mapping.chip.arithmetic import largest_drive
from mapping.chip.grid import weight_grid
from mapping.chip.neurons import NEURONS, constants, subtracts
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.wiring import Axis, shape3

if TYPE_CHECKING:
    from mapping.targets.schema import Registers

INT64_BITS = 62
"""Registers, what is added to them, and products with a decay must be of no more bits."""


def check_segment(segment: ChipSegment, registers: Registers) -> None:
    """Hold a segment to its own structure and to what the target's registers can hold.

    Args:
        segment: any.
        registers: the target's.

    Raises:
        BadInput: with the first thing that is wrong, in one sentence.
    """
    for name, problem in _problems(segment, registers):
        raise BadInput(f"layer {name!r} does not fit the target's arithmetic: {problem}")
    segment.in_order()


def _problems(segment: ChipSegment, registers: Registers) -> Iterator[tuple[str, str]]:
    sources: list[Port | Population] = [*segment.inputs, *segment.populations]
    names = [item.name for item in sources]
    if len(set(names)) < len(names):
        yield segment.name, "two of its ports or populations have the same name"
    synapses = [synapse.name for _, synapse in segment.synapses()]
    if len(set(synapses)) < len(synapses):
        yield segment.name, "two of its synapses have the same name"
    if not (_whole(segment.steps) and segment.steps >= 1):
        yield segment.name, f"it runs {segment.steps} steps, and at least one is needed"
    for item in sources:
        if len(item.shape) not in (1, 2, 3) or not all(_whole(n) and n >= 1 for n in item.shape):
            yield item.name, f"its shape must be (N,), (C, L) or (C, H, W), not {item.shape}"
    for output in (*segment.outputs, *segment.membranes):
        if output not in names[len(segment.inputs) :]:
            yield segment.name, f"its output {output!r} is no population of it"
    yield from _of_biases(segment)
    biases = {port.name for port in segment.inputs if port.kind == "bias"}
    for population in segment.populations:
        yield from ((population.name, problem) for problem in _of_neurons(population, registers))
    for item in sources:
        yield from ((item.name, problem) for problem in _of_payload(item, registers))
    for population, synapse in segment.synapses():
        if synapse.source not in names or synapse.source in biases:
            yield synapse.name, f"its source {synapse.source!r} is neither port nor population"
        else:
            source = segment.shape_of(synapse.source)
            for problem in _of_synapse(synapse, source, population.shape, registers):
                yield synapse.name, problem
    for population in segment.populations:
        if (bits := _bits(segment, population, registers)) > INT64_BITS:
            yield (
                population.name,
                f"its numbers could have {bits} bits, and a simulator has {INT64_BITS}",
            )


def _of_payload(source: Port | Population, registers: Registers) -> Iterator[str]:
    """What is wrong with what a source's spikes carry."""
    payload, most = source.payload, registers.message_bits
    if not (_whole(payload.bits) and 1 <= payload.bits <= most) or (
        payload.signed is not False and most == 1
    ):
        sign = "signed " if payload.signed else ""
        yield f"its spikes are of {sign}{payload.bits} bits, and the target's of {most} at most"
    elif isinstance(source, Port) and source.kind == "bias" and payload.graded:
        yield "it gives biases, which carry no payload"


def _of_biases(segment: ChipSegment) -> Iterator[tuple[str, str]]:
    """What is wrong with the biases that the host writes: each port is one population's."""
    for port in segment.inputs:
        if port.kind not in ("spikes", "bias"):
            yield port.name, f"it takes spikes or biases, not {port.kind!r}"
        taken = [p for p in segment.populations if p.bias == port.name]
        if len(taken) != (port.kind == "bias"):
            yield port.name, f"it gives {port.kind}, and {len(taken)} populations take their bias"
        if any(p.shape != port.shape for p in taken):
            yield port.name, f"it gives {port.shape} biases to neurons of {taken[0].shape}"
    names = {None, *(port.name for port in segment.inputs)}
    for population in segment.populations:
        if population.bias not in names:
            yield population.name, f"its biases come from {population.bias!r}, which is no port"


def _of_neurons(population: Population, registers: Registers) -> Iterator[str]:
    neuron = population.neuron
    if type(neuron) is not NEURONS.get(neuron.model):
        yield f"its neuron model {neuron.model!r} is unknown; known are {', '.join(NEURONS)}"
        return
    if neuron.model not in registers.neurons:
        offered = ", ".join(registers.neurons)
        yield f"the target has no {neuron.model!r} neurons, it has {offered}"
    for name, values in constants(neuron).items():
        if not isinstance(values, np.ndarray) or values.dtype != np.int64:
            yield f"its {name} must be int64 arrays"
            return
        if not _broadcasts(values.shape, population.shape):
            yield (
                f"its {name} of shape {values.shape} must be one value, one a channel or one a "
                f"neuron of {population.shape}"
            )
            return
    yield from neuron.faults(registers)


def _bits(segment: ChipSegment, population: Population, registers: Registers) -> int:
    """Bits of the largest number that a step of the neurons can come to."""

    def shifted(values: NDArray[Any], places: int) -> int:
        return int(np.abs(values).max(initial=0)) << min(max(places, 0), INT64_BITS)

    r, neuron = registers, population.neuron
    drive = sum(
        shifted(largest_drive(s.weight.astype(np.float64)), s.weight_exp)
        * segment.payload_of(s.source).largest
        for s in population.synapses
    )
    threshold, bias, bias_exp = (
        getattr(neuron, name, np.zeros(1)) for name in ("threshold", "bias", "bias_exp")
    )
    if population.bias is not None:
        bias = np.array([r.bias_min, r.bias_max])
    added = (drive << min(r.synapse_shift, INT64_BITS)) + shifted(bias, int(bias_exp.max()))
    threshold = shifted(threshold, r.threshold_shift)
    membrane = (1 << r.state_bits) + added
    if subtracts(getattr(neuron, "reset", None)):
        membrane += threshold
    return max(membrane.bit_length() + r.decay_bits, threshold.bit_length())


def _of_synapse(
    synapse: Synapse, source: tuple[int, ...], target: tuple[int, ...], registers: Registers
) -> Iterator[str]:
    wires, weight = synapse.wiring, synapse.weight
    if not (_sound(wires.rows) and _sound(wires.cols)) or not (
        all(map(_whole, (wires.channels_in, wires.channels_out, wires.groups)))
        and wires.groups >= 1
    ):
        yield "its wiring must have whole numbers in range"
        return
    if wires.channels_in % wires.groups or wires.channels_out % wires.groups:
        yield f"its {wires.groups} groups do not divide its channels"
        return
    if prod(wires.in_shape) != prod(source) or wires.out_shape != shape3(target):
        yield f"it wires {wires.in_shape} to {wires.out_shape}, not {source} to {target}"
        return
    if weight.dtype != np.int64 or weight.shape != wires.weight_shape:
        yield f"its weights must be int64 of shape {wires.weight_shape}, not {weight.shape}"
        return
    if synapse.weight_bits not in registers.weight_bits:
        yield f"weights of {synapse.weight_bits} bits are not among {registers.weight_bits}"
        return
    if synapse.sign_mode not in registers.sign_modes:
        yield f"its sign mode {synapse.sign_mode!r} is not among {registers.sign_modes}"
        return
    if registers.weight_magnitude_bits > INT64_BITS:
        yield f"weights of {registers.weight_magnitude_bits} bits do not fit into {INT64_BITS}"
        return
    low, high, step = weight_grid(registers, synapse.weight_bits, synapse.sign_mode)
    if ((weight < low) | (weight > high) | (weight % step != 0)).any():
        yield (
            f"its {synapse.sign_mode} weights of {synapse.weight_bits} bits must be on the grid "
            f"{low}, {low + step} ... {high}"
        )
    least, most = registers.weight_exp_min, registers.weight_exp_max
    if not (_whole(synapse.weight_exp) and least <= synapse.weight_exp <= most):
        yield f"its weight exponent must be from {least} to {most}, not {synapse.weight_exp}"
    if not (_whole(synapse.delay) and 0 <= synapse.delay <= registers.delay_max):
        yield f"its delay must be from 0 to {registers.delay_max} steps, not {synapse.delay}"


def _sound(axis: Axis) -> bool:
    sizes = (axis.kernel, axis.stride, axis.dilation, axis.size_in, axis.spread)
    whole = all(_whole(size) for size in (*sizes, axis.padding, axis.extra))
    return whole and min(sizes) >= 1 and axis.extra >= 0 and axis.size_out >= 1


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _broadcasts(shape: Sequence[int], over: Sequence[int]) -> bool:
    """Whether an array has one value, one a channel or one a neuron."""
    channel = (over[0], *(1,) * (len(over) - 1))
    return tuple(shape) in ((), channel, tuple(over))
