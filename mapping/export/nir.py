"""A chip segment as a network in NIR: its integers as numbers, its steps as time constants.

Weights, biases and thresholds are in units of a weight's mantissa, and decays are those of its
registers, ``tau = dt / (1 - beta)``. So a tool that takes Euler's steps of dt computes what the
chip computes, but for two things that NIR cannot say: registers round what is left after a decay
to zero, by less than 2**-6 of a unit, and they end somewhere. Spikes differ where a membrane comes
so near to its threshold.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from has8 import given, values
from has8.errors import BadInput
from has8.files import write_whole
from has8.values import seconds
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.chip.wiring import Axis, Wiring, taps
from mapping.export.segment import one_segment
from mapping.graph.ir import unique_name
from mapping.mapped import Mapped
from mapping.targets.schema import Registers

Floats = NDArray[np.float64]


def write_nir(
    mapped: Mapped, path: str | Path, *, segment: str | None = None, dt: float = 1e-4
) -> Path:
    """Write a chip segment as a network in NIR.

    The metadata have "steps", "dt", "reset" of each neuron and "readout", which NIR itself has no
    place for; :func:`mapping.read_nir` takes them, and other tools let all neurons reset to zero.

    Args:
        mapped: from :func:`mapping.map_model`.
        path: usually ends in ``.nir``.
        segment: its name; None where there is one.
        dt: how long a step is, in seconds: 1e-4 is what snnTorch takes all files to have.

    Returns:
        The path.

    Raises:
        BadInput: if NIR cannot hold the segment, an argument is of another type, or the file
            cannot be written.
    """
    chip = one_segment(given.instance(mapped, Mapped, "a mapping from mapping.map_model"), segment)
    path, dt = values.path(path, "the new file"), seconds(dt, "dt")
    try:
        nir = importlib.import_module("nir")
    except ImportError:
        raise BadInput(f"writing {path} needs nir: run `pip install 'has8[files]'`") from None
    graph = _Writer(nir, chip, mapped.target.registers, dt).graph()
    content = BytesIO()
    nir.write(content, graph)
    write_whole(path, lambda file: file.write(content.getvalue()))
    return path


@dataclass
class _Writer:
    """Makes a NIR graph of a segment.

    Args:
        nir: the package.
        chip: the segment.
        registers: the target's.
        dt: of a step, in seconds.
        nodes: of the graph.
        edges: of the graph.
        names: in the graph, by those of ports, populations and synapses.
        taken: names in the graph.
    """

    nir: Any
    chip: ChipSegment
    registers: Registers
    dt: float
    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def graph(self) -> Any:
        """All nodes, between one input and one output."""
        chip = self.chip
        ends = list(dict.fromkeys((*chip.outputs, *chip.membranes)))
        if len(chip.inputs) != 1 or len(ends) != 1:
            raise BadInput(
                f"segment {chip.name!r} has {len(chip.inputs)} inputs and {len(ends)} outputs, and "
                "tools that read NIR take one of each: choose another segment or partition"
            )
        (port,), (end,) = chip.inputs, ends
        synapses = (synapse.name for _, synapse in chip.synapses())
        for name in (port.name, *(population.name for population in chip.populations), *synapses):
            self.names[name] = self._new(name)
        self.nodes[self.names[port.name]] = self.nir.Input(np.array(port.shape))
        for population in chip.populations:
            self._population(population)
        out = self._new("output")
        self.nodes[out] = self.nir.Output(np.array(chip.shape_of(end)))
        self.edges.append((self.names[end], out))
        readout = "membrane_last" if end in chip.membranes else "count"
        facts = {"dt": self.dt, "steps": chip.steps, "readout": readout}
        return self.nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata=facts)

    def _new(self, name: str) -> str:
        """A name that importers can make an attribute of a module, used once."""
        plain = name.replace(".", "_").replace("#", "_")
        made = unique_name(plain, self.taken)
        self.taken.add(made)
        return made

    def _population(self, population: Population) -> None:
        """A population and the synapses that feed it."""
        name, neuron = population.name, population.neuron
        assert isinstance(neuron, Lif)
        if neuron.clear_every:
            raise BadInput(f"neurons {name!r} are cleared within a sample: NIR has no such")
        bias = _scaled(neuron.bias, neuron.bias_exp - self.registers.synapse_shift)
        synapses = list(population.synapses)
        if np.any(bias) and np.any(self._left(neuron)[0]):
            raise BadInput(f"neurons {name!r} have biases and currents that last: NIR has no such")
        for synapse in synapses:
            self._synapse(population, synapse, bias if synapse is synapses[0] else np.zeros(()))
        if population.bias is not None:
            scale = self._new(f"{name}.bias")
            unit = _scaled(np.ones((), np.int64), neuron.bias_exp - self.registers.synapse_shift)
            self.nodes[scale] = self.nir.Scale(np.broadcast_to(unit, population.shape).copy())
            self.edges += [(self.names[population.bias], scale), (scale, self.names[name])]
        elif not synapses:  # they drive themselves
            if len(population.shape) > 1:
                raise BadInput(f"nothing but biases drives neurons {name!r}: NIR has no such")
            (port,) = self.chip.inputs
            nothing = np.zeros((population.size, prod(port.shape)))
            source = self._flat(self.names[port.name], port.shape)
            node = self._linear(population, nothing, bias)
            self._join(population, self._new(f"{name}.bias"), source, node)
        self.nodes[self.names[name]] = self._neuron(population, neuron)

    def _left(self, neuron: Lif) -> tuple[Floats, Floats]:
        """What is left of currents and membranes after a step."""
        r, full = self.registers, 1 << self.registers.decay_bits
        du, dv = neuron.du + r.current_decay_offset, neuron.dv + r.membrane_decay_offset
        return 1 - du / full, 1 - dv / full

    def _neuron(self, population: Population, neuron: Lif) -> Any:
        """The neurons of a population, of the simplest type that has them."""
        alpha, beta = self._left(neuron)
        silent, lasting = neuron.reset == "none", bool(np.any(alpha))
        if silent and (population.name in self.chip.outputs or self._feeds(population.name)):
            raise BadInput(f"neurons {population.name!r} never reset: NIR has no such")
        each: dict[str, Any] = {}
        if not silent:
            shift = self.registers.threshold_shift - self.registers.synapse_shift
            each = {"v_threshold": _scaled(neuron.threshold, shift), "v_reset": 0.0}
        if not lasting and np.all(beta == 1):
            kind, each = "I", each | {"r": 1 / self.dt}
        else:
            if np.any(alpha == 1) or np.any(beta == 1):
                raise BadInput(
                    f"some currents or membranes of {population.name!r} never decay, beside others "
                    "that do: NIR has no such"
                )
            kind, tau = ("CubaLI", "tau_mem") if lasting else ("LI", "tau")
            each |= {tau: self.dt / (1 - beta), "r": 1 / (1 - beta), "v_leak": 0.0}
            if lasting:
                each |= {"tau_syn": self.dt / (1 - alpha), "w_in": 1 / (1 - alpha)}
        arrays = {k: np.broadcast_to(v, population.shape).astype(float) for k, v in each.items()}
        facts = {"reset": "refractory" if neuron.refractory else neuron.reset}
        return getattr(self.nir, kind if silent else f"{kind}F")(**arrays, metadata=facts)

    def _feeds(self, name: str) -> bool:
        return any(synapse.source == name for _, synapse in self.chip.synapses())

    def _synapse(self, population: Population, synapse: Synapse, bias: Floats) -> None:
        """The layer that a synapse is, behind its delay."""
        shape = self.chip.shape_of(synapse.source)
        source = self.names[synapse.source]
        own = synapse.source == population.name and synapse.delay == 1
        if synapse.delay and not own:  # a loop takes its one step by itself
            late = self._new(f"{synapse.name}.late")
            self.nodes[late] = self.nir.Delay(np.full(shape, synapse.delay * self.dt))
            self.edges.append((source, late))
            source = late
        wires, weight = synapse.wiring, _scaled(synapse.weight, synapse.weight_exp)
        axes = (wires.rows, wires.cols)
        plain = all((axis.spread, axis.extra) == (1, 0) and axis.padding >= 0 for axis in axes)
        if plain and len(shape) == len(population.shape) == 3 and wires.in_shape == shape:
            node = self._conv(population, wires, weight, bias)
        elif len(population.shape) == 1:
            source = self._flat(source, shape)
            node = self._linear(population, matrix(wires, weight), bias)
        else:
            raise BadInput(f"NIR has no layer that is as synapse {synapse.name!r}")
        self._join(population, self.names[synapse.name], source, node)

    def _conv(self, population: Population, wires: Wiring, weight: Floats, bias: Floats) -> Any:
        rows, cols = wires.rows, wires.cols
        each = np.broadcast_to(bias, population.shape).reshape(population.shape[0], -1)
        if (each != each[:, :1]).any():
            raise BadInput(f"biases of {population.name!r} differ within a channel: not in NIR")
        return self.nir.Conv2d(
            input_shape=(rows.size_in, cols.size_in),
            weight=weight.astype(np.float32),
            stride=(rows.stride, cols.stride),
            padding=(rows.padding, cols.padding),
            dilation=(rows.dilation, cols.dilation),
            groups=wires.groups,
            bias=each[:, 0].astype(np.float32),
        )

    def _linear(self, population: Population, weight: Floats, bias: Floats) -> Any:
        held = weight.astype(np.float32)
        each = np.broadcast_to(bias, population.shape).astype(np.float32)
        return self.nir.Affine(held, each) if each.any() else self.nir.Linear(held)

    def _flat(self, source: str, shape: tuple[int, ...]) -> str:
        """What makes a vector of a source."""
        if len(shape) == 1:
            return source
        flat = self._new(f"{source}.flat")
        self.nodes[flat] = self.nir.Flatten({"input": np.array(shape)}, 0, -1)
        self.edges.append((source, flat))
        return flat

    def _join(self, population: Population, name: str, source: str, node: Any) -> None:
        self.nodes[name] = node
        self.edges += [(source, name), (name, self.names[population.name])]


def matrix(wires: Wiring, weight: Floats) -> Floats:
    """The weights from each source to each output, ``[C_out H' W', C H W]``."""
    rows, cols = (_met(axis) for axis in (wires.rows, wires.cols))
    groups, outs, ins = wires.groups, wires.channels_out, wires.channels_in
    full = np.zeros((groups, outs // groups, groups, ins // groups, *weight.shape[2:]))
    for group, part in enumerate(weight.reshape(groups, outs // groups, *weight.shape[1:])):
        full[group, :, group] = part
    full = full.reshape(outs, ins, *weight.shape[2:])
    every = np.einsum("oikl,yrk,xcl->orciyx", full, rows, cols, optimize=True)
    return np.asarray(every.reshape(prod(wires.out_shape), -1))


def _met(axis: Axis) -> Floats:
    """Which source meets which output through which tap, ``[size_in, size_out, kernel]``."""
    return np.equal(taps(axis)[:, None], np.arange(axis.size_out)[:, None]).astype(float)


def _scaled(mantissa: Any, places: Any) -> Floats:
    return np.asarray(np.asarray(mantissa) * np.exp2(places))
