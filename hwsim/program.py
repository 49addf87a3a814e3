"""Whole models: host segments in torch, chip segments in a backend, logits out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from has8.errors import BackendError, BadInput
from has8.registry import Registry
from hwsim.activity import Activity, Backend, Counts, Executable, Overflow, Run, SegmentRun
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava
from hwsim.backends.reference import Reference
from hwsim.boundary import count, decode, encode
from mapping import Mapped
from mapping.graph.evaluate import moved
from mapping.graph.ir import Graph, Node
from mapping.graph.ops import OPS, run_node
from mapping.partition.cut import Segment
from mapping.targets.prices import HostLink

BACKENDS: Registry[Callable[[], Backend]] = Registry("backend")
"""Makers of backends by name."""
for _maker in (Fast, Reference, Lava):
    BACKENDS.register(_maker.name)(_maker)

RECORDS = ("spikes", "membranes")
"""What a run can keep."""

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""


def find_backend(backend: str | Backend) -> Backend:
    """A backend by name, or the one given, checked to be available.

    Raises:
        UnknownName: for an unknown name.
        BackendError: if it cannot run here; the message says why.
    """
    found = BACKENDS.get(backend)() if isinstance(backend, str) else backend
    reason = found.unavailable()
    if reason is not None:
        raise BackendError(reason)
    return found


def simulate(
    mapped: Mapped,
    x: Tensor,
    backend: str | Backend = "fast",
    *,
    batch_size: int = 128,
    record: Collection[str] = (),
    first: int = 0,
    on_progress: Progress | None = None,
) -> Run:
    """Run a mapped model: encoders, ANN layers and decoders on the host, the rest on the chip.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: ``float32[N, *input_shape]``, as the model takes it.
        backend: a name in :data:`BACKENDS`, or a backend.
        batch_size: samples at a time; memory does not grow with N, unless ``record``.
        record: what to keep in the result, of :data:`RECORDS`.
        first: the number of ``x[0]`` in a run that is done in parts.
        on_progress: called after each batch.

    Raises:
        BadInput: if the shape of ``x`` does not fit, or it is not finite.
        BackendError: if the backend cannot run here, fails, or cannot tell what to record.
    """
    if unknown := sorted(set(record) - set(RECORDS)):
        raise BadInput(f"only {' and '.join(RECORDS)} can be recorded, not {', '.join(unknown)}")
    shape = mapped.graph.input.type.shape
    if tuple(x.shape[1:]) != shape or len(x) == 0:
        raise BadInput(f"the model takes images {('N', *shape)}, N > 0, not {tuple(x.shape)}")
    if batch_size < 1:
        raise BadInput(f"batch_size must be at least 1, not {batch_size}")
    if not x.is_floating_point() or not bool(x.float().isfinite().all()):
        raise BadInput(f"images must be finite floats, as the model was trained on, not {x.dtype}")
    runner = _Runner(mapped, find_backend(backend))
    parts: list[_Part] = []
    logits: list[Tensor] = []
    done = 0
    with torch.no_grad():
        for batch in x.split(batch_size):
            part = runner(batch.float(), record, first + done)
            logits.append(part.values[mapped.graph.output.name].float())
            if record:
                parts.append(part)
            done += len(batch)
            if on_progress is not None:
                on_progress(done, len(x))
    return Run(
        runner.backend.name,
        _stacked(mapped, logits),
        runner.counts.activity(),
        _together([part.spikes for part in parts]),
        _together([part.inputs for part in parts]),
        _together([part.membranes for part in parts]),
        runner.arithmetic,
    )


class _Runner:
    """A mapped model made ready to run batch by batch; it counts on the way."""

    def __init__(self, mapped: Mapped, backend: Backend) -> None:
        self.graph, self.backend = mapped.graph, backend
        self.segments = mapped.partition.segments
        registers = mapped.target.registers
        self.executables: dict[str, Executable] = {
            chip.name: backend.compile(chip, registers) for chip in mapped.chips
        }
        self.sent = {name for segment in mapped.partition.chip for name in segment.inputs}
        # Images lie as the chip's spikes do; with nothing on the chip, as in the graph's own run.
        self.memory = torch.channels_last if mapped.chips else torch.contiguous_format
        self.host_nodes = {
            s.name: [self._node(node) for node in moved(self.graph, s.nodes, torch.empty(0))]
            for s in mapped.partition.host
        }
        self.counts = _Counts(self.graph, mapped.target.link)
        self.arithmetic: dict[str, str] = {}

    def __call__(self, x: Tensor, record: Collection[str], first: int) -> _Part:
        values: dict[str, Tensor] = {self.graph.input.name: self._dense(x)}
        part = _Part(values)
        self.counts.begin(len(x))
        for place, segment in enumerate(self.segments):
            if segment.side == "host":
                self._run_host(segment, values)
            else:
                self._run_chip(segment, values, part, record, first)
            self._forget(values, place)
        return part

    def _run_host(self, segment: Segment, values: dict[str, Tensor]) -> None:
        for node in self.host_nodes[segment.name]:
            inputs = [values[name] for name in node.inputs]
            if OPS[node.op].role == "synapse":
                self.counts.count(node.inputs[0], inputs[0])
            if node.op == "encode" and node.name in self.sent:
                values[node.name], fired = encode(node, inputs[0])
                self.counts.add(node.name, fired)
            elif node.op == "decode" and inputs[0].dtype == torch.bool:
                values[node.name] = decode(node, inputs[0])
            else:
                steps = self.graph[node.inputs[0]].type.steps
                values[node.name] = run_node(
                    OPS[node.op], node, tuple(x.float() for x in inputs), steps
                )

    def _run_chip(
        self,
        segment: Segment,
        values: dict[str, Tensor],
        part: _Part,
        record: Collection[str],
        first: int,
    ) -> None:
        fed = {name: values[name].bool() for name in segment.inputs}
        execute = self.executables[segment.name]
        run = execute(fed, first=first, membranes="membranes" in record)
        self.counts.add_chip(segment, fed, run)
        self.arithmetic.update(run.arithmetic)
        values.update({name: run.spikes[name].cpu() for name in segment.outputs})
        if "spikes" in record:
            part.spikes[segment.name] = dict(run.spikes)
            part.inputs[segment.name] = fed
        if "membranes" in record:
            part.membranes[segment.name] = dict(run.membranes)

    def _node(self, node: Node) -> Node:
        return replace(node, tensors={name: self._dense(x) for name, x in node.tensors.items()})

    def _dense(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.memory) if x.dim() == 4 else x

    def _forget(self, values: dict[str, Tensor], place: int) -> None:
        """Drop what no later segment needs."""
        needed = {name for segment in self.segments[place + 1 :] for name in segment.inputs}
        needed.add(self.graph.output.name)
        for name in [name for name in values if name not in needed]:
            del values[name]


Recorded = dict[str, dict[str, Tensor]]


@dataclass(slots=True)
class _Part:
    """What is kept of one batch."""

    values: dict[str, Tensor]
    spikes: Recorded = field(default_factory=dict)
    inputs: Recorded = field(default_factory=dict)
    membranes: Recorded = field(default_factory=dict)


class _Counts:
    """Activity so far; memory does not grow with the samples."""

    def __init__(self, graph: Graph, link: HostLink) -> None:
        self.graph, self.link, self.samples = graph, link, 0
        self.boundary_bytes: dict[tuple[str, str], int] = {}
        self.events: dict[str, Counts] = {}
        self.updated: dict[str, Counts] = {}
        self.overflows: dict[str, Overflow] = {}
        self.seen: dict[str, int] = {}

    def begin(self, samples: int) -> None:
        """A new batch."""
        self.samples += samples
        self.seen = {}

    def count(self, name: str, x: Tensor) -> None:
        """Count what is not zero in the tensor of node ``name``, once in a batch."""
        if name not in self.seen:
            self.add(name, count(x, 0 if self.graph[name].type.steps is None else 1))

    def add(self, name: str, counts: Counts) -> None:
        """Take over what was counted of node ``name``."""
        self.seen[name] = int(counts.sum())
        _add(self.events, name, counts)

    def add_chip(self, segment: Segment, fed: Mapping[str, Tensor], run: SegmentRun) -> None:
        """Count the spikes into and inside a chip segment."""
        for name, fired in run.fired.items():
            self.add(name, fired)
        for name, spikes in (*fed.items(), *run.spikes.items()):
            self.count(name, spikes)
        for way, names in (("in", segment.inputs), ("out", segment.outputs)):
            crossed = sum(self.seen[name] for name in names)
            bits = self.boundary_bytes.get((segment.name, way), 0)
            self.boundary_bytes[segment.name, way] = bits + self.link.message_bytes(crossed)
        for name, updated in run.updated.items():
            _add(self.updated, name, updated)
        for name, overflow in run.overflows.items():
            self.overflows[name] = self.overflows.get(name, Overflow()) + overflow

    def activity(self) -> Activity:
        """What was counted."""
        return Activity(
            self.samples, self.events, self.updated, self.overflows, self.boundary_bytes
        )


def _add(totals: dict[str, Counts], name: str, counts: Counts) -> None:
    if name in totals:
        totals[name] += counts
    else:
        totals[name] = counts.copy()


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
        inputs=_together([part.inputs for part in parts]),
        membranes=_together([part.membranes for part in parts]),
    )


def _stacked(mapped: Mapped, logits: Sequence[Tensor]) -> Tensor:
    """The logits of all samples."""
    return torch.cat(list(logits), dim=0 if mapped.graph.output.type.steps is None else 1)


def _together(parts: Sequence[Mapping[str, Mapping[str, Tensor]]]) -> Recorded:
    """What was recorded of all samples, ``[T, N, *shape]``."""
    return {
        segment: {
            name: torch.cat([part[segment][name] for part in parts], dim=1) for name in tensors
        }
        for segment, tensors in (parts[0] if parts else {}).items()
    }
