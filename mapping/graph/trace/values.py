"""What the tensors of a run are: all that a node makes, what it makes in a step, and their sums."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from has8.errors import TraceError
from mapping.graph.ir import Kind
from mapping.graph.ops import OPS
from mapping.graph.ops.shape import RESHAPED

Slot = tuple["Made", int | None]
"""What feeds a node: a node, and how many steps ago it made that; None if it is without steps."""

ZERO_KEPT = frozenset({*RESHAPED, "maxpool", "avgpool", "global_avgpool", "relu", "sum", "concat"})
"""Kinds of nodes that make zeros of zeros; synapses without bias do too."""


@dataclass(eq=False)
class Call:
    """A call of a function that no file of mapping.graph.ops describes.

    Args:
        index: its place among the calls of the run.
        func: what was called.
        tree: how its arguments are nested.
        slots: which of the arguments are inputs of the node, in their order.
        leaves: the arguments, of a run with two samples and, once it is done, of one with three.
        part: which of several tensors that it returns, or None.
        deferred: whether that is nothing that a node can give.
    """

    index: int
    func: Callable[..., Any]
    tree: TreeSpec
    slots: tuple[int, ...]
    leaves: list[list[Any]]
    part: int | None
    deferred: bool

    def again(self, run: int, inputs: Sequence[Tensor]) -> Any:
        """What it gives for other inputs."""
        leaves = list(self.leaves[run])
        for place, given in zip(self.slots, inputs, strict=True):
            leaves[place] = given
        args, kwargs = tree_unflatten(leaves, self.tree)
        result = self.func(*args, **kwargs)
        return result if self.part is None else list(result)[self.part]

    def keeps_zeros(self) -> bool:
        """Whether it makes zeros of zeros."""
        zeros = [torch.zeros_like(self.leaves[0][place]) for place in self.slots]
        result = self.again(0, zeros)
        return isinstance(result, Tensor) and not bool(result.any())


@dataclass(eq=False)
class Chain:
    """The calls of one neuron that pass their state on, from cleared state.

    Args:
        cell: the neuron's path.
        calls: how many, which is the number of its steps.
        sources: what drove it, by step.
        feedback: the layer from its spikes of the step before to its current, or None.
        foreign: the neuron itself, where no constants describe it.
        made: its spikes and states, by name.
    """

    cell: str
    calls: int = 0
    sources: list[Slot] = field(default_factory=list)
    feedback: Any = None
    foreign: Any = None
    made: dict[str, Made] = field(default_factory=dict)


@dataclass(eq=False)
class Made:
    """What one node makes.

    Args:
        name: the node's, before it is made unique.
        op: its kind; besides those of mapping.graph.ops there are "sum", "call", "at" (its input
            in one step), "zeros" (what a loop starts from) and "unread".
        inputs: what feeds it.
        shape: of the tensor that the run had, without time axis, ``(B, ...)``.
        kind: what it makes.
        timed: whether it makes something in each step.
        whole: whether it takes all steps of its inputs at once.
        what: equal for equal operations on other inputs.
        attrs, tensors: the node's.
        factors: of each term of a sum.
        taps: of a decoder, the weight of each step that it reads; of "at", its step.
        chain: the calls of a neuron.
        call: of a function that no file describes.
    """

    name: str
    op: str
    inputs: tuple[Slot, ...] = ()
    shape: tuple[int, ...] = ()
    kind: Kind = Kind.VALUE
    timed: bool = False
    whole: bool = False
    what: Hashable = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    factors: tuple[float, ...] = ()
    taps: Mapping[int, float] = field(default_factory=dict)
    chain: Chain | None = None
    call: Call | None = None

    @property
    def leaf(self) -> bool:
        """Whether a step of it is not just computed from the same step of its inputs."""
        op = OPS.get(self.op)
        sees_time = op is not None and op.sees_time
        return self.chain is not None or self.whole or sees_time or not self.inputs

    def keeps_zeros(self) -> bool:
        """Whether a step of it is zeros where the same step of its inputs is."""
        if self.leaf:
            return False
        synapse = self.op in OPS and OPS[self.op].role == "synapse"
        through = self.op in ZERO_KEPT or (synapse and "bias" not in self.tensors)
        return through or (self.call is not None and self.call.keeps_zeros())

    def silent(self) -> bool:
        """Whether it is zeros in all steps, since it is made of nothing else."""
        if self is ZEROS:
            return True
        return self.keeps_zeros() and all(source.silent() for source, _ in self.inputs)


@dataclass(frozen=True)
class Whole:
    """All that a node makes: ``[B, ...]``, or ``[T, B, ...]`` with ``steps`` T."""

    made: Made
    steps: int | None = None


@dataclass(frozen=True)
class Step:
    """What a node makes in one step, ``[B, ...]``."""

    made: Made
    step: int


@dataclass(frozen=True)
class Folded:
    """What a node makes in all steps, with steps and samples on one axis.

    Args:
        made: by the node.
        steps: T.
        axis: 0 for ``[T * B, ...]``, 1 for ``[B * T, ...]``.
    """

    made: Made
    steps: int
    axis: int


@dataclass(frozen=True)
class Sum:
    """A sum of what nodes make, each times a factor; ``[B, ...]``."""

    terms: tuple[tuple[One, float], ...]


@dataclass(frozen=True)
class Stacked:
    """Values along an axis of their own, which is the first one or another."""

    parts: tuple[Value, ...]
    axis: int


One = Whole | Step | Folded
"""What a single node makes."""
Value = One | Sum | Stacked
ZEROS = Made("zeros", "zeros")
"""Zeros that no layer made: what a loop starts from."""


class Values:
    """Nodes in the making: an operation on the same inputs is the same node."""

    def __init__(self) -> None:
        self.nodes: dict[Hashable, Made] = {}
        self.stops: set[Made] = set()
        """Nodes that are delayed behind them, since zeros stand for what they made before."""

    def made(self, op: str, name: str, what: Hashable, inputs: tuple[Slot, ...], **of: Any) -> Made:
        """The node of an operation on inputs; it has steps if one of these has."""
        key = (op, what, inputs)
        if key not in self.nodes:
            of.setdefault("timed", any(delay is not None for _, delay in inputs))
            self.nodes[key] = Made(name, op, inputs, what=(op, what), **of)
        return self.nodes[key]

    def joined(
        self, values: Sequence[Value], user: str
    ) -> tuple[tuple[Slot, ...], Callable[[Made], One], int | None]:
        """Inputs of one operation.

        Returns:
            The inputs; what the operation's result is, from its node; and the steps that it takes
            at once, or None.
        """
        ones = [self.one(value, user) for value in values]
        at = [value.step for value in ones if isinstance(value, Step)]
        lengths = {v.steps for v in ones if isinstance(v, Whole) and v.steps is not None}
        folds = {(v.steps, v.axis) for v in ones if isinstance(v, Folded)}
        if bool(at) + bool(lengths) + len(folds) > 1:
            raise TraceError(f"{user} takes one step and all steps at once")
        if len(lengths) > 1:
            raise TraceError(f"{user} takes {sorted(lengths)} steps at once")
        length = lengths.pop() if lengths else None
        last = max(at, default=0)
        slots: list[Slot] = []
        for value in ones:
            if isinstance(value, Step):
                slots.append((value.made, last - value.step))
            elif isinstance(value, Folded):
                slots.append((value.made, 0))
            else:
                slots.append((value.made, None if value.steps is None else 0))

        def result(made: Made) -> One:
            if folds:
                return Folded(made, *folds.copy().pop())
            return Step(made, last) if at else Whole(made, length)

        return tuple(slots), result, length

    def one(self, value: Value, user: str) -> One:
        """A value as what a single node makes."""
        if isinstance(value, Stacked):
            return self._stack(value, user)
        if not isinstance(value, Sum):
            return value
        if len(value.terms) == 1 and value.terms[0][1] == 1:
            return value.terms[0][0]
        terms = [(self.one(term, user), factor) for term, factor in value.terms]
        inputs, result, _ = self.joined([term for term, _ in terms], user)
        factors = tuple(factor for _, factor in terms)
        shape = next((term.made.shape for term, _ in terms if term.made is not ZEROS), ())
        return result(self.made("sum", "add", factors, inputs, factors=factors, shape=shape))

    def _stack(self, value: Stacked, user: str) -> Whole:
        """Steps of a node: all, all of them some steps late, or some, in their order."""
        parts = [self.one(part, user) for part in value.parts]
        if value.axis:
            whole = self._stack(Stacked(value.parts, 0), user)
            return Whole(self.on_axis(whole.made, value.axis, len(parts)))
        last, count = parts[-1], len(parts)
        if isinstance(last, Whole) and last.made is not ZEROS:
            if last.steps is not None or any(part != last for part in parts):
                raise TraceError(f"{user} takes a stack of what is not made by one layer")
            return Whole(self.repeated(last.made, count), count)
        if not isinstance(last, Step):
            raise TraceError(f"{user} takes a stack of what is not made in single steps")
        made, steps = last.made, [-1]
        late = sum(part == Whole(ZEROS) for part in parts)
        for place, part in enumerate(parts[late:]):
            step = part.step if isinstance(part, Step) else -1
            in_order = step == place if late else step > steps[-1]
            if not in_order or not self.is_early(made, part.made, step):
                raise TraceError(
                    f"the steps do not repeat: at step {place + late} torch.stack takes something "
                    f"else than what {made.name!r} makes in that step"
                )
            steps.append(step)
        return Whole(self._of_steps(made, steps[1:], late), count)

    def _of_steps(self, made: Made, steps: Sequence[int], late: int) -> Made:
        """A node whose steps are those of another, late, or some of them."""
        if late:
            return self.made(
                "identity", f"{made.name}.late", late, ((made, late),), shape=made.shape,
                kind=made.kind,
            )  # fmt: skip
        if steps[-1] == len(steps) - 1:
            return made
        return self.made(
            "some_steps", f"{made.name}.some", tuple(steps), ((made, 0),),
            attrs={"steps": list(steps)}, shape=made.shape, kind=made.kind, timed=True, whole=True,
        )  # fmt: skip

    def unbound(self, made: Made, axis: int) -> Made:
        """A node whose steps lie on an axis of another's samples."""
        shape = made.shape[:axis] + (made.shape[axis + 1 :] if made.shape[2:] else (1,))
        return self.made(
            "unbind", f"{made.name}.steps", axis, ((made, None),), attrs={"axis": axis},
            shape=shape, kind=made.kind, timed=True, whole=True,
        )  # fmt: skip

    def on_axis(self, made: Made, axis: int, steps: int) -> Made:
        """A node that has another's steps on an axis of its samples."""
        shape = (*made.shape[:axis], steps, *made.shape[axis:])
        return self.made(
            "stack", f"{made.name}.stacked", axis, ((made, 0),), attrs={"axis": axis},
            shape=shape, timed=False, whole=True,
        )  # fmt: skip

    def repeated(self, made: Made, steps: int) -> Made:
        """A value given anew in each of some steps."""
        attrs = {"coding": "duplicate", "steps": steps}
        name = f"{made.name}.repeated"
        inputs = ((made, None),)
        return self.made(
            "encode", name, steps, inputs, attrs=attrs, shape=made.shape, timed=True, whole=True
        )

    def added(self, values: Sequence[Value | None], factors: Sequence[float]) -> Value:
        """A sum of values, each times a factor; None adds nothing."""
        terms: list[tuple[One, float]] = []
        for value, factor in zip(values, factors, strict=True):
            if value is None:
                continue
            if isinstance(value, Stacked):
                value = self.one(value, "an addition")
            own = value.terms if isinstance(value, Sum) else ((value, 1.0),)
            terms += [(term, weight * factor) for term, weight in own]
        if len(terms) == 1 and terms[0][1] == 1:
            return terms[0][0]
        return Sum(tuple(terms))

    def decoder(self, made: Made, taps: Mapping[int, float]) -> Made:
        """A weighted sum over the steps of a node."""
        what = tuple(sorted(taps.items()))
        return self.made(
            "decode",
            "readout",
            what,
            ((made, 0),),
            taps=dict(taps),
            shape=made.shape,
            timed=False,
            whole=True,
        )

    # Steps that repeat.

    def covers(self, late: Slot, early: Slot, step: int) -> bool:
        """Whether what fed a node in a step is what feeds it later, of which zeros stood before."""
        (made, delay), (other, before) = late, early
        if delay is None:
            return made is other and before is None
        return before in (delay, None) and self.is_early(made, other, step - delay)

    def is_early(self, made: Made, other: Made, step: int) -> bool:
        """Whether ``other`` is ``made`` in a step, before which all its inputs were zeros."""
        if made is other:
            return True
        if other is ZEROS:
            if step >= 0:
                return False
            if not made.keeps_zeros():
                self.stops.add(made)
                return True
            zeros = (ZEROS, None)
            return all(
                self.covers(slot, zeros, step) for slot in made.inputs if slot[1] is not None
            )
        if made.leaf:
            return False
        if made.op == "sum":
            return self._is_early_sum(made, other, step)
        if made.what != other.what or len(made.inputs) != len(other.inputs):
            return False
        slots = zip(made.inputs, other.inputs, strict=True)
        return all(self.covers(late, early, step) for late, early in slots)

    def _is_early_sum(self, made: Made, other: Made, step: int) -> bool:
        """The same of a sum, of which terms that were zeros may be missing in the early step."""
        left: list[tuple[Slot, float]] = [((other, 0 if other.timed else None), 1.0)]
        if other.op == "sum":
            left = list(zip(other.inputs, other.factors, strict=True))
        left = [(slot, factor) for slot, factor in left if slot[0] is not ZEROS]
        for late, factor in zip(made.inputs, made.factors, strict=True):
            term = next((t for t in left if t[1] == factor and self.covers(late, t[0], step)), None)
            if term is not None:
                left.remove(term)
            elif not self.covers(late, (ZEROS, None), step):
                return False
        return not left
