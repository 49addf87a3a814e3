"""A chip segment as Lava processes, and their run: with ``processes.py`` all that imports Lava.

It runs in a worker of its own, which must never import torch: torch inside a Lava process hangs.
This is also the only file that knows Lava's axis order: everything lies reversed there, (W, H, C)
for (C, H, W).

Each connection in Lava takes one step, so a population sees a sample later by its depth; its state
is cleared just then, and samples stream back to back. Where paths of different lengths meet, the
shorter is delayed; spikes that a delay would carry into the next sample are dropped. ``limits.py``
refuses what Lava would not run bit for bit.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.backends.lava.processes import lif_neurons, lines, packing_neurons
from mapping.chip.arithmetic import Ints
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.serial import unpack
from mapping.chip.wiring import Wiring, shape3, taps

Spikes = NDArray[Any]
"""Bool, or the payloads of graded spikes in whole numbers."""
Shape = tuple[int, ...]

MOST_GROUPS = 127
"""Lava's Conv keeps its number of groups in an int8."""


def run_network(
    segment: ChipSegment, inputs: Mapping[str, Spikes]
) -> tuple[dict[str, Spikes], dict[str, Ints]]:
    """Run a segment in Lava, in this process: not where torch has been imported.

    Args:
        segment: one that :func:`hwsim.backends.lava.limits.check_faithful` accepts.
        inputs: the spikes of each port, ``[T, B, *shape]``, bool or payloads, or its biases,
            ``int64[B, *shape]``.

    Returns:
        The spikes of each population, aligned with the inputs, ``[T, B, *shape]``; and
        membranes after the last step where they are read, ``int64[B, *shape]``.
    """
    steps, samples = segment.steps, segment.samples(inputs)
    network = _Network(segment, inputs)
    fired = {}
    streams, membranes = network.run()
    for name, stream in streams.items():
        start = network.depth[name]
        stream = stream[start : start + samples * steps]
        fired[name] = stream.reshape(samples, steps, *stream.shape[1:]).swapaxes(0, 1)
    return fired, membranes


class _Network:
    """The Lava processes of one segment, connected, and a sink for each population's spikes."""

    def __init__(self, segment: ChipSegment, inputs: Mapping[str, Spikes]) -> None:
        self.period = segment.steps
        from lava.proc.io.source import PySendModelFixed

        sources: list[Port | Population] = [*segment.inputs, *segment.populations]
        self.shape: dict[str, Shape] = {item.name: tuple(item.shape) for item in sources}
        self.payload = {item.name: item.payload for item in sources}
        self.depth = segment.depths()
        samples = segment.samples(inputs)
        self.steps = samples * self.period + max(self.depth.values())
        self.models: dict[Any, Any] = {}
        self.taps: dict[tuple[str, int, int], Any] = {}  # source, steps held, delay
        self.sinks: dict[str, Any] = {}
        self.neurons: dict[str, Any] = {}
        # Behind which steps a population's membranes are read, for each sample.
        self.reads = {
            name: [self.depth[name] + (k + 1) * self.period for k in range(samples)]
            for name in segment.membranes
        }
        self.biases = {
            port.name: inputs[port.name] for port in segment.inputs if port.kind == "bias"
        }
        for port in segment.inputs:
            if port.kind == "bias":
                continue
            data = np.zeros((self.steps, *self.shape[port.name]), dtype=np.int32)
            stream = inputs[port.name].swapaxes(0, 1).reshape(-1, *self.shape[port.name])
            data[: len(stream)] = stream
            self.taps[port.name, 0, 0] = self._process(PySendModelFixed, data=data.T.copy()).s_out
        neurons = [self._add(population) for population in segment.populations]
        for population, process in zip(segment.populations, neurons, strict=True):
            for synapse in population.synapses:
                if synapse.delay < self.period:
                    self._connect(synapse, self._arriving(population, synapse), process.a_in)

    def run(self) -> tuple[dict[str, Spikes], dict[str, Ints]]:
        """Every population's spikes in every step, ``[steps, *shape]``, and what is read.

        Lava gives its variables where it pauses, so it pauses wherever a membrane is read.
        """
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2SimCfg

        # Naming each process's model saves Lava's search of whole folders, most of its start-up.
        config = Loihi2SimCfg(select_tag="fixed_pt", exception_proc_model_map=self.models)
        streams = {
            name: np.empty((self.steps, *self.shape[name]), dtype=self.payload[name].kind)
            for name in self.sinks
        }
        membranes = {
            name: np.empty((len(steps), *self.shape[name]), np.int64)
            for name, steps in self.reads.items()
        }
        pauses = {*range(self.period, self.steps, self.period), self.steps}
        pauses.update(step for steps in self.reads.values() for step in steps)
        waiting = dict(self.sinks)
        while waiting:  # once for each part of the network that hangs together
            head = next(iter(waiting.values()))
            head.create_runtime(run_cfg=config, compile_config={"pypy_channel_size": 2})
            part = [name for name, sink in waiting.items() if sink.runtime is head.runtime]
            for start, stop in pairwise([0, *sorted(pauses)]):
                head.run(RunSteps(num_steps=stop - start))
                for name in part:
                    for step in range(start, stop):
                        streams[name][step] = waiting[name].receive().T
                    if stop in self.reads.get(name, ()):
                        read = self.neurons[name].v.get().T
                        membranes[name][self.reads[name].index(stop)] = read
            head.stop()
            waiting = {name: sink for name, sink in waiting.items() if name not in part}
        return streams, membranes

    def _process(self, model: Any, **settings: Any) -> Any:
        """A new Lava process that runs a given model."""
        process = model.implements_process(**settings)
        self.models[process] = model
        return process

    def _add(self, population: Population) -> Any:
        """Enter a population and its sink; returns its process."""
        from lava.magma.core.process.process import LogConfig
        from lava.proc.io.extractor import PyLoihiExtractorModel

        name, shape = population.name, self.shape[population.name]
        neurons = self._lif(population) if isinstance(population.neuron, Lif) else None
        if neurons is None:
            # Lava counts steps from 1; a sample's first spikes arrive after ``depth`` of them.
            neurons = self._process(
                packing_neurons(population.neuron.model),
                shape=shape[::-1],
                first=1 + self.depth[name],
                period=self.period,
            )
        self.taps[name, 0, 0], self.neurons[name] = neurons.s_out, neurons
        self.sinks[name] = self._process(
            PyLoihiExtractorModel,
            shape=shape[::-1],
            buffer_size=self.period,
            log_config=LogConfig(level=logging.INFO),  # or Lava hides why a process died
        )
        neurons.s_out.connect(self.sinks[name].in_port)
        return neurons

    def _lif(self, population: Population) -> Any:
        """The process of a population that leaks, integrates and fires."""
        name, shape, neuron = population.name, self.shape[population.name], population.neuron
        assert isinstance(neuron, Lif)
        several = {
            key: np.broadcast_to(getattr(neuron, name), shape).T.copy()
            for key, name in {"vth": "threshold", "du": "du", "dv": "dv"}.items()
        }
        one = {key: int(v.flat[0]) for key, v in several.items() if (v == v.flat[0]).all()}
        written = {}
        if population.bias is not None:
            written = {"biases": self.biases[population.bias].T, "first": 1 + self.depth[name]}
        return self._process(
            lif_neurons(
                frozenset(several) - frozenset(one), neuron.reset, neuron.refractory, bool(written)
            ),
            shape=shape[::-1],
            **{**several, **one, **written},
            bias_mant=np.broadcast_to(neuron.bias, shape).T.copy(),
            bias_exp=neuron.bias_exp.item(),
            reset_interval=self.period,
            # Lava counts steps from 1; a sample's first spikes arrive after ``depth`` of them.
            reset_offset=(1 + self.depth[name]) % self.period,
        )

    def _arriving(self, population: Population, synapse: Synapse) -> Any:
        """The port that sends what a synapse of a population takes in."""
        name, delay = synapse.source, synapse.delay
        held = self.depth[population.name] + delay - self.depth[name] - 1
        if not held and not delay:
            return self.taps[name, 0, 0]
        if (name, held, delay) not in self.taps:
            line = self._process(
                lines(),
                shape=self.shape[name][::-1],
                held=held,
                # Lava counts steps from 1; what arrives ``delay`` steps late ends with the sample.
                first=1 + self.depth[name] + held,
                period=self.period,
                passed=self.period - delay,
            )
            self.taps[name, 0, 0].connect(line.s_in)
            self.taps[name, held, delay] = line.s_out
        return self.taps[name, held, delay]

    def _connect(self, synapse: Synapse, source: Any, target: Any) -> None:
        """Connect two ports through a synapse."""
        from lava.proc.conv.models import PyConvModelFixed
        from lava.proc.dense.models import PyDenseModelBitAcc
        from lava.proc.sparse.models import PySparseModelBitAcc

        wires, weight = synapse.wiring, synapse.weight
        if wires.full:
            shape = (*target.shape[::-1], *source.shape[::-1])
            outs, ins = np.split(np.arange(len(shape)), [len(target.shape)])
            matrix = weight.reshape(shape).transpose(*outs[::-1], *ins[::-1])
            matrix = matrix.reshape(len(weight), -1)
            self._connect_matrix(PyDenseModelBitAcc, matrix, synapse, source, target)
            return
        axes = wires.cols, wires.rows
        plain = all(a.spread == 1 and a.extra == 0 and a.padding >= 0 for a in axes)
        # Lava's Conv ignores its exponent
        alike = shape3(source.shape[::-1]) == wires.in_shape
        if not (plain and alike) or synapse.weight_exp < 0 or wires.groups > MOST_GROUPS:
            matrix = _sparse(wires, weight, source.shape[::-1])
            self._connect_matrix(PySparseModelBitAcc, matrix, synapse, source, target)
            return
        # Lava convolves where torch correlates, hence the flip.
        kernel = weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
        process = self._process(
            PyConvModelFixed,
            weight=(kernel << synapse.weight_exp).astype(np.int32),
            input_shape=wires.in_shape[::-1],
            groups=wires.groups,
            num_message_bits=self._message_bits(synapse),
            **{
                name: [getattr(axis, name) for axis in axes]
                for name in ("stride", "padding", "dilation")
            },
        )
        source.reshape(process.s_in.shape).connect(process.s_in)
        process.a_out.reshape(target.shape).connect(target)

    def _message_bits(self, synapse: Synapse) -> int:
        """What Lava is told of a synapse's spikes: 0 where they have no payload."""
        payload = self.payload[synapse.source]
        return payload.bits if payload.graded else 0

    def _connect_matrix(
        self, model: Any, matrix: Any, synapse: Synapse, source: Any, target: Any
    ) -> None:
        """Connect two ports, flattened, through a matrix with the synapse's weights."""
        from lava.utils.weightutils import SignMode, clip_weights, truncate_weights

        mode = SignMode[synapse.sign_mode.upper()]
        kept = truncate_weights(clip_weights(synapse.weight, mode, 8), mode, 8)
        if (kept != synapse.weight).any():
            raise ValueError(f"Lava would alter the {synapse.sign_mode} weights of {synapse.name}")
        process = self._process(
            model,
            weights=matrix,
            weight_exp=synapse.weight_exp,
            sign_mode=mode,
            num_message_bits=self._message_bits(synapse),
        )
        source.reshape(process.s_in.shape).connect(process.s_in)
        process.a_out.reshape(target.shape).connect(target)


def _sparse(wires: Wiring, weight: Ints, shape: Shape) -> Any:
    """Any wiring from a source of some shape as a sparse matrix, in Lava's axis order."""
    from scipy.sparse import csr_matrix

    (channels, height, width), (outputs, high, wide) = wires.in_shape, wires.out_shape
    ins, outs = channels // wires.groups, outputs // wires.groups
    into, out_of = np.arange(outputs), np.arange(channels).reshape(wires.groups, ins)
    place = np.arange(prod(shape)).reshape(shape[::-1]).T.reshape(wires.in_shape)
    sources = out_of[into // outs]  # [outputs, ins]
    parts = [(np.zeros((0, ins), np.int64),) * 3]  # or, where nothing is reached, there are none
    for v, u, row, column in np.ndindex(height, width, *weight.shape[2:]):
        y, x = taps(wires.rows)[v, row], taps(wires.cols)[u, column]
        if y >= 0 and x >= 0:
            at = np.broadcast_to((((x * high) + y) * outputs + into)[:, None], sources.shape)
            parts.append((weight[:, :, row, column], at, place[sources, v, u]))
    values, rows, columns = (np.concatenate([p[i].ravel() for p in parts]) for i in range(3))
    return csr_matrix((values, (rows, columns)), shape=(outputs * high * wide, place.size))


def work(job: Mapping[str, Any]) -> list[NDArray[Any]]:
    """The worker's work: a segment's spikes, population by population, then what is read.

    Args:
        job: "segment" and "arrays" as :func:`mapping.chip.serial.pack` makes them, and "inputs",
            the spikes of each port by name.
    """
    if "torch" in sys.modules:
        raise RuntimeError("torch was imported in Lava's worker, where it would hang")
    logging.basicConfig()
    segment = unpack(job["segment"], job["arrays"])
    fired, membranes = run_network(segment, job["inputs"])
    return [
        *(fired[population.name] for population in segment.populations),
        *(membranes[name] for name in segment.membranes),
    ]
