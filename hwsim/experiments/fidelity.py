"""A mapped model beside its own float graph: the answers, and every spike of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from has8 import given
from has8.encoders import numbered
from has8.values import whole
from hwsim.activity import Overflow
from hwsim.backends.protocol import Backend
from hwsim.experiments.divergence import Divergence
from hwsim.experiments.recording import Recording
from hwsim.program import OnProgress, Program, Run, checked_mapping, sample_axis
from mapping import Mapped
from mapping.graph.evaluate import evaluate_nodes, moved
from mapping.graph.ir import Graph, Node, loops_of
from mapping.graph.resets import as_trained, changed_resets
from mapping.partition.grading import ungraded

Batch = tuple[Tensor, Tensor | None]
"""Images ``float32[B, *input_shape]`` and labels ``int64[B]``, if they are known."""


@dataclass(frozen=True, slots=True)
class LayerAgreement:
    """A layer on the chip beside the float graph's.

    Args:
        segment: the chip segment.
        population: the layer.
        values: spike values (0 or 1) that were compared: steps x samples x neurons.
        differing: how many differ.
        spikes: how many values are spikes on the chip.
        float_spikes: how many are in the float graph.
        first: the first that differs, by step, then by sample: the chip's on the left, the float
            graph's on the right; None if there is none.
        overflow: registers that left their range; None where the backend cannot tell.
        arithmetic: what it was computed in, in words; empty where the backend has but one way.
    """

    segment: str
    population: str
    values: int
    differing: int
    spikes: int
    float_spikes: int
    first: Divergence | None
    overflow: Overflow | None
    arithmetic: str

    @property
    def share(self) -> float:
        """The part of all values that differ, 0 to 1."""
        return self.differing / self.values

    def __add__(self, other: LayerAgreement) -> LayerAgreement:
        """The agreement over the samples of both."""
        both = [found for found in (self.first, other.first) if found is not None]
        known = self.overflow is not None and other.overflow is not None
        return replace(
            self,
            values=self.values + other.values,
            differing=self.differing + other.differing,
            spikes=self.spikes + other.spikes,
            float_spikes=self.float_spikes + other.float_spikes,
            first=min(both, key=lambda d: (d.step, d.sample, d.index), default=None),
            overflow=self.overflow + other.overflow if known else None,  # type: ignore[operator]
        )


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """What a mapped model answered and did, beside its float graph.

    Args:
        backend: the name of the backend that ran the chip segments.
        answers: ``int64[N]``, the class with the largest logit of each sample.
        float_answers: ``int64[N]``, the float graph's.
        labels: ``int64[N]``, the right classes; None if they are not known.
        layers: of the chip, in the order of execution.
        trained_answers: ``int64[N]``, the float graph's with the resets that it was trained with;
            None where the mapping keeps them.
    """

    backend: str
    answers: Tensor
    float_answers: Tensor
    labels: Tensor | None
    layers: tuple[LayerAgreement, ...]
    trained_answers: Tensor | None = None

    @property
    def samples(self) -> int:
        """How many samples were run."""
        return len(self.answers)

    @property
    def same(self) -> Tensor:
        """``bool[N]``: the samples that get the answer of the float graph."""
        return self.answers == self.float_answers

    @property
    def share(self) -> float:
        """The part of the samples that get the answer of the float graph, 0 to 1."""
        return float(self.same.double().mean())

    @property
    def accuracy(self) -> float | None:
        """The part of right answers, 0 to 1; None without labels."""
        return _accuracy(self.answers, self.labels)

    @property
    def float_accuracy(self) -> float | None:
        """The float graph's part of right answers, 0 to 1; None without labels."""
        return _accuracy(self.float_answers, self.labels)

    @property
    def trained_accuracy(self) -> float | None:
        """The part of right answers as it was trained; None without labels, or other resets."""
        known = self.trained_answers
        return None if known is None else _accuracy(known, self.labels)

    @property
    def reset_share(self) -> float | None:
        """The part of the samples whose answer another reset alone leaves as it was, 0 to 1."""
        known = self.trained_answers
        return None if known is None else float((known == self.float_answers).double().mean())

    @property
    def overflow(self) -> Overflow | None:
        """Registers that left their range, over all layers; None where it is not known."""
        found = [layer.overflow for layer in self.layers]
        return None if None in found else reduce(add, found, Overflow())


def agreement(
    mapped: Mapped,
    x: Tensor,
    backend: str | Backend = "fast",
    *,
    labels: Tensor | None = None,
    batch_size: int = 128,
    first: int = 0,
    recording: Recording | None = None,
    on_progress: OnProgress | None = None,
) -> Agreement:
    """Run a mapped model and compare it with its float graph, layer by layer.

    Memory does not grow with N but for the answers: the spikes of a batch are compared and
    forgotten, unless they are recorded.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: ``float32[N, *input_shape]``.
        backend: a name of :mod:`hwsim.names`, or a backend.
        labels: ``int64[N]``, the right classes.
        batch_size: samples at a time.
        first: the number of ``x[0]`` in a run that is done in parts.
        recording: is given the spikes, membranes and logits that it keeps.
        on_progress: called after each batch with (samples done, samples in all).

    Raises:
        BadInput: if the shape of ``x`` does not fit, or it is not finite.
        BackendError: if the backend cannot run here, fails, or cannot tell what to record.
    """
    (found,) = agreements(
        mapped,
        paired(mapped, x, labels, batch_size),
        [backend],
        total=len(x),
        first=first,
        recording=recording,
        on_progress=on_progress,
    )
    return found


def agreements(
    mapped: Mapped,
    batches: Iterable[Batch],
    backends: Sequence[str | Backend],
    *,
    total: int,
    first: int = 0,
    recording: Recording | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[Agreement, ...]:
    """Run a mapped model on several backends, over images that are read as they are needed.

    The float graph runs once for each batch, however many backends are compared with it.

    Args:
        mapped: from :func:`mapping.map_model`.
        batches: at least one; pairs of images and labels.
        backends: at least one; names or backends.
        total: how many samples there are in all batches, for ``on_progress``.
        first: the number of the first sample.
        recording: is given what the first backend does.
        on_progress: called after each batch with (samples done, samples in all).

    Returns:
        One for each backend. Those of parts of a run go into :func:`joined_agreements`.

    Raises:
        BadInput, BackendError: as :func:`agreement`.
    """
    given.callback(on_progress)
    first = whole(first, "first", 0)
    if recording is not None:
        given.instance(recording, Recording, "a hwsim.Recording, or None")
    axis = sample_axis(mapped)
    programs = [Program(mapped, backend) for backend in backends]
    classes = mapped.graph.output.type.shape[-1]
    graph, done = FloatGraph(mapped), 0
    trained = FloatGraph(mapped, trained=True) if changed_resets(mapped.graph) else None
    parts: list[tuple[Agreement, ...]] = []
    for x, labels in batches:
        images = given.images(x)
        if labels is not None:
            labels = given.labels(labels, images.shape[axis], classes)
        parts.append(
            tuple(_batch(graph, trained, programs, images, labels, first + done, recording))
        )
        done += images.shape[axis]
        if on_progress is not None:
            on_progress(done, total)
    return tuple(map(joined_agreements, zip(*parts, strict=True)))


def _batch(
    graph: FloatGraph,
    trained: FloatGraph | None,
    programs: Iterable[Program],
    images: Tensor,
    labels: Tensor | None,
    first: int,
    recording: Recording | None,
) -> Iterator[Agreement]:
    """One batch on each backend; what the first does is recorded."""
    reference: tuple[dict[str, Tensor], Tensor] | None = None
    before: Tensor | None = None
    for program in programs:
        mapped, record = program.mapped, {"spikes"}
        if reference is None and recording is not None:
            record |= recording.record
        run = program.run(
            images, batch_size=images.shape[sample_axis(mapped)], record=record, first=first
        )
        if reference is None:  # the run has checked the images
            with numbered(first):
                reference = graph(images)
                if trained is not None:
                    before = answers_of(mapped.graph, trained(images)[1])
            if recording is not None:
                recording.add(run, reference[1], labels, first)
        spikes, logits = reference
        layers = tuple(_layers(mapped, run, spikes, first))
        answers, expected = (answers_of(mapped.graph, item) for item in (run.logits, logits))
        yield Agreement(run.backend, answers, expected, labels, layers, before)


def joined_agreements(parts: Sequence[Agreement]) -> Agreement:
    """The agreement over the samples of all parts, in their order.

    Args:
        parts: at least one, of the same mapping and backend.
    """
    labels = [part.labels for part in parts if part.labels is not None]
    before = [part.trained_answers for part in parts if part.trained_answers is not None]
    return Agreement(
        parts[0].backend,
        torch.cat([part.answers for part in parts]),
        torch.cat([part.float_answers for part in parts]),
        torch.cat(labels) if len(labels) == len(parts) else None,
        tuple(reduce(add, layers) for layers in zip(*(part.layers for part in parts), strict=True)),
        torch.cat(before) if before else None,
    )


def paired(mapped: Mapped, x: Tensor, labels: Tensor | None, batch_size: int) -> Iterator[Batch]:
    """Images and labels, if there are any, in batches.

    Raises:
        BadInput: if they are of another form, there is not one label for each image or one that is
            no class of the model, or no image in a batch.
    """
    checked_mapping(mapped)
    x = given.images(x)
    batch_size = whole(batch_size, "batch_size", 1)
    axis = min(sample_axis(mapped), x.dim() - 1)
    if labels is not None:
        labels = given.labels(labels, x.shape[axis], mapped.graph.output.type.shape[-1])
    images = x.split(batch_size, axis)
    return zip(
        images, [None] * len(images) if labels is None else labels.split(batch_size), strict=True
    )


class FloatGraph:
    """The graph of a mapping in float: the one baseline that a chip is held against.

    Args:
        mapped: whose graph to run.
        trained: whether neurons reset as they were trained, where the mapping has changed that.
    """

    def __init__(self, mapped: Mapped, *, trained: bool = False) -> None:
        whole = ungraded(mapped.graph)  # values as they were, not rounded
        self.graph = as_trained(whole) if trained else whole
        self.parts = loops_of(moved(self.graph, (n.name for n in self.graph), torch.empty(0)))
        self.kept = {
            population.name: getattr(torch, population.payload.kind)
            for chip in mapped.chip_segments
            for population in chip.populations
        }
        self.last = {
            source: place
            for place, part in enumerate(self.parts)
            for node in part
            for source in (node.name, *node.inputs)
        }

    def __call__(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Run a batch.

        Args:
            x: ``float32[B, *input_shape]``.

        Returns:
            The spikes of the layers that the chip has, by name, ``bool[T, B, *shape]`` or their
            payloads, and the logits.
        """
        values, spikes = {self.graph.input.name: x}, {}
        output = self.graph.output.name
        for place, part in enumerate(self.parts):
            evaluate_nodes(self.graph, part, values)
            for node in part:
                if node.name in self.kept:
                    spikes[node.name] = values[node.name].to(self.kept[node.name])
            for name in [n for n in values if n != output and self.last[n] <= place]:
                del values[name]
        return spikes, values[output]


def float_answers(
    mapped: Mapped,
    x: Tensor,
    *,
    batch_size: int = 128,
    trained: bool = False,
    on_progress: OnProgress | None = None,
) -> Tensor:
    """The classes that the float graph of a mapping answers.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: ``float32[N, *input_shape]``.
        batch_size: samples at a time.
        trained: whether neurons reset as they were trained, where the mapping has changed that.
        on_progress: called after each batch with (samples done, samples in all).

    Returns:
        ``int64[N]``, the class with the largest logit; steps are summed.
    """
    checked_mapping(mapped)
    x = x if isinstance(x, Tensor) and len(x) == 0 else given.images(x)
    graph, answers = FloatGraph(mapped, trained=trained), [torch.empty(0, dtype=torch.int64)]
    axis, done = sample_axis(mapped), 0
    for batch in x.split(batch_size, axis):
        with numbered(done):
            answers.append(answers_of(mapped.graph, graph(batch)[1]))
        done += batch.shape[axis]
        if on_progress is not None:
            on_progress(done, x.shape[axis])
    return torch.cat(answers)


def _layers(
    mapped: Mapped, run: Run, spikes: Mapping[str, Tensor], first: int
) -> Iterator[LayerAgreement]:
    """Every layer of a run beside the float graph's spikes."""
    for chip in mapped.chip_segments:
        for population in chip.populations:
            name = population.name
            mine, other = run.spikes[chip.name][name].cpu().numpy(), spikes[name].numpy()
            differs = mine != other
            divergence = None
            if differing := int(np.count_nonzero(differs)):
                where = tuple(map(int, np.unravel_index(int(differs.argmax()), differs.shape)))
                step, sample, *index = where
                values = int(mine[where]), int(other[where])
                divergence = Divergence(
                    chip.name, name, step, first + sample, tuple(index), *values
                )
            yield LayerAgreement(
                chip.name,
                name,
                mine.size,
                differing,
                int(np.count_nonzero(mine)),
                int(np.count_nonzero(other)),
                divergence,
                run.activity.overflows.get(name),
                run.arithmetic.get(name, ""),
            )


def answers_of(graph: Graph, logits: Tensor) -> Tensor:
    """The class with the largest logit, ``int64[B]``; steps are summed."""
    node: Node = graph.output
    total = logits if node.type.steps is None else logits.sum(0)
    if node.op == "stack":
        total = logits.sum(node.attrs["axis"])
    return total.flatten(1).argmax(1)


def _accuracy(answers: Tensor, labels: Tensor | None) -> float | None:
    return None if labels is None else float((answers == labels).double().mean())
