"""A mapping made ready to run: host segments in torch, chip segments in a backend, logits out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from has8 import given
from has8.encoders.rate import numbered
from has8.errors import BadInput
from has8.markup import block, table
from has8.units import count, percent
from has8.values import value, whole
from hwsim.activity import Activity, Overflow
from hwsim.backends.protocol import (
    Backend,
    Executable,
    SegmentRun,
    SegmentState,
    binary,
    longest_delays,
)
from hwsim.backends.registry import find_backend
from hwsim.boundary import decode, encode, read_membranes, repack, written_biases
from hwsim.counting import Counter
from hwsim.names import RECORDS
from mapping.chip.segment import Population
from mapping.graph.evaluate import moved, run_loop
from mapping.graph.ir import Kind, Node, loops_of
from mapping.graph.ops import OPS, run_node
from mapping.mapped import Mapped
from mapping.partition.segments import Segment

OnProgress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


def checked_mapping(mapped: Any) -> Mapped:
    """What is given as a mapping, if it is one.

    Raises:
        BadInput: if it is anything else.
    """
    return given.instance(mapped, Mapped, "a mapping from mapping.map_model or mapping.load")


Recorded = Mapping[str, Mapping[str, Tensor]]
"""Tensors ``[T, N, *shape]`` by chip segment and by port or population."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Run:
    """What a mapped model did with some samples.

    Args:
        backend: the name of the backend that ran the chip segments.
        logits: ``float32[N, classes]``, the model's output; time first if it has steps.
        activity: counts over all samples.
        spikes: if recorded, those of every population by segment and population,
            ``bool[T, N, *shape]``, or payloads of graded ones in whole numbers; else empty.
        inputs: if recorded with the spikes, those into every port by segment and port,
            ``bool[T, N, *shape]``, or the biases that the host wrote, ``int64[N, *shape]``.
        membranes: if recorded, those of every population at the end of each step.
        arithmetic: what each population was computed in, in words; empty where the backend has
            but one.
        state: if kept, what each chip segment remembers after the last step.
        apart: counts of some of the samples, each alone.
    """

    backend: str
    logits: Tensor
    activity: Activity
    spikes: Recorded = field(default_factory=dict)
    inputs: Recorded = field(default_factory=dict)
    membranes: Recorded = field(default_factory=dict)
    arithmetic: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, SegmentState] = field(default_factory=dict)
    apart: tuple[Activity, ...] = ()

    def __repr__(self) -> str:
        """What was run, in a few lines."""
        kept = [name for name in ("spikes", "membranes", "state") if getattr(self, name)]
        return (
            f"Run({self.activity.samples:,} samples on {self.backend}, "
            f"logits {list(self.logits.shape)}, recorded: {', '.join(kept) or 'nothing'})\n"
            f"  {self.activity!r}"
        )

    def _repr_html_(self) -> str:
        """Who spiked how often, for notebooks."""
        first, *_ = repr(self).splitlines()
        rows = []
        for name, counts in self.activity.events.items():
            spikes, places = int(counts.sum()), counts.size * self.activity.samples
            rows.append((name, count(spikes), percent(spikes / places, 1) if places else ""))
        return block(first, table(("tensor", "events", "of all places and steps"), rows))


class Program:
    """A mapping made ready to run on one backend; it can run any number of times.

    Args:
        mapped: from :func:`mapping.map_model`.
        backend: a name of :mod:`hwsim.names`, or a backend.

    Raises:
        UnknownName: for an unknown name.
        BackendError: if the backend cannot run here, or not this mapping.
    """

    def __init__(self, mapped: Mapped, backend: str | Backend = "fast") -> None:
        self.mapped = checked_mapping(mapped)
        self.backend = find_backend(backend)
        registers = mapped.target.registers
        self.executables: dict[str, Executable] = {
            chip.name: self.backend.compile(chip, registers) for chip in mapped.chip_segments
        }
        crossing = {name for segment in mapped.partition.on_chip for name in segment.inputs}
        packed = (node.inputs[0] for node in mapped.graph if node.op == "pack")
        self.sent = {*crossing, *packed}
        self.written = _written(mapped)
        # Images lie as the chip's spikes do; with nothing on the chip, as in the graph's own run.
        self.memory = torch.channels_last if mapped.chip_segments else torch.contiguous_format
        self.host_parts = {
            s.name: loops_of(
                [self._node(node) for node in moved(mapped.graph, s.nodes, torch.empty(0))]
            )
            for s in mapped.partition.on_host
        }

    def run(
        self,
        x: Tensor,
        *,
        batch_size: int = 128,
        record: Collection[str] = (),
        first: int = 0,
        state: Mapping[str, SegmentState] | None = None,
        keep_state: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Run:
        """Run samples: encoders, ANN layers and decoders on the host, the rest on the chip.

        Args:
            x: ``float32[N, *input_shape]``, or ``[T, N, *input_shape]``, as the model takes it.
            batch_size: samples at a time; memory does not grow with N, unless something is kept.
            record: what to keep in the result, of :data:`hwsim.names.RECORDS`.
            first: the number of ``x[0]`` in a run that is done in parts.
            state: what each chip segment starts from, as an earlier run of as many samples kept
                it; None is cleared state.
            keep_state: whether to keep what the chip segments remember after the last step.
            on_progress: called after each batch with (samples done, samples in all).

        Raises:
            BadInput: if the shape of ``x`` does not fit, or it is not finite, or the state is
                not of as many samples.
            BackendError: if the backend fails, or cannot tell what to record.
        """
        x = checked_samples(self.mapped, x, batch_size, record, first, on_progress, state)
        counts = Counter(self.mapped.graph)
        axis = sample_axis(self.mapped)
        parts: list[_Part] = []
        logits: list[Tensor] = []
        arithmetic: dict[str, str] = {}
        done = 0
        with torch.no_grad():
            for batch in x.split(batch_size, axis):
                samples = batch.shape[axis]
                part = _Part(first + done, frozenset(record), keep_state, arithmetic)
                if state is not None:
                    part.state = {n: _samples(s, done, samples) for n, s in state.items()}
                with numbered(part.first):
                    values = self._run_batch(batch, counts, part)
                logits.append(values[self.mapped.graph.output.name].float())
                if record or keep_state:
                    parts.append(part)
                done += samples
                if on_progress is not None:
                    on_progress(done, x.shape[axis])
        return Run(
            self.backend.name,
            _stacked(self.mapped, logits),
            counts.activity(),
            _together([part.spikes for part in parts]),
            _together([part.inputs for part in parts], self.written),
            _together([part.membranes for part in parts]),
            arithmetic,
            _states([part.kept for part in parts]),
        )

    def _run_batch(self, x: Tensor, counts: Counter, part: _Part) -> dict[str, Tensor]:
        """Run one batch, and return the tensors by node that are left at its end."""
        graph, segments = self.mapped.graph, self.mapped.partition.segments
        values: dict[str, Tensor] = {graph.input.name: self._dense(x)}
        counts.begin(x.shape[sample_axis(self.mapped)])
        for place, segment in enumerate(segments):
            if segment.side == "host":
                self._run_host(segment, values, counts)
            else:
                self._run_chip(segment, values, counts, part)
            needed = {name for later in segments[place + 1 :] for name in later.inputs}
            for name in values.keys() - needed - {graph.output.name}:
                del values[name]
        return values

    def _run_host(self, segment: Segment, values: dict[str, Tensor], counts: Counter) -> None:
        for part in self.host_parts[segment.name]:
            if len(part) > 1:
                self._run_loop(part, values, counts)
                continue
            (node,) = part
            inputs = [values[name] for name in node.inputs]
            if OPS[node.op].role == "synapse":
                counts.count(node.inputs[0], inputs[0])
            if node.name in self.written:
                values[node.name] = self._biases(node.name, inputs[0], counts)
            elif node.op == "encode" and node.name in self.sent:
                values[node.name], fired = encode(node, inputs[0])
                counts.add(node.name, fired)
            elif node.op in ("pack", "grade", "unpack"):
                values[node.name] = repack(node, inputs[0])
            elif node.op == "decode" and inputs[0].dtype == torch.bool:
                values[node.name] = decode(node, inputs[0])
            else:
                steps = self.mapped.graph[node.inputs[0]].type.steps
                values[node.name] = run_node(
                    OPS[node.op], node, tuple(x.float() for x in inputs), steps
                )

    def _run_loop(self, nodes: Sequence[Node], values: dict[str, Tensor], counts: Counter) -> None:
        """The nodes of a loop over steps that stays on the host."""
        fed = {
            name: values[name].float() for node in nodes for name in node.inputs if name in values
        }
        run_loop(nodes, fed)
        values.update({node.name: fed[node.name] for node in nodes})
        for node in nodes:
            if OPS[node.op].role == "synapse":
                counts.count(node.inputs[0], values[node.inputs[0]])

    def _biases(self, port: str, current: Tensor, counts: Counter) -> Tensor:
        """What the host writes to the port of a population."""
        population, registers = self.written[port], self.mapped.target.registers
        neuron = self.mapped.graph[population.name]
        biases, clipped = written_biases(neuron, population, registers, current)
        counts.overflow(population.name, Overflow(biases=clipped))
        return biases

    def _membranes(self, segment: Segment, name: str, run: SegmentRun) -> Tensor:
        """What the host reads of a population's membranes, after the last step."""
        population = self.mapped.chip_segment(segment.name).population(name)
        neuron, registers = self.mapped.graph[name], self.mapped.target.registers
        return read_membranes(neuron, population, registers, run.last[name].cpu())

    def _run_chip(
        self, segment: Segment, values: dict[str, Tensor], counts: Counter, part: _Part
    ) -> None:
        fed = {
            port.name: values[port.name]
            if port.kind == "bias" or port.payload.graded
            else binary(values[port.name], port.name)
            for port in self.mapped.chip_segment(segment.name).inputs
        }
        run = self.executables[segment.name](
            fed,
            first=part.first,
            membranes="membranes" in part.record,
            state=part.state.get(segment.name),
            keep_state=part.keep_state,
        )
        counts.add_chip(segment, fed, run)
        for name in segment.outputs:
            node = self.mapped.graph[name]
            if node.op == "last_membrane":
                values[name] = self._membranes(segment, node.inputs[1], run)
            else:
                values[name] = run.spikes[name].cpu()
        part.keep(segment.name, fed, run)

    def _node(self, node: Node) -> Node:
        return replace(node, tensors={name: self._dense(x) for name, x in node.tensors.items()})

    def _dense(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.memory) if x.dim() == 4 else x


def simulate(
    mapped: Mapped,
    x: Tensor,
    backend: str | Backend = "fast",
    *,
    batch_size: int = 128,
    record: Collection[str] = (),
    first: int = 0,
    apart: int = 0,
    on_progress: OnProgress | None = None,
) -> Run:
    """Run a mapped model once: what :class:`Program` does, made ready and run.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: ``float32[N, *input_shape]``, as the model takes it.
        backend: a name of :mod:`hwsim.names`, or a backend.
        batch_size: samples at a time; memory does not grow with N, unless ``record``.
        record: what to keep in the result, of :data:`hwsim.names.RECORDS`.
        first: the number of ``x[0]`` in a run that is done in parts.
        apart: samples, spread evenly over ``x``, that run once more one by one and are counted
            each alone; at most all.
        on_progress: called after each batch with (samples done, samples in all).

    Raises:
        BadInput: if the shape of ``x`` does not fit, or it is not finite.
        BackendError: if the backend cannot run here, fails, or cannot tell what to record.
    """
    x = checked_samples(mapped, x, batch_size, record, first, on_progress)
    whole(apart, "apart", 0)
    program = Program(mapped, backend)
    run = program.run(x, batch_size=batch_size, record=record, first=first, on_progress=on_progress)
    axis, samples = sample_axis(mapped), run.activity.samples
    count = min(apart, samples)
    places = [samples * number // count for number in range(count)]
    alone = (program.run(x.narrow(axis, place, 1), first=first + place) for place in places)
    return replace(run, apart=tuple(one.activity for one in alone))


def joined(mapped: Mapped, parts: Sequence[Run]) -> Run:
    """The run of all samples, from those of its parts, in their order.

    Args:
        mapped: what ran.
        parts: at least one, all by the same backend, with the same things recorded.
    """
    activity = parts[0].activity
    for part in parts[1:]:
        activity += part.activity
    return replace(
        parts[0],
        logits=_stacked(mapped, [part.logits for part in parts]),
        activity=activity,
        spikes=_together([part.spikes for part in parts]),
        inputs=_together([part.inputs for part in parts], _written(mapped)),
        membranes=_together([part.membranes for part in parts]),
        state=_states([part.state for part in parts]),
    )


def checked_samples(
    mapped: Mapped,
    x: Tensor,
    batch_size: int,
    record: Collection[str],
    first: int,
    on_progress: OnProgress | None,
    state: Mapping[str, SegmentState] | None = None,
) -> Tensor:
    """The samples as the model takes them; the other arguments of a run are checked too.

    Raises:
        BadInput: if one of them is of another type or form.
    """
    checked_mapping(mapped)
    record = value(record, list[str], "record")
    if unknown := sorted(set(record) - set(RECORDS)):
        raise BadInput(f"only {' and '.join(RECORDS)} can be recorded, not {', '.join(unknown)}")
    x = given.images(x)
    signal, axis = mapped.graph.input.type, sample_axis(mapped)
    if axis >= x.dim() or (*x.shape[:axis], *x.shape[axis + 1 :]) != (
        *((signal.steps,) if axis else ()),
        *signal.shape,
    ):
        if axis:
            takes = f"steps {(signal.steps, 'N', *signal.shape)}"
        else:
            what = "images" if len(signal.shape) == 3 else "samples"
            takes = f"{what} {('N', *signal.shape)}"
        raise BadInput(f"the model takes {takes}, N > 0, not {tuple(x.shape)}")
    if signal.kind is Kind.SPIKE:
        binary(x, "the input")
    whole(batch_size, "batch_size", 1)
    whole(first, "first", 0)
    given.callback(on_progress)
    if state is not None:
        _check_state(mapped, state, x.shape[axis])
    return x


def sample_axis(mapped: Mapped) -> int:
    """The axis of the samples in what a mapped model takes: 1 behind that of the steps, if any."""
    return mapped.graph.input.type.batch_axis


def _check_state(mapped: Mapped, state: Mapping[str, SegmentState], samples: int) -> None:
    if state.keys() != {chip.name for chip in mapped.chip_segments}:
        raise BadInput(
            f"the state is of the segments {sorted(state)}, and the chip has "
            f"{[chip.name for chip in mapped.chip_segments]}"
        )
    for chip in mapped.chip_segments:
        before = state[chip.name]
        registers = {
            population.name: dict.fromkeys(population.neuron.cleared(0), population.shape)
            for population in chip.populations
        }
        past = {name: (delay, *chip.shape_of(name)) for name, delay in longest_delays(chip).items()}
        if (
            _shapes(before.registers, samples, 0) != registers
            or _shapes({"": before.past}, samples, 1)[""] != past
        ):
            raise BadInput(f"the state of {chip.name!r} must be what it kept of {samples} samples")


def _shapes(
    tensors: Mapping[str, Mapping[str, Tensor]], samples: int, axis: int
) -> dict[str, dict[str, tuple[int, ...] | None]]:
    """Their shapes without the axis of the samples; None where that has another length."""
    return {
        name: {
            key: (*x.shape[:axis], *x.shape[axis + 1 :]) if x.shape[axis] == samples else None
            for key, x in some.items()
        }
        for name, some in tensors.items()
    }


@dataclass(slots=True)
class _Part:
    """What one batch starts from, and what is kept of it."""

    first: int
    record: frozenset[str]
    keep_state: bool
    arithmetic: dict[str, str]
    state: dict[str, SegmentState] = field(default_factory=dict)
    spikes: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    membranes: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    kept: dict[str, SegmentState] = field(default_factory=dict)

    def keep(self, segment: str, fed: Mapping[str, Tensor], run: SegmentRun) -> None:
        """Keep what was asked for of a segment's run."""
        self.arithmetic.update(run.arithmetic)
        if "spikes" in self.record:
            self.spikes[segment] = dict(run.spikes)
            self.inputs[segment] = dict(fed)
        if "membranes" in self.record:
            self.membranes[segment] = dict(run.membranes)
        if run.state is not None:
            self.kept[segment] = run.state


def _stacked(mapped: Mapped, logits: Sequence[Tensor]) -> Tensor:
    """The logits of all samples."""
    return torch.cat(list(logits), dim=mapped.graph.output.type.batch_axis)


def _written(mapped: Mapped) -> dict[str, Population]:
    """The populations whose biases the host writes, by port."""
    populations = [p for chip in mapped.chip_segments for p in chip.populations]
    return {p.bias: p for p in populations if p.bias is not None}


def _together(
    parts: Sequence[Recorded], timeless: Collection[str] = ()
) -> dict[str, dict[str, Tensor]]:
    """What was recorded of all samples, ``[T, N, *shape]``; ``timeless`` lacks the steps."""
    return {
        segment: {
            name: torch.cat([part[segment][name] for part in parts], dim=int(name not in timeless))
            for name in tensors
        }
        for segment, tensors in (parts[0] if parts else {}).items()
    }


def _samples(state: SegmentState, start: int, count: int) -> SegmentState:
    """The state of some of its samples."""
    some = slice(start, start + count)
    registers = {
        name: {key: register[some] for key, register in of_neurons.items()}
        for name, of_neurons in state.registers.items()
    }
    return SegmentState(registers, {name: past[:, some] for name, past in state.past.items()})


def _states(parts: Sequence[Mapping[str, SegmentState]]) -> dict[str, SegmentState]:
    """The state of all samples."""
    return {
        segment: SegmentState(
            {
                name: {
                    key: torch.cat([part[segment].registers[name][key] for part in parts])
                    for key in registers
                }
                for name, registers in state.registers.items()
            },
            {
                name: torch.cat([part[segment].past[name] for part in parts], dim=1)
                for name in state.past
            },
        )
        for segment, state in (parts[0] if parts else {}).items()
    }
