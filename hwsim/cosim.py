"""Whole models: host segments in torch, chip segments in a backend, logits out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from has8.errors import BackendError, BadInput
from has8.registry import Registry
from hwsim.backend import Activity, Backend, Counts, Executable, Overflow, Run, SegmentRun
from hwsim.fast import Fast
from hwsim.lava import Lava
from hwsim.reference import Reference
from mapping import Mapped
from mapping.evaluate import evaluate_nodes, moved
from mapping.ir import Graph, Node
from mapping.ops import OPS
from mapping.partition import Segment
from mapping.prices import HostLink

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
    if not x.is_floating_point() or not bool(x.isfinite().all()):
        raise BadInput(f"images must be finite floats, as the model was trained on, not {x.dtype}")
    runner = _Runner(mapped, find_backend(backend))
    parts = []
    done = 0
    for batch in x.split(batch_size):
        parts.append(runner(batch.float(), record, first + done))
        done += len(batch)
        if on_progress is not None:
            on_progress(done, len(x))
    return joined(mapped, parts)


class _Runner:
    """A mapped model made ready to run batch by batch."""

    def __init__(self, mapped: Mapped, backend: Backend) -> None:
        self.graph, self.backend = mapped.graph, backend
        self.segments = mapped.partition.segments
        self.chips = {chip.name: chip for chip in mapped.chips}
        self.link = mapped.target.link
        registers = mapped.target.registers
        self.executables: dict[str, Executable] = {
            name: backend.compile(chip, registers) for name, chip in self.chips.items()
        }
        like = torch.empty(0)
        self.host_nodes = {s.name: moved(self.graph, s.nodes, like) for s in mapped.partition.host}

    def __call__(self, x: Tensor, record: Collection[str], first: int) -> Run:
        values: dict[str, Tensor] = {self.graph.input.name: x}
        counts = _Counts(self.graph, self.link)
        spikes: dict[str, dict[str, Tensor]] = {}
        inputs: dict[str, dict[str, Tensor]] = {}
        membranes: dict[str, dict[str, Tensor]] = {}
        for place, segment in enumerate(self.segments):
            if segment.side == "host":
                nodes = self.host_nodes[segment.name]
                evaluate_nodes(self.graph, nodes, values, counts.watch)
            else:
                fed = {name: values[name].bool() for name in segment.inputs}
                execute = self.executables[segment.name]
                run = execute(fed, first=first, membranes="membranes" in record)
                counts.add_chip(segment, fed, run)
                for name in segment.outputs:
                    values[name] = run.spikes[name].to("cpu", torch.float32)
                if "spikes" in record:
                    spikes[segment.name] = dict(run.spikes)
                    inputs[segment.name] = fed
                if "membranes" in record:
                    membranes[segment.name] = dict(run.membranes)
            self._forget(values, place)
        logits = values[self.graph.output.name]
        activity = counts.activity(len(x))
        return Run(self.backend.name, logits, activity, spikes, inputs, membranes)

    def _forget(self, values: dict[str, Tensor], place: int) -> None:
        """Drop what no later segment needs."""
        needed = {name for segment in self.segments[place + 1 :] for name in segment.inputs}
        needed.add(self.graph.output.name)
        for name in [name for name in values if name not in needed]:
            del values[name]


class _Counts:
    """Activity of one batch while it runs."""

    def __init__(self, graph: Graph, link: HostLink) -> None:
        self.graph, self.link = graph, link
        self.boundary_bytes: dict[tuple[str, str], int] = {}
        self.events: dict[str, Counts] = {}
        self.updated: dict[str, Counts] = {}
        self.overflows: dict[str, Overflow] = {}

    def watch(self, node: Node, inputs: tuple[Tensor, ...]) -> None:
        """Count the non-zero inputs of the host's synapses."""
        if OPS[node.op].role == "synapse":
            self.count(node.inputs[0], inputs[0])

    def count(self, name: str, x: Tensor) -> None:
        """Count what is not zero in the tensor of node ``name``, over the batch axis."""
        if name not in self.events:
            batch_axis = 0 if self.graph[name].type.steps is None else 1
            self.events[name] = (x != 0).sum(batch_axis).cpu().numpy()

    def add_chip(self, segment: Segment, fed: Mapping[str, Tensor], run: SegmentRun) -> None:
        """Count the spikes into and inside a chip segment."""
        for name, spikes in (*fed.items(), *run.spikes.items()):
            self.count(name, spikes)
        for way, names in (("in", segment.inputs), ("out", segment.outputs)):
            crossed = sum(int(self.events[name].sum()) for name in names)
            self.boundary_bytes[segment.name, way] = self.link.message_bytes(crossed)
        self.updated.update(run.updated)
        self.overflows.update(run.overflows)

    def activity(self, samples: int) -> Activity:
        """What was counted."""
        return Activity(samples, self.events, self.updated, self.overflows, self.boundary_bytes)


def joined(mapped: Mapped, parts: Sequence[Run]) -> Run:
    """The run of all samples, from those of its parts, in their order.

    Args:
        mapped: what ran.
        parts: at least one, all by the same backend, with the same things recorded.
    """

    def recorded(what: str) -> dict[str, dict[str, Tensor]]:
        first = getattr(parts[0], what)
        return {
            segment: {
                name: torch.cat([getattr(part, what)[segment][name] for part in parts], dim=1)
                for name in tensors
            }
            for segment, tensors in first.items()
        }

    activity = parts[0].activity
    for part in parts[1:]:
        activity += part.activity
    batch_axis = 0 if mapped.graph.output.type.steps is None else 1
    logits = torch.cat([part.logits for part in parts], dim=batch_axis)
    kept = (recorded(what) for what in ("spikes", "inputs", "membranes"))
    return Run(parts[0].backend, logits, activity, *kept)
