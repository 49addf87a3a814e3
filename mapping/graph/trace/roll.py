"""The graph of what a run has made: nodes over all steps, by the names of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from has8.errors import TraceError
from mapping.graph.ir import Graph, Node, Signal, loops_of, sorted_graph, unfed_loop, unique_name
from mapping.graph.ops import OPS, op_of
from mapping.graph.trace.opaque import record
from mapping.graph.trace.values import (
    ZEROS,
    Chain,
    Folded,
    Made,
    One,
    Slot,
    Step,
    Sum,
    Value,
    Values,
    Whole,
)

OUTPUT = "the model's output"


def roll(known: Values, last: Value, start: Made, given: Signal) -> Graph:
    """The graph that ends in what a model answered.

    Args:
        known: the nodes in the making.
        last: what the model answered.
        start: its input.
        given: type of that.

    Raises:
        TraceError: if the steps do not repeat or a layer cannot be a node.
    """
    rolled = _Roll(known, start, given)
    value = last if isinstance(last, Sum) else known.one(last, OUTPUT)
    if isinstance(value, Folded):
        raise TraceError(
            f"the model returns {value.steps} steps and the samples on one axis: give each an axis "
            f"of its own, view({value.steps}, B, ...)"
        )
    if isinstance(value, Whole):
        name = rolled.steps(value.made) if value.made.timed else rolled.value(value.made)
        if value.steps != rolled.nodes[name].type.steps:
            raise TraceError(
                f"the model returns {value.steps} steps of {name!r}, which runs "
                f"{rolled.nodes[name].type.steps}"
            )
    elif isinstance(value, Step):
        name = rolled.value(value.made, value.step)
    else:
        name = rolled.total([_term(term, factor) for term, factor in value.terms], "readout")
    graph = sorted_graph(rolled.nodes.values(), name)
    if unfed := unfed_loop(graph.nodes):
        raise TraceError(
            f"{unfed.name!r} is in a loop over steps that nothing outside feeds, so it does the "
            f"same for every sample: let a layer of the input feed it too"
        )
    for part in loops_of(graph.nodes):
        if len(part) > 1:
            _check_loop(part)
    return graph


def _check_loop(part: Sequence[Node]) -> None:
    """What is in a loop over steps must run step by step.

    Raises:
        TraceError: if a node of it takes all steps at once.
    """
    for node in part:
        if node.op == "torch" and not node.attrs["merged"]:
            users = [n for n in part if n.op == "fired" and node.name in n.inputs]
            name, why = (users[0].name, users[0].attrs["why"]) if users else (node.name, "")
            raise TraceError(
                f"layer {name!r} is in a loop over steps, and cannot be run in single steps"
                + (f": {why}" if why else "")
            )


_Term = tuple[Made, int | None, float]
"""What is added: a node, the step, and a factor."""


def _term(term: One, factor: float) -> _Term:
    if not isinstance(term, Step) and term.made.timed:
        raise TraceError(f"{OUTPUT} is a sum of what has steps and what has none")
    return term.made, term.step if isinstance(term, Step) else None, factor


class _Roll:
    """Adds the nodes that something needs."""

    def __init__(self, known: Values, start: Made, given: Signal) -> None:
        self.known = known
        self.nodes: dict[str, Node] = {"input": Node("input", "input", (), given)}
        self.names: dict[tuple[Any, ...], str] = {(start, 0): "input", (start, None): "input"}
        self.types: dict[str, Signal] = {"input": given}

    # Nodes with time steps.

    def steps(self, made: Made, late: int = 0) -> str:
        """The node of all steps of what is made, some steps late."""
        key = (made, late)
        if key in self.names:
            return self.names[key]
        if late and (made.leaf or made in self.known.stops):
            name = self.steps(made)
            attrs = {"steps": late}  # each user has a node of its own, which may go to the chip
            return self._add(f"{made.name}.late", "delay", (name,), attrs, type_=self.types[name])
        if made.chain is not None:
            self._neuron(made, made.chain)
        else:
            name = self._stateless(made, late)
            self.names.setdefault(key, name)  # a loop may have come round to it in the meantime
        return self.names[key]

    def _neuron(self, made: Made, chain: Chain) -> None:
        if made.op == "unread":
            raise TraceError(
                f"{made.name!r} is read: only spikes can be, and membranes with reset_delay=True"
            )
        name = unique_name(made.name, self.types)
        type_ = Signal(tuple(made.shape[1:]), made.kind, chain.calls)
        self.names[made, 0] = name
        self.types[name] = type_  # before what feeds it: that may be its own spikes
        if chain.sources[-1][0].silent():
            raise _zeros(f"neuron {chain.cell!r}")
        source = self._slot(chain.sources[-1], chain.calls, 0)
        if self.types[source].steps != chain.calls:
            raise TraceError(
                f"the steps do not repeat: {made.name!r} runs {chain.calls} steps and {source!r}, "
                f"which feeds it, {self.types[source].steps}"
            )
        if chain.foreign is not None:
            self._foreign(name, made, chain, source)
            return
        if chain.feedback is not None:
            source = self._fed_back(chain, source)
        self._add(name, made.op, (source,), made.attrs, made.tensors, named=True)

    def _foreign(self, name: str, made: Made, chain: Chain, source: str) -> None:
        try:
            content = chain.foreign.content(made.op, self.types[source])
        except Exception as error:  # whatever a foreign layer raises
            raise TraceError(
                f"neuron {chain.cell!r} cannot be mapped, not even to the host: {chain.foreign.why}"
            ) from error
        if made.op != "spk":
            self._add(name, "torch", (source,), content.attrs, content.tensors, named=True)
            return
        steps = self._add(f"{name}.steps", "torch", (source,), content.attrs, content.tensors)
        self._add(name, "fired", (steps,), {"why": chain.foreign.why}, named=True)

    def _fed_back(self, chain: Chain, source: str) -> str:
        """The current of a neuron, with what its spikes of the step before add."""
        key = (chain, "current")
        if key not in self.names:
            late = self.steps(chain.made["spk"], 1)
            if key in self.names:  # a membrane's current is that of the spikes that it feeds back
                return self.names[key]
            op = op_of(chain.feedback)
            assert op is not None
            shape = self.types[late].shape
            layer = chain.feedback.over(shape) if op.name == "one_to_one" else chain.feedback
            try:
                attrs, tensors = op.lower(layer)
            except ValueError as error:
                raise TraceError(f"neuron {chain.cell!r} cannot be mapped: {error}") from error
            name = self._add(f"{chain.cell}.recurrent", op.name, (late,), attrs, tensors)
            self.names[key] = self._add(f"{chain.cell}.current", "add", (source, name))
        return self.names[key]

    def _slot(self, slot: Slot, steps: int, late: int) -> str:
        made, delay = slot
        if delay is None:
            return self.steps(self.known.repeated(made, steps))
        return self.steps(made, late + delay)

    def _length(self, made: Made) -> int:
        """The number of steps that something timed is made in."""
        if made.chain is not None:
            return made.chain.calls
        if made.op == "encode":
            return int(made.attrs["steps"])
        if made.op == "input":
            return self.types["input"].steps or 1
        if "seeds" in made.attrs:
            return len(made.attrs["seeds"])
        if made.op == "some_steps":
            return len(made.attrs["steps"])
        if made.op == "unbind":
            return int(made.inputs[0][0].shape[made.attrs["axis"]])
        return next(self._length(source) for source, delay in made.inputs if delay is not None)

    def _stateless(self, made: Made, late: int) -> str:
        if made.op in ("encode", "unbind"):
            (source, _), *_ = made.inputs
            return self._add(made.name, made.op, (self.value(source),), made.attrs, made.tensors)
        steps = self._length(made)
        if made.op == "call":
            return self._call(made, late, steps)
        if made.op == "sum":
            parts = [
                (self._slot(slot, steps, late), factor)
                for slot, factor in zip(made.inputs, made.factors, strict=True)
                if not slot[0].silent()
            ]
            return self._sum(parts, made.name)
        self._no_zeros(made)
        inputs = tuple(self._slot(slot, steps, late) for slot in made.inputs)
        return self._add(made.name, made.op, inputs, made.attrs, made.tensors)

    def _no_zeros(self, made: Made) -> None:
        if any(source.silent() for source, _ in made.inputs):
            raise _zeros(f"layer {made.name!r}")

    def _sum(self, parts: Sequence[tuple[str, float]], name: str) -> str:
        total: str | None = None
        for part, factor in parts:
            if factor != 1:
                part = self._scaled(part, factor)
            total = part if total is None else self._add(name, "add", (total, part))
        assert total is not None
        return total

    def _scaled(self, name: str, factor: float) -> str:
        node = self.nodes.get(name)
        if node is not None and node.op == "decode":
            weights = {"weights": node.tensors["weights"] * factor}
            return self._add(node.name, "decode", node.inputs, node.attrs, weights)
        return self._add(f"{name}.scaled", "scale", (name,), {"factor": float(factor)})

    # Nodes without time steps.

    def value(self, made: Made, step: int | None = None) -> str:
        """The node of what is made without steps, or in one of them."""
        key = (made, "at", step) if made.timed else (made, None)
        if key not in self.names:
            self.names[key] = self._value(made, step)
        return self.names[key]

    def _value(self, made: Made, step: int | None) -> str:
        if made.op == "at":
            ((source, _),) = made.inputs
            return self.value(source, next(iter(made.taps)))
        if made.timed and (made.leaf or step is None):
            assert step is not None, f"{made.name} has steps"
            return self._decoded(made, {step: 1.0})
        if made.op == "decode":
            ((source, _),) = made.inputs
            if made.taps:
                return self._decoded(source, made.taps)
        if made.whole and made.op != "call":
            names = tuple(
                self.value(source) if delay is None else self.steps(source)
                for source, delay in made.inputs
            )
            return self._add(made.name, made.op, names, made.attrs, made.tensors)
        if made.op == "call":
            return self._call(made, 0, None, step)
        terms = [
            (source, None if delay is None or step is None else step - delay)
            for source, delay in made.inputs
        ]
        if made.op == "sum":
            return self.total(
                [(*term, factor) for term, factor in zip(terms, made.factors, strict=True)],
                made.name,
            )
        self._no_zeros(made)
        inputs = tuple(self.value(*term) for term in terms)
        return self._add(made.name, made.op, inputs, made.attrs, made.tensors)

    def total(self, terms: Sequence[_Term], name: str) -> str:
        """The node of a weighted sum of values and of steps."""
        taps: dict[Made, dict[int, float]] = {}
        parts: list[tuple[str, float]] = []
        for made, step, factor in terms:
            if made.silent():
                continue
            if step is None:
                parts.append((self.value(made), factor))
            else:
                of = taps.setdefault(made, {})
                of[step] = of.get(step, 0.0) + factor
        for made, of in taps.items():
            if len(of) == 1 and not made.leaf:
                ((step, factor),) = of.items()
                parts.append((self.value(made, step), factor))
            else:
                parts.append((self._decoded(made, of), 1.0))
        return self._sum(parts, "add" if name == "readout" else name)

    def _decoded(self, made: Made, taps: Mapping[int, float]) -> str:
        source = self.steps(made)
        weights = [taps.get(step, 0.0) for step in range(self.types[source].steps or 0)]
        return self._add("readout", "decode", (source,), {}, {"weights": torch.tensor(weights)})

    # Calls that no file describes.

    def _call(self, made: Made, late: int, steps: int | None, step: int | None = None) -> str:
        """A node of torch's calls.

        Args:
            made: by a call.
            late: by how many steps, where it has steps of its own.
            steps: how many it has, or None.
            step: the step that is wanted of something that has steps, or None.
        """
        whole = made.whole
        seeds: dict[Slot, tuple[Tensor, ...]] = {}
        self._seeds(made, 0, True, seeds)
        names = []
        for source, delay in seeds:
            if steps is not None and not whole:
                names.append(self._slot((source, delay), steps, late))
            elif delay is None:
                names.append(self.value(source))
            elif step is None:  # it takes all steps, or what is behind it and is no node does
                names.append(self.steps(source))
            else:
                names.append(self.value(source, step - delay))
        types = tuple(self.types[name] for name in names)
        merged = steps is not None and not whole
        axis = 1 if types[0].steps is not None and not merged else 0

        def call(*given: Tensor) -> Any:
            run = 0 if given[0].shape[axis] == examples[0][0].shape[axis] else 1
            return _again(made, 0, run, dict(zip(seeds, given, strict=True)), {}, True)

        try:
            if any(len(of) < 2 for of in seeds.values()):
                raise ValueError("it does something else for each batch size")
            examples = [[pair[run] for pair in seeds.values()] for run in (0, 1)]
            content = record(call, examples, types, merged=merged)
        except Exception as error:  # whatever a foreign layer raises
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise TraceError(f"layer {made.name!r} cannot be mapped: {said}") from error
        if content.flattens:
            type_ = replace(types[0], shape=content.type.shape)
            return self._add(made.name, "flatten", tuple(names), type_=type_)
        return self._add(made.name, "torch", tuple(names), content.attrs, content.tensors)

    def _seeds(
        self, made: Made, late: int, root: bool, found: dict[Slot, tuple[Tensor, ...]]
    ) -> None:
        """What a call needs of other nodes, behind calls that are none themselves."""
        call = made.call
        if call is None or not (root or call.deferred):
            raise AssertionError
        for place, (source, delay) in zip(call.slots, made.inputs, strict=True):
            if source is ZEROS:
                continue
            total = None if delay is None else late + delay
            if source.call is not None and source.call.deferred:
                self._seeds(source, late + (delay or 0), False, found)
            elif (source, total) not in found:
                found[source, total] = tuple(leaves[place] for leaves in call.leaves if leaves)

    # All nodes.

    def _add(
        self,
        name: str,
        op: str,
        inputs: tuple[str, ...],
        attrs: Mapping[str, Any] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        *,
        type_: Signal | None = None,
        named: bool = False,
    ) -> str:
        """A node's name; the node is added."""
        attrs, tensors = attrs or {}, tensors or {}
        types = tuple(self.types[source] for source in inputs)
        if type_ is None:
            try:
                type_ = OPS[op].infer(attrs, tensors, types)
            except ValueError as error:
                raise TraceError(f"layer {name!r} cannot be mapped: {error}") from error
        if named and type_ != self.types[name]:
            raise TraceError(f"layer {name!r} makes {self.types[name]}, and its inputs {type_}")
        name = name if named else unique_name(name, self.types)
        self.types[name] = type_
        self.nodes[name] = Node(name, op, inputs, type_, attrs, tensors)
        return name


def _zeros(user: str) -> TraceError:
    return TraceError(
        f"{user} takes zeros that no layer made, in every step: if a delay holds back what is to "
        f"take their place, run more steps than it has"
    )


def _again(
    made: Made,
    late: int,
    run: int,
    given: Mapping[Slot, Tensor],
    done: dict[tuple[Made, int], Any],
    root: bool,
) -> Any:
    """What a call gives for other values of what it needs."""
    call = made.call
    assert call is not None
    if (made, late) in done:
        return done[made, late]
    inputs = []
    for place, (source, delay) in zip(call.slots, made.inputs, strict=True):
        total = None if delay is None else late + delay
        if source is ZEROS:
            inputs.append(call.leaves[run][place])
        elif source.call is not None and source.call.deferred:
            inputs.append(_again(source, late + (delay or 0), run, given, done, False))
        else:
            inputs.append(given[source, total])
    done[made, late] = call.again(run, inputs)
    return done[made, late]
