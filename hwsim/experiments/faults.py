"""Faults and noise as experiments: what a chip computes when some of it is broken.

A fault strikes where a uniform draw lies below its rate, so what is struck at one rate is struck
at every higher one, and accuracies at several rates can be compared. A draw depends on the seed,
on the names of the segment and of what may be struck, and on the number of the sample, on nothing
else: neither batches nor processes that share the samples change a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from has8 import given
from has8.errors import BackendError, BadInput, UnknownName
from has8.values import check_fields, value
from hwsim.activity import Overflow
from hwsim.backends.fast.layout import logical
from hwsim.backends.protocol import (
    Backend,
    Executable,
    SegmentRun,
    SegmentState,
)
from hwsim.backends.registry import find_backend, named_backend
from hwsim.boundary import count
from hwsim.experiments.fidelity import Agreement, agreements, paired
from hwsim.program import OnProgress
from mapping import Mapped
from mapping.chip.grid import weight_grid
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.targets.schema import Registers

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Faults:
    """What breaks, with which probability.

    Args:
        weight_bitflips: that a stored bit of a weight is flipped; it stays so for all samples.
        dead_neurons: that a neuron never sends a spike.
        dropped_spikes: that a spike is lost, on its way into a segment or when a neuron sends it;
            no target gets it then.
        seed: at least 0; of all draws.

    Raises:
        BadInput: if a probability is not in [0, 1], or the seed is negative.
    """

    weight_bitflips: float = 0.0
    dead_neurons: float = 0.0
    dropped_spikes: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        probability = (lambda x: 0 <= x <= 1, "a probability, 0 to 1")
        seed = (lambda n: n >= 0, "a whole number of at least 0")
        check_fields(self, {**dict.fromkeys(_FIELDS.values(), probability), "seed": seed})

    @classmethod
    def parse(cls, text: str, seed: int = 0) -> Faults:
        """Read ``weight-bitflips=1e-4,dead-neurons=0.01``; what is not named does not happen.

        Raises:
            UnknownName: for a fault of another name.
            BadInput: if a rate is missing, no probability, or given twice.
        """
        rates: dict[str, float] = {}
        for item in value(text, str, "faults").split(","):
            name, _, rate = (part.strip() for part in item.partition("="))
            if name not in _FIELDS:
                raise UnknownName("fault", name, _FIELDS)
            try:
                number = float(rate)
            except ValueError:
                number = math.nan
            if _FIELDS[name] in rates or not 0 <= number <= 1:
                raise BadInput(
                    f"cannot take {item.strip()!r}: expected {name} once, with a probability from "
                    f"0 to 1, such as {name}=0.001"
                )
            rates[_FIELDS[name]] = number
        return cls(**rates, seed=seed)

    @property
    def rates(self) -> dict[str, float]:
        """The probabilities by the names that :meth:`parse` takes."""
        return {name: getattr(self, field) for name, field in _FIELDS.items()}

    def scaled(self, severity: float) -> Faults:
        """These faults with all probabilities multiplied.

        Raises:
            BadInput: if the severity is negative or makes a probability larger than 1.
        """
        severity = value(severity, float, "a severity")
        if not 0 <= severity < math.inf:
            raise BadInput(f"a severity must be a finite number of at least 0, not {severity:g}")
        for name, rate in self.rates.items():
            if rate * severity > 1:
                raise BadInput(
                    f"severity {severity:g} makes {name} {rate * severity:g}, and a probability "
                    f"is at most 1: lower the severity or the rate {rate:g}"
                )
        return replace(self, **{f: getattr(self, f) * severity for f in _FIELDS.values()})


_FIELDS = {f.name.replace("_", "-"): f.name for f in fields(Faults) if f.name != "seed"}


@dataclass(frozen=True, slots=True)
class FaultPoint:
    """One severity of :func:`fault_sweep`.

    Args:
        severity: what the rates were multiplied by.
        faults: the rates that this gives.
        agreement: what the broken chip did, beside the float model.
    """

    severity: float
    faults: Faults
    agreement: Agreement


def fault_sweep(
    mapped: Mapped,
    x: Tensor,
    labels: Tensor | None,
    faults: Faults,
    severities: Sequence[float] = (0.0, 0.1, 1.0, 10.0),
    backend: str | Backend = "fast",
    *,
    batch_size: int = 128,
    first: int = 0,
    on_progress: OnProgress | None = None,
) -> tuple[FaultPoint, ...]:
    """How a mapped model fares as more and more of the chip is broken.

    Args:
        mapped: from :func:`mapping.map_model`.
        x: ``float32[N, *input_shape]``.
        labels: ``int64[N]``, the right classes; None if they are not known.
        faults: at severity 1.
        severities: at least one; what all rates are multiplied by. At 0 nothing is broken.
        backend: a name, or a backend.
        batch_size: samples at a time; it changes no draw.
        first: the number of ``x[0]`` in a run that is done in parts.
        on_progress: called after each batch with (samples done, samples in all).

    Returns:
        A point for each severity, in their order.

    Raises:
        BadInput: if there is no severity or one makes a rate no probability, or images and labels
            do not fit each other or the model.
        BackendError: if the backend cannot run here, fails, or keeps no state where a segment
            has loops.
    """

    def run(backends: Sequence[Backend]) -> tuple[Agreement, ...]:
        batches = paired(mapped, x, labels, batch_size)
        return agreements(
            mapped, batches, backends, total=len(x), first=first, on_progress=on_progress
        )

    return fault_points(faults, severities, backend, run)


def fault_points(
    faults: Faults,
    severities: Sequence[float],
    backend: str | Backend,
    run: Callable[[Sequence[Backend]], Sequence[Agreement]],
) -> tuple[FaultPoint, ...]:
    """A sweep over severities, however the samples are run.

    Args:
        faults: at severity 1.
        severities: at least one; what all rates are multiplied by.
        backend: a name, or a backend; it is broken once for each severity.
        run: given the broken backends, runs the same samples on each of them.

    Raises:
        BadInput: if there is no severity or one makes a rate no probability.
        BackendError: if the backend cannot run here.
    """
    given.instance(faults, Faults, "hwsim.Faults")
    severities = value(severities, tuple[float, ...], "severities")
    if not severities:
        raise BadInput("there are no severities: name at least one, such as 1")
    scaled = [faults.scaled(severity) for severity in severities]
    inner = find_backend(backend)
    return tuple(map(FaultPoint, severities, scaled, run([Faulty(inner, f) for f in scaled])))


class Faulty:
    """A backend whose chip is broken.

    It runs a segment's populations one after another on another backend, as segments of their
    own, so that spikes can be lost in between; those of a loop step by step. A neuron whose spike
    is lost fires and resets all the same. Spikes in a run's result are those that were sent and
    not lost.

    Args:
        inner: runs the populations; a name, or a backend.
        faults: what breaks.

    Raises:
        BadInput, BackendError, UnknownName: if these are anything else.
    """

    def __init__(self, inner: str | Backend, faults: Faults) -> None:
        self.inner = named_backend(inner)
        self.faults = given.instance(faults, Faults, "hwsim.Faults")
        self.name = f"{self.inner.name} with faults"

    def unavailable(self) -> str | None:
        """Why the inner backend cannot run here; None if it can."""
        return self.inner.unavailable()

    def compile(self, segment: ChipSegment, registers: Registers) -> Executable:
        """Break weights and neurons.

        Raises:
            BackendError: if the inner backend cannot run a population.
        """
        executables, alive = {}, {}
        for part in segment.parts():
            for population in part:
                synapses = tuple(
                    _flipped(s, registers, self.faults, segment.name) for s in population.synapses
                )
                broken = replace(population, synapses=synapses)
                alone = _in_a_step(segment, broken) if _loops(part) else _alone(segment, broken)
                executables[population.name] = self.inner.compile(alone, registers)
                place = (self.faults.seed, "dead", segment.name, population.name)
                channels, *sides = population.shape
                dead = strikes(place, self.faults.dead_neurons, (*sides, channels))
                alive[population.name] = torch.from_numpy(~dead).movedim(-1, 0)
        return _FaultyProgram(segment, self.faults, executables, alive)


@dataclass(frozen=True, slots=True)
class _FaultyProgram:
    """A segment with an executable and a mask of living neurons for each population."""

    segment: ChipSegment
    faults: Faults
    executables: Mapping[str, Executable]
    alive: Mapping[str, Tensor]

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        *,
        first: int = 0,
        membranes: bool = False,
        state: SegmentState | None = None,
        keep_state: bool = False,
    ) -> SegmentRun:
        """Run one batch; see :class:`hwsim.backends.protocol.Executable`."""
        if state is not None or keep_state:
            raise BackendError("faults are injected only into runs from cleared state")
        sent = {
            p.name: inputs[p.name]
            if p.kind == "bias"
            else self._kept(p.name, inputs[p.name], first)
            for p in self.segment.inputs
        }
        run = SegmentRun({})
        for layers in self.segment.parts():
            if _loops(layers):
                parts = self._run_loop(layers, sent, first, membranes)
            else:
                parts = {layers[0].name: self._run(layers[0], sent, first, membranes)}
            for name, part in parts.items():
                sent[name] = part.spikes[name]
                run = SegmentRun(
                    {**run.spikes, **part.spikes},
                    {**run.updated, **part.updated},
                    {**run.overflows, **part.overflows},
                    {**run.membranes, **part.membranes},
                    {**run.fired, name: count(sent[name], 1)},
                    {**run.arithmetic, **part.arithmetic},
                    last={**run.last, **part.last},
                )
        return run

    def _run(
        self, population: Population, sent: Mapping[str, Tensor], first: int, membranes: bool
    ) -> SegmentRun:
        """A population in no loop; its spikes are those that it sends and that are not lost."""
        name = population.name
        fed = {port.name: sent[port.name] for port in _sources(self.segment, population)}
        done = self.executables[name](fed, first=first, membranes=membranes)
        fired = done.spikes[name] * self.alive[name].to(done.spikes[name].device)
        return replace(done, spikes={name: self._kept(name, fired, first)})

    def _run_loop(
        self,
        layers: Sequence[Population],
        sent: Mapping[str, Tensor],
        first: int,
        membranes: bool,
    ) -> dict[str, SegmentRun]:
        """The populations of a loop, step by step, each as :meth:`_run` gives it.

        Args:
            layers: in the order in which they run within a step.
            sent: what comes from outside of the loop.
            first: the number of the first sample.
            membranes: whether to keep them.
        """
        steps, samples = self.segment.steps, self.segment.samples(sent)
        runs: dict[str, list[SegmentRun]] = {p.name: [] for p in layers}
        states: dict[str, SegmentState | None] = dict.fromkeys(runs)
        sent, kept = dict(sent), {}
        for p in layers:
            all_ = torch.ones(steps, samples, *p.shape, dtype=torch.bool)
            kept[p.name] = self._kept(p.name, all_, first) & self.alive[p.name]
            sent[p.name] = torch.zeros_like(all_, dtype=getattr(torch, p.payload.kind))
        for step in range(steps):
            for p in layers:
                fed = {} if p.bias is None else {p.bias: sent[p.bias]}
                for synapse in p.synapses:
                    spikes, at = sent[synapse.source], step - synapse.delay
                    none = torch.zeros_like(spikes[:1])
                    fed[_late(synapse)] = spikes[at : at + 1] if at >= 0 else none
                done = self.executables[p.name](
                    fed, first=first, membranes=membranes, state=states[p.name], keep_state=True
                )
                sent[p.name][step] = done.spikes[p.name][0].cpu() * kept[p.name][step]
                states[p.name] = done.state
                runs[p.name].append(replace(done, state=None))
        return {name: _joined(of_steps, name, sent[name]) for name, of_steps in runs.items()}

    def _kept(self, name: str, spikes: Tensor, first: int) -> Tensor:
        """Spikes ``[T, B, *shape]``, bool or payloads, without those that are lost."""
        rate = self.faults.dropped_spikes
        if rate == 0:
            return spikes
        steps, samples, channels, *sides = spikes.shape
        place = (self.faults.seed, "dropped", self.segment.name, name)
        kept = np.empty((samples, steps, *sides, channels), np.bool_)  # as fast spikes lie
        for number in range(samples):
            lost = strikes(place, rate, kept.shape[1:], sample=first + number)
            np.logical_not(lost, out=kept[number])
        return spikes * logical(torch.from_numpy(kept)).to(spikes.device)


def _sources(segment: ChipSegment, population: Population) -> tuple[Port, ...]:
    """What feeds a population; where nothing does, the ports, which tell the number of samples."""
    names = dict.fromkeys(synapse.source for synapse in population.synapses)
    fed = tuple(_port(segment, name, name) for name in names)
    if population.bias is not None:
        fed = (*fed, Port(population.bias, population.shape, "bias"))
    return fed or tuple(port for port in segment.inputs if port.kind == "spikes")


def _port(segment: ChipSegment, source: str, name: str) -> Port:
    """A port, of some name, of what a source sends."""
    return Port(name, segment.shape_of(source), payload=segment.payload_of(source))


def _alone(segment: ChipSegment, population: Population) -> ChipSegment:
    """A population as a segment of its own."""
    sources = _sources(segment, population)
    name = population.name
    read = tuple({name}.intersection(segment.membranes))
    return ChipSegment(segment.name, segment.steps, sources, (population,), (name,), read)


def _loops(part: Sequence[Population]) -> bool:
    """Whether a part of a segment is a loop: several populations, or one that feeds itself."""
    return len(part) > 1 or any(s.source == part[0].name for s in part[0].synapses)


def _late(synapse: Synapse) -> str:
    """The port of what arrives through a synapse in a step."""
    return f"{synapse.source}\0{synapse.delay}"


def _in_a_step(segment: ChipSegment, population: Population) -> ChipSegment:
    """A population as a segment of one step, whose ports are given what arrives in it."""
    name, of = population.name, population.synapses
    ports = {_late(s): _port(segment, s.source, _late(s)) for s in of}
    if population.bias is not None:
        ports[population.bias] = Port(population.bias, population.shape, "bias")
    now = tuple(replace(s, source=_late(s), delay=0) for s in of)
    layers, read = (replace(population, synapses=now),), {name}.intersection(segment.membranes)
    return ChipSegment(segment.name, 1, tuple(ports.values()), layers, (name,), tuple(read))


def _joined(runs: Sequence[SegmentRun], name: str, sent: Tensor) -> SegmentRun:
    """Runs of one step each as one run, with the spikes that the population sent."""
    last = runs[-1]
    return SegmentRun(
        {name: sent},
        {key: np.concatenate([run.updated[key] for run in runs]) for key in last.updated},
        {key: sum((r.overflows[key] for r in runs), Overflow()) for key in last.overflows},
        {key: torch.cat([run.membranes[key] for run in runs]) for key in last.membranes},
        arithmetic=last.arithmetic,
        last=last.last,
    )


def _flipped(synapse: Synapse, registers: Registers, faults: Faults, segment: str) -> Synapse:
    """A synapse with some bits of its stored weights flipped.

    Stored is the place on the weights' grid in ``weight_bits`` bits: two's complement where signs
    are mixed, else the magnitude. All patterns of bits are on the grid.
    """
    if faults.weight_bitflips == 0:
        return synapse
    bits, mixed = synapse.weight_bits, synapse.sign_mode == "mixed"
    _, _, step = weight_grid(registers, bits, synapse.sign_mode)
    unit = -step if synapse.sign_mode == "inhibitory" else step
    stored = (synapse.weight // unit) & ((1 << bits) - 1)
    for bit in range(bits):
        place = (faults.seed, "weight", segment, synapse.name, bit)
        stored ^= strikes(place, faults.weight_bitflips, stored.shape).astype(np.int64) << bit
    if mixed:
        stored -= stored >> (bits - 1) << bits
    return replace(synapse, weight=stored * unit)


def strikes(place: Iterable[object], rate: float, shape: Sequence[int], sample: int = 0) -> Bools:
    """Where something of a given probability happens, ``bool[*shape]``.

    One byte is drawn for each element, and 53 bits more only for the one in 256 whose byte does
    not decide. Draws are Philox's (Salmon et al. 2011, doi 10.1145/2063384.2063405), which is
    keyed by the place and counts on from the sample's number.

    Args:
        place: seed and names; different places have independent draws.
        rate: the probability, 0 to 1; where it happens at one rate it does at all higher ones.
        shape: of the result.
        sample: the number of the sample, at least 0; different samples have independent draws.
    """
    size = math.prod(shape)
    if rate == 0:
        return np.zeros(shape, np.bool_)
    key = np.frombuffer(sha256("\0".join(map(str, place)).encode()).digest()[:16], "<u8")
    # The counter's upper word is the sample's: 2**192 draws are left for each.
    source = np.random.Philox(key=key, counter=np.array([0, 0, 0, sample], np.uint64))
    limit = min(int(rate * 256), 255)
    raw: NDArray[np.uint64] = source.random_raw(-(-size // 8))
    drawn = raw.astype("<u8", copy=False).view(np.uint8)[:size]
    struck: Bools = drawn < np.uint8(limit)
    undecided = np.flatnonzero(drawn == np.uint8(limit))
    more = (source.random_raw(len(undecided)) >> np.uint64(11)) * 2.0**-53
    struck[undecided] = more < rate * 256 - limit
    return struck.reshape(shape)
