"""A chip segment as a ``network.net`` of Lava-DL: the same integers, where that format has them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from has8 import given, values
from has8.errors import BadInput
from has8.files import write_whole
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.export.segment import one_segment
from mapping.graph.ir import Graph
from mapping.graph.trace.netx import LARGEST_THRESHOLD
from mapping.mapped import Mapped
from mapping.targets.schema import Registers

SHIFT = 6
"""How far Lava-DL's chips shift weights, thresholds and biases."""
DECAY_BITS = 12


def write_netx(mapped: Mapped, path: str | Path, *, segment: str | None = None) -> Path:
    """Write a chip segment as a network of Lava-DL.

    The format has layers in a row, linear or convolutions, whose neurons are alike and reset to
    zero, and whole biases. :func:`mapping.read_netx` gives the same integers, with the delay from
    layer to layer that the segment has.

    Args:
        mapped: from :func:`mapping.map_model`.
        path: usually ends in ``.net``.
        segment: its name; None where there is one.

    Returns:
        The path.

    Raises:
        BadInput: if the format cannot hold the segment, an argument is of another type, or the
            file cannot be written.
    """
    chip = one_segment(given.instance(mapped, Mapped, "a mapping from mapping.map_model"), segment)
    path = values.path(path, "the new file")
    layers = list(_layers(mapped.graph, chip, mapped.target.registers))
    try:
        h5py = importlib.import_module("h5py")
    except ImportError:
        raise BadInput(f"writing {path} needs h5py: run `pip install 'has8[files]'`") from None
    content = BytesIO()
    with h5py.File(content, "w") as file:
        _put(file, {"layer": {str(place): layer for place, layer in enumerate(layers)}})
        _put(file, {"simulation": {"tSample": chip.steps}})
    write_whole(path, lambda file: file.write(content.getvalue()))
    return path


def _put(group: Any, entries: Mapping[str, Any]) -> None:
    for name, item in entries.items():
        if isinstance(item, Mapping):
            _put(group.create_group(name), item)
        else:
            group[name] = item


def _layers(graph: Graph, chip: ChipSegment, registers: Registers) -> Iterator[Mapping[str, Any]]:
    """The layers in order.

    Raises:
        BadInput: for the first thing that the format has no place for.
    """
    r = registers
    if (r.synapse_shift, r.threshold_shift, r.decay_bits) != (SHIFT, SHIFT, DECAY_BITS):
        raise BadInput("the target's registers are no Loihi's: write the segment as NIR")
    row, last = [port.name for port in chip.inputs], chip.populations[-1]
    delays = set()
    for population in chip.in_order():
        name, last = population.name, population
        if row != [synapse.source for synapse in population.synapses] and row != [population.bias]:
            raise _unheld(name, "layers that are no row, each of the one before")
        (before,), row = row, [name]
        if population.bias is not None:
            yield {**_input(graph, population), "neuron": _neuron(chip, population, registers)}
            continue
        (synapse,) = population.synapses
        first = before == chip.inputs[0].name
        delays |= {synapse.delay} if not first else set()
        if len(delays) > 1 or (first and synapse.delay):
            raise _unheld(name, "delays that differ from layer to layer")
        yield from _layer(chip, population, synapse, registers, first=first)
    assert isinstance(last.neuron, Lif)
    largest = int(np.max(last.neuron.threshold)) == LARGEST_THRESHOLD
    if {last.name} != {*chip.outputs, *chip.membranes} or (chip.membranes and not largest):
        raise _unheld(chip.name, "other answers than those of its last layer")


def _layer(
    chip: ChipSegment,
    population: Population,
    synapse: Synapse,
    registers: Registers,
    *,
    first: bool,
) -> Iterator[Mapping[str, Any]]:
    """A layer, behind what makes a vector of an image for it."""
    shape, dense = chip.shape_of(synapse.source), synapse.wiring.full
    if dense and len(shape) > 1:
        yield {"type": [b"flatten"], "shape": (int(np.prod(shape)),)}
    yield {
        **({"inShape": shape} if first else {}),
        **(_dense(synapse) if dense else _conv(synapse, shape)),
        **_biases(population),
        "shape": population.shape,
        "neuron": _neuron(chip, population, registers),
    }


def _input(graph: Graph, population: Population) -> Mapping[str, Any]:
    """An input layer: the mantissas that the host writes are ``2 weight x - weight + bias``."""
    written = graph[graph[str(population.bias)].inputs[0]]
    tensors = written.tensors if written.op == "one_to_one" else {}
    if len(tensors) != 2 or any(len(tensor.unique()) > 1 for tensor in tensors.values()):
        raise _unheld(population.name, "values that the host does not make with one factor")
    weight = float(tensors["weight"][0]) / 2
    layer = {"weight": weight, "bias": float(tensors["bias"][0]) + weight}
    return {"type": [b"input"], "shape": population.shape, **layer}


def _unheld(name: str, what: str) -> BadInput:
    return BadInput(f"{name!r} has {what}: a network.net cannot hold that, NIR might")


def _weights(synapse: Synapse) -> Any:
    """Mantissas with their exponent."""
    if synapse.weight_exp < 0:
        raise _unheld(synapse.name, "weights that are parts of a mantissa")
    return (synapse.weight << synapse.weight_exp).astype(np.float32)


def _dense(synapse: Synapse) -> Mapping[str, Any]:
    weight = _weights(synapse).reshape(len(synapse.weight), -1)
    out, into = weight.shape
    return {"type": [b"dense"], "weight": weight, "inFeatures": into, "outFeatures": out}


def _conv(synapse: Synapse, shape: tuple[int, ...]) -> Mapping[str, Any]:
    wires = synapse.wiring
    axes = (wires.rows, wires.cols)
    plain = all((axis.spread, axis.extra) == (1, 0) and axis.padding >= 0 for axis in axes)
    if not plain or wires.in_shape != shape:
        raise _unheld(synapse.name, "a wiring that is no convolution of images")
    return {
        "type": [b"conv"],
        "weight": _weights(synapse)[..., None],
        "stride": [axis.stride for axis in axes],
        "padding": [axis.padding for axis in axes],
        "dilation": [axis.dilation for axis in axes],
        "groups": wires.groups,
        "inChannels": wires.channels_in,
        "outChannels": wires.channels_out,
        "kernelSize": [axis.kernel for axis in axes],
    }


def _biases(population: Population) -> Mapping[str, Any]:
    """The bias of each channel, in units of a weight; nothing where all are 0."""
    assert isinstance(population.neuron, Lif)
    bias = np.broadcast_to(population.neuron.bias << population.neuron.bias_exp, population.shape)
    if not bias.any():
        return {}
    each = bias.reshape(len(bias), -1)
    if (each != each[:, :1]).any() or (each % (1 << SHIFT)).any():
        raise _unheld(population.name, "biases within a channel or below a weight's unit")
    return {"bias": each[:, 0] >> SHIFT}


def _neuron(chip: ChipSegment, population: Population, registers: Registers) -> Mapping[str, Any]:
    neuron = population.neuron
    assert isinstance(neuron, Lif)
    one = [np.unique(x) for x in (neuron.du, neuron.dv, neuron.threshold)]
    resets = ("zero", "none") if population.name in chip.membranes else ("zero",)
    plain = neuron.reset in resets and not neuron.refractory and not neuron.clear_every
    if max(map(len, one)) > 1 or not plain:
        raise _unheld(population.name, "neurons that differ or do not just reset to zero")
    du, dv, threshold = (int(values[0]) for values in one)
    return {
        "type": "LOIHI",
        "iDecay": du + registers.current_decay_offset,
        "vDecay": dv + registers.membrane_decay_offset,
        "vThMant": threshold,
        "refDelay": 1,
        "wgtExp": 0,
        "gradedSpike": False,
    }
