"""What a chip is given: populations of neurons and the synapses between them, all integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from has8.errors import BadInput
from mapping.chip.arithmetic import Ints, largest_drive
from mapping.chip.neurons import Neuron
from mapping.chip.payload import BINARY, Payload
from mapping.chip.wiring import Wiring

SHOWN = 8
"""Populations that a segment's ``repr`` shows."""


PortKind = Literal["spikes", "bias"]


@dataclass(frozen=True, slots=True)
class Port:
    """What enters a segment: spikes ``[T, B, *shape]``, or biases ``int64[B, *shape]``.

    Spikes are bool, or whole numbers where they are graded.

    Biases are mantissas that the host writes for each sample, in place of what the registers of the
    one population that names the port held before.

    Args:
        name: the graph node that makes it (an encoder, or a neuron of another segment).
        shape: of one sample in one step.
        kind: "spikes" or "bias".
        payload: what its spikes carry.
    """

    name: str
    shape: tuple[int, ...]
    kind: PortKind = "spikes"
    payload: Payload = BINARY


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Synapse:
    """All synapses from one source to one population.

    It takes its source's spikes in their order, in the wiring's shape, which may be another one.

    Args:
        name: the graph node it comes from.
        source: a port's or a population's name.
        wiring: who reaches whom.
        weight: mantissas on the target's grid, ``int64[C_out, C_in / groups, kH, kW]``.
        weight_exp: a weight acts as ``weight * 2**weight_exp``, before the target's own shift.
        sign_mode: "mixed", "excitatory" or "inhibitory".
        weight_bits: bits that one stored weight takes.
        delay: steps after which a spike arrives. At 0 it arrives in the step in which it is sent,
            since the time that a chip takes for a connection shifts whole layers alike.
    """

    name: str
    source: str
    wiring: Wiring
    weight: Ints
    weight_exp: int
    sign_mode: str
    weight_bits: int
    delay: int = 0

    def __repr__(self) -> str:
        wires = self.wiring
        late = f", {self.delay} steps late" if self.delay else ""
        return f"Synapse({self.name}: {wires.in_shape} to {wires.out_shape}{late})"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Population:
    """Neurons of one layer.

    Args:
        name: the neuron's graph node.
        shape: ``(C, H, W)`` or ``(N,)``.
        synapses: what feeds it, in the order of the graph.
        neuron: the model with its constants, which broadcast over ``shape``.
        bias: the port that gives its biases for each sample; None where they are the neuron's.
    """

    name: str
    shape: tuple[int, ...]
    synapses: tuple[Synapse, ...]
    neuron: Neuron
    bias: str | None = None

    def __repr__(self) -> str:
        return f"Population({self.name}: {self.size:,} {self.neuron.model} neurons {self.shape})"

    @property
    def size(self) -> int:
        """How many neurons."""
        return prod(self.shape)

    @property
    def payload(self) -> Payload:
        """What its spikes carry."""
        return self.neuron.payload


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ChipSegment:
    """A part of the network that runs on chip as one piece.

    Args:
        name: unique in its model.
        steps: steps of one sample; all state is cleared between samples.
        inputs: where spikes and biases come in; there may be none where neurons drive themselves.
        populations: in any order.
        outputs: names of the populations whose spikes the host (or another segment) needs.
        membranes: names of those whose membranes the host reads once a sample, after the last step.
    """

    name: str
    steps: int
    inputs: tuple[Port, ...]
    populations: tuple[Population, ...]
    outputs: tuple[str, ...]
    membranes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layers = "".join(f"\n  {population!r}" for population in self.populations[:SHOWN])
        more = len(self.populations) - SHOWN
        rest = f"\n  and {more} more" if more > 0 else ""
        return f"ChipSegment({self.name}: {self.steps} steps){layers}{rest}"

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of a port or a population."""
        sources: list[Port | Population] = [*self.inputs, *self.populations]
        return next(source.shape for source in sources if source.name == name)

    def payload_of(self, name: str) -> Payload:
        """What the spikes of a port or a population carry."""
        sources: list[Port | Population] = [*self.inputs, *self.populations]
        return next(source.payload for source in sources if source.name == name)

    def largest_drive(self, population: Population) -> int:
        """The largest possible |sum| of weights times payloads into one neuron in one step.

        Before the target's own shift; negative weight exponents count as 0.
        """
        drive = np.zeros(population.shape, np.int64)
        channel = (-1, *(1,) * (len(population.shape) - 1))
        for synapse in population.synapses:
            sums = largest_drive(synapse.weight) << max(synapse.weight_exp, 0)
            each = sums.reshape(population.shape if sums.size == population.size else channel)
            drive += each * self.payload_of(synapse.source).largest
        return int(drive.max(initial=0))

    def samples(self, inputs: Mapping[str, Any]) -> int:
        """How many samples enter the ports; one if there is no port, since all would be alike.

        Args:
            inputs: arrays or tensors by port: spikes ``[T, B, *shape]``, biases ``[B, *shape]``.
        """
        found = (inputs[port.name].shape[port.kind == "spikes"] for port in self.inputs)
        return next(found, 1)

    def population(self, name: str) -> Population:
        """The population called ``name``."""
        return next(item for item in self.populations if item.name == name)

    def synapses(self) -> Iterator[tuple[Population, Synapse]]:
        """Every synapse behind the population that it feeds."""
        for population in self.populations:
            for synapse in population.synapses:
                yield population, synapse

    def in_order(self) -> tuple[Population, ...]:
        """The populations in an order in which a step can run: sources without delay come first.

        Where there is no loop, sources with a delay do so too: a whole sample can run in it.

        Raises:
            BadInput: if populations wait for each other within one step, or a source is unknown.
        """
        for delayed in (True, False):
            ordered = self._sorted(delayed=delayed)
            if len(ordered) == len(self.populations):
                return ordered
        circle = {synapse.source for synapse in self._circle(delayed=False)}
        names = [population.name for population in self.populations if population.name in circle]
        if not names:
            known = {port.name for port in self.inputs} | {p.name for p in self.populations}
            lost = next(synapse for _, synapse in self.synapses() if synapse.source not in known)
            raise BadInput(
                f"the source {lost.source!r} of synapse {lost.name!r} is neither port nor "
                f"population"
            )
        who = f"the populations {', '.join(names)} wait for each other's"
        if len(names) == 1:
            who = f"the population {names[0]} waits for its own"
        raise BadInput(
            f"{who} spikes of the same step: give a synapse of the loop a delay of at least one "
            f"step"
        )

    def parts(self) -> tuple[tuple[Population, ...], ...]:
        """The populations that reach each other, together, each part behind those that feed it.

        A population in no loop is a part of its own. Within a part they stand as in
        :meth:`in_order`, and it raises what that raises.
        """
        ordered = self.in_order()
        fed = {p.name: {s.source for s in p.synapses} for p in ordered}
        behind: dict[str, set[str]] = {}  # with what stands before it, itself included
        for name in fed:
            behind[name], front = {name}, [name]
            while front:
                new = (fed[front.pop()] & fed.keys()) - behind[name]
                behind[name] |= new
                front += new
        parts: dict[frozenset[str], list[Population]] = {}
        for population in sorted(ordered, key=lambda p: len(behind[p.name])):
            parts.setdefault(frozenset(behind[population.name]), []).append(population)
        return tuple(map(tuple, parts.values()))

    def depths(self) -> dict[str, int]:
        """How many chip steps each port and population is late, where a connection takes one.

        A spike arrives in time if its target is later than its source by that step less the
        synapse's delay, or by more. A synapse whose spikes arrive after the end binds nobody.

        Returns:
            The least such steps by name: 0 for ports, at least 1 for populations.

        Raises:
            BadInput: if a loop has fewer steps of delay than connections.
        """
        found = {port.name: 0 for port in self.inputs} | {p.name: 1 for p in self.populations}
        binding = [(p.name, s) for p, s in self.synapses() if s.delay < self.steps]
        last: dict[str, Synapse] = {}  # which made a population as late as it is
        for _ in found:
            moved = ""
            for name, synapse in binding:
                if (least := found[synapse.source] + 1 - synapse.delay) > found[name]:
                    found[name], last[name], moved = least, synapse, name
            if not moved:
                return found
        passed: set[str] = set()
        while moved not in passed:  # what makes a population ever later comes round to one
            passed.add(moved)
            moved = last[moved].source
        raise BadInput(
            f"synapse {last[moved].name!r} is part of a loop with fewer steps of delay than "
            f"connections, each of which takes a chip a step: give it more delay"
        )

    def waits(self) -> dict[tuple[str, str], int]:
        """Chip steps that spikes wait in each synapse, by population and synapse.

        A connection takes a chip a step. Where ways of unequal depth meet in a population, spikes
        of the shorter one come too early and wait there, in the delay of the synapse, for those of
        the longer one. Spikes of the host do not: it sends them when they are due.

        Raises:
            BadInput: if a loop has fewer steps of delay than connections.
        """
        late, ports = self.depths(), {port.name for port in self.inputs}
        return {
            (p.name, s.name): s.delay
            if s.source in ports
            else max(0, late[p.name] - late[s.source] - 1 + s.delay)
            for p, s in self.synapses()
        }

    def loop(self) -> Synapse | None:
        """A synapse that closes a loop; None where spikes only go forward."""
        circle = self._circle(delayed=True)
        return next((synapse for synapse in circle if synapse.delay), next(iter(circle), None))

    def _circle(self, *, delayed: bool) -> list[Synapse]:
        """The synapses of a loop, each behind the one that it feeds; none where there is no loop.

        Args:
            delayed: whether synapses with a delay count too.
        """
        ordered = {population.name for population in self._sorted(delayed=delayed)}
        waiting = {p.name: p for p in self.populations if p.name not in ordered}
        passed: list[str] = []
        walked: list[Synapse] = []
        name = next(iter(waiting), None)
        while name is not None and name not in passed:  # what waits for others comes round to one
            sources = (s for s in waiting[name].synapses if s.source in waiting)
            back = next((s for s in sources if delayed or not s.delay), None)
            if back is None:
                return []
            passed.append(name)
            walked.append(back)
            name = back.source
        return walked[passed.index(name) :] if name is not None else []

    def _sorted(self, *, delayed: bool) -> tuple[Population, ...]:
        """The populations that can be sorted behind their sources, those in order as they are.

        Args:
            delayed: whether synapses with a delay bind too.
        """
        known = {port.name for port in self.inputs}
        ordered: list[Population] = []
        waiting = list(self.populations)
        while True:
            ready = next(
                (
                    p
                    for p in waiting
                    if all(s.source in known or (s.delay and not delayed) for s in p.synapses)
                ),
                None,
            )
            if ready is None:
                return tuple(ordered)
            waiting.remove(ready)
            ordered.append(ready)
            known.add(ready.name)
