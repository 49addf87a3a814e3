"""From a network that loops over its steps to the graph, by following one run with real tensors.

The loop is Python's, so it is not traced but run: every tensor of the run is known as the output of
a node, or as what a node makes in one step. Calls of the same layer on the same node are that node
again, and a spiking neuron whose state goes from call to call is one node over all its steps. So
the steps are rolled up where they repeat, and where they do not, the layer and the step are known.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from has8.errors import Has8Error, TraceError
from mapping.graph.ir import Graph, Kind, Signal
from mapping.graph.ops import OPS, Op, op_of
from mapping.graph.ops.cells import check_threshold, constants_of, factor_of, feedback_of, states_of
from mapping.graph.ops.one_to_one import OneToOne
from mapping.graph.trace.codes import RANDOM, coded, compared, drawn, uniform
from mapping.graph.trace.foreign import foreign
from mapping.graph.trace.forms import ASKS, VALUE_FREE, WEIGHTED, Unknown, assigned, form, unstacked
from mapping.graph.trace.roll import roll
from mapping.graph.trace.values import (
    ZEROS,
    Call,
    Chain,
    Folded,
    Made,
    Slot,
    Stacked,
    Step,
    Sum,
    Value,
    Values,
    Whole,
)
from mapping.graph.trace.watch import CODES, Capture, Seen, Watch, before, is_cell

ELSEWHERE = ("CUDA", "NVIDIA", "same device", "MPS")
"""Words of errors of a forward that makes tensors on a device of its own choice."""


def loops(model: nn.Module) -> bool:
    """Whether a model holds snnTorch's neurons, which take one step in a call."""
    return any(map(is_cell, model.modules()))


class StepsOnAxis(TraceError):
    """What is refused of a model that takes its steps off an axis of its samples."""


def trace_steps(
    model: nn.Module, x: Tensor, given: Signal, output: int = 0, *, apart: bool = False
) -> Graph:
    """The graph of a model in evaluation mode that loops over its steps.

    Args:
        model: its forward takes one tensor and gives a tensor or a tuple of some.
        x: samples, ``[B, *shape]`` or, if ``given`` has steps, ``[T, B, *shape]``; three are used.
        given: type of the input.
        output: which of several tensors that the model returns.
        apart: whether what the model takes off an axis of samples without steps, ``x[:, t]``, are
            steps.

    Raises:
        StepsOnAxis: for what is refused of a model that does that.
        TraceError: if a layer or call cannot be a node, state is passed on otherwise than from step
            to step, or the steps do not repeat; the message names the layer and the step.
    """
    model.eval()
    axis = given.batch_axis
    while x.shape[axis] < 3:
        x = torch.cat([x, x.narrow(axis, -1, 1).roll(1, -1)], axis)
    run = _Run(model, x.narrow(axis, 0, 2), given, apart)
    try:
        with torch.no_grad(), listed(model):
            model(run.x.clone())  # what a neuron's state holds now, the next forward must clear
            with run.watched():
                answer = model(run.x)
            last = run.answered(answer, output)
            calls = _calls(run, last)
            if calls:
                again = Capture(model, {call.index: call.func for call in calls})
                three = x.narrow(axis, 0, 3).clone()
                with again.watched():
                    model(three)
                for call in calls:
                    call.leaves.append(again.leaves.get(call.index, []))
            return roll(run.known, last, run.input, given)
    except TraceError as error:
        if run.took:
            raise StepsOnAxis(str(error)) from error
        raise
    except Has8Error:
        raise
    except Exception as error:  # of a forward that others wrote
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        if any(word in said for word in ELSEWHERE):
            said += "; it runs on the CPU here: make tensors with device=x.device"
        raise TraceError(f"the forward of {type(model).__name__} fails: {said}") from error


@contextmanager
def listed(model: nn.Module) -> Iterator[None]:
    """A body in which ``snntorch.utils.reset`` knows the neurons of a copied model."""
    kept = snn.SpikingNeuron.instances
    snn.SpikingNeuron.instances = [m for m in model.modules() if isinstance(m, snn.SpikingNeuron)]
    try:
        yield
    finally:
        snn.SpikingNeuron.instances = kept


def _calls(run: _Run, last: Value) -> list[Call]:
    """The calls that what the model answered needs, as no layer that mapping knows."""
    pending: list[Any] = [last]
    seen: set[Made] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, Sum):
            pending += [term for term, _ in item.terms]
        elif isinstance(item, Stacked):
            pending += item.parts
        elif isinstance(item, Whole | Step | Folded):
            pending.append(item.made)
        elif item not in seen:
            seen.add(item)
            chain = item.chain
            sources = item.inputs if chain is None else chain.sources[-1:]
            pending += [made for made, _ in sources]
    return [made.call for made in seen if made.call is not None]


class _Run(Watch):
    """One run of a model, and what each of its tensors is."""

    def __init__(self, model: nn.Module, x: Tensor, given: Signal, apart: bool) -> None:
        super().__init__(model)
        self.given, self.apart = given, apart
        self.places: dict[Made, set[int]] = {}
        self.x = x.clone()
        self.batch = x.shape[given.batch_axis]
        self.values: dict[int, tuple[Value, Tensor, int]] = {}
        self.known = Values()
        self.draws = 0
        self.random: dict[int, tuple[Tensor, int | None]] = {}
        # kept, so that no other tensor gets their id
        self.own = {id(t): t for t in (*model.parameters(), *model.buffers())}
        shape = (self.batch, *given.shape)
        timed = given.steps is not None
        self.input = Made("input", "input", shape=shape, kind=given.kind, timed=timed)
        self.set(self.x, Whole(self.input, given.steps))

    # What a tensor is.

    def set(self, tensor: Tensor, value: Value) -> None:
        """Note what a tensor is from now on."""
        self.values[id(tensor)] = value, tensor, tensor._version

    def get(self, tensor: Any, user: str) -> Value | None:
        """What a tensor is; None if nothing of the run made it."""
        if not isinstance(tensor, Tensor) or id(tensor) not in self.values:
            return None
        value, kept, version = self.values[id(tensor)]
        if kept._version != version:
            raise TraceError(
                f"{user} uses a tensor that an operation in place has changed before: let it make "
                f"a new tensor (x = x + y for x += y)"
            )
        return value

    def latest(self, tensor: Tensor) -> Value | None:
        """What a tensor was when it was last noted, whatever was written over it."""
        return self.values[id(tensor)][0] if id(tensor) in self.values else None

    def entering(self, tensor: Any, user: str) -> Value | None:
        """What a tensor is where a layer takes it: zeros that nothing made may start a loop."""
        value = self.get(tensor, user)
        if value is None and isinstance(tensor, Tensor) and tensor.dtype == torch.float32:
            own = id(tensor) in self.own or not tensor.numel()
            if not own and not bool(tensor.any()):
                return Whole(ZEROS)
        return value

    @property
    def took(self) -> bool:
        """Whether it took several steps off an axis of samples."""
        return any(len(places) > 1 for places in self.places.values())

    def steps_on(self, value: Value, axis: int, place: int | None = None) -> Made | None:
        """The node of what lies along an axis of samples, if that may be an axis of steps."""
        if not isinstance(value, Whole) or value.steps is not None or value.made is ZEROS:
            return None
        if not self.apart or axis == 0:
            return None
        made = self.known.unbound(value.made, axis)
        taken = range(value.made.shape[axis]) if place is None else (place,)
        self.places.setdefault(made, set()).update(taken)
        return made

    # What happens in the run.

    def saw(self, seen: Seen) -> Any:
        """Run a call, and know what its result is."""
        if seen.module is None:
            return self._function(seen)
        if is_cell(seen.module):
            return self._cell(seen, seen.module)
        op = op_of(seen.module)
        flat = [*seen.args, *seen.kwargs.values()]
        values = [self.entering(x, seen.user) for x in flat]
        if op is None or not all(values) or not values:
            return self._other(seen)
        leaves = before(seen)
        result = seen.func(*seen.args, **seen.kwargs)
        given = [value for value in values if value is not None]
        if op is OPS["identity"]:
            self.set(result, given[0])
            return result
        given = [unstacked(self, seen, v, x) for v, x in zip(given, flat, strict=True)]
        try:
            made = self.applied(seen.name, seen.user, op, seen.module, given, result)
        except Unknown as error:
            if op.role not in ("host", "synapse"):
                raise TraceError(f"{seen.user} cannot be mapped: {error}") from error
            self._opaque(seen, leaves, result)
        else:
            self.set(result, made)
        return result

    def applied(
        self,
        name: str,
        user: str,
        op: Op,
        module: nn.Module | None,
        given: Sequence[Value],
        result: Tensor,
        own: Sequence[Tensor] = (),
    ) -> Value:
        """What a kind of node makes of values, and of tensors that a function is given with them.

        Raises:
            Unknown: if the layer or its input is not as that kind is.
        """
        inputs, value, length = self.known.joined(given, user)
        rows = self._rows(given, user)
        timed = length is None and any(delay is not None for _, delay in inputs)
        if op.sees_time and timed:
            raise TraceError(f"{user} takes all steps at once, and the loop gives it one")
        what = (name, str(module), *map(self._constant, own))
        made = self.known.nodes.get((op.name, what, inputs))
        if made is None:
            attrs, tensors = _lowered(op, module, user)
            steps = length if length is not None else 1 if timed else None
            signals = tuple(
                Signal(tuple(source.shape[1:]), source.kind, None if delay is None else steps)
                for source, delay in inputs
            )
            lead: tuple[int, ...] = (rows,)
            if any(source is ZEROS for source, _ in inputs):
                kind, shape, after = Kind.VALUE, tuple(result.shape), None
            else:
                if steps is not None:  # in a loop what has no steps comes anew in each
                    signals = tuple(Signal(s.shape, s.kind, steps) for s in signals)
                try:
                    type_ = op.infer(attrs, tensors, signals)
                except ValueError as error:
                    raise Unknown(str(error)) from error
                after = type_.steps if length is not None or op.name == "encode" else None
                lead = lead if after is None else (after, rows)
                kind, shape = type_.kind, (self.batch, *type_.shape)
                if tuple(result.shape) != (*lead, *type_.shape):
                    raise Unknown(
                        f"it makes {tuple(result.shape)} of {rows} samples, and not "
                        f"{(*lead, *type_.shape)}: is the batch its first axis, and time another's?"
                    )
            of: dict[str, Any] = {}
            if op.name in ("encode", "decode", "largest"):
                of = {"timed": op.name == "encode"}
            made = self.known.made(
                op.name, name, what, inputs, attrs=attrs, tensors=tensors, shape=shape, kind=kind,
                whole=op.sees_time, **of,
            )  # fmt: skip
        if op.name == "encode":
            return Whole(made, made.attrs["steps"])
        if op.name in ("decode", "largest"):
            return Whole(made)
        return value(made)

    def _rows(self, values: Sequence[Value], user: str) -> int:
        """How long the axis of the samples is, on which all steps of them may be."""
        ones = [self.known.one(value, user) for value in values]
        return self.batch * next((one.steps for one in ones if isinstance(one, Folded)), 1)

    def _other(self, seen: Seen) -> Any:
        """A layer or function that no file describes."""
        leaves = before(seen)
        result = seen.func(*seen.args, **seen.kwargs)
        if any(self._was(x, leaf, seen) is not None for x, leaf in self._pairs(seen, leaves)):
            self._opaque(seen, leaves, result)
        return result

    def _pairs(self, seen: Seen, leaves: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
        yield from zip(tree_flatten((seen.args, seen.kwargs))[0], leaves, strict=True)

    def _was(self, x: Any, leaf: Any, seen: Seen) -> Value | None:
        """What an argument was before the call."""
        if leaf is not x and isinstance(x, Tensor):  # it may be written over now
            return self.latest(x) or self.entering(leaf, seen.user)
        return self.entering(x, seen.user)

    def _opaque(self, seen: Seen, leaves: list[Any], result: Any) -> None:
        """Nodes of torch's calls, one for each tensor that a call gives."""
        flat, tree = tree_flatten((seen.args, seen.kwargs))
        slots, values, skeleton = [], [], []
        for place, (x, leaf) in enumerate(zip(flat, leaves, strict=True)):
            value = self._was(x, leaf, seen)
            if value is None:
                skeleton.append(self._constant(x))
                continue
            slots.append(place)
            values.append(value)
            skeleton.append("input")
        if all(value == Whole(ZEROS) for value in values):
            return
        inputs, value_of, length = self.known.joined(values, seen.user)
        what = (seen.name, str(tree), tuple(skeleton))
        several, rows = not isinstance(result, Tensor), self._rows(values, seen.user)
        for part, tensor in enumerate(tree_flatten(result)[0]):
            if not isinstance(tensor, Tensor):
                continue
            lead = tuple(tensor.shape[:2])
            real = tensor.dtype == torch.float32
            timed = length is not None and lead == (length, self.batch) and tensor.dim() > 2
            node = real and (timed or (lead[:1] == (rows,) and tensor.dim() > 1))
            call = Call(
                seen.index, seen.func, tree, tuple(slots), [leaves],
                part if several else None, not node or several,
            )  # fmt: skip
            of: dict[str, Any] = {"timed": timed, "whole": True} if length is not None else {}
            shape = tuple(tensor.shape[1:] if timed else tensor.shape)
            made = self.known.made(
                "call", seen.name, (what, part), inputs, call=call, shape=shape, **of
            )
            made_of = value_of(made)
            if length is not None and not timed:
                made_of = Whole(made)
            self.set(tensor, made_of)

    def _constant(self, x: Any) -> Hashable:
        """What makes a constant argument the same in two steps."""
        if not isinstance(x, Tensor):
            return f"{type(x).__name__} {x!r}"
        if id(x) in self.own:
            return id(x)
        return (tuple(x.shape), str(x.dtype), x.detach().cpu().contiguous().numpy().tobytes())

    # Neurons.

    def _cell(self, seen: Seen, cell: Any) -> Any:
        """One step of one of snnTorch's neurons."""
        user = seen.user
        try:
            attrs = constants_of(cell)
        except ValueError as error:
            return self._foreign(seen, cell, str(error))
        try:
            check_threshold(cell)
            factor = factor_of(cell)
        except ValueError as error:
            raise TraceError(f"{user} cannot be mapped: {error}") from error
        names = states_of(cell)
        several = isinstance(factor, Tensor)
        if "spk" in names and (several or factor != 1):
            raise TraceError(
                f"{user} cannot be mapped: it feeds its spikes back with a graded_spikes_factor; "
                f"put that into its recurrent weights"
            )
        current, given = _entered(seen, cell, names)
        chain = self._chain(seen.name, user, names, given, current)
        chain.feedback = feedback_of(cell)
        self._drive(chain, self._source(current, chain, user), user)
        result = seen.func(*seen.args, **seen.kwargs)
        spikes = result[0] if isinstance(result, tuple) else result
        for name in names:
            state = getattr(cell, name)
            self.set(state, Step(self._of(chain, name, attrs, state), chain.calls))
        if not getattr(cell, "reset_delay", True):
            chain.made["mem"].op = "unread"  # cleared already in the step's end
        spike = Step(self._of(chain, "spk", attrs, spikes), chain.calls)
        self.set(spikes, self._graded(seen, spike, factor, spikes))
        chain.calls += 1
        return result

    def _graded(self, seen: Seen, spike: Step, factor: float | Tensor, spikes: Tensor) -> Value:
        """Spikes of a neuron times its graded_spikes_factor."""
        if not isinstance(factor, Tensor):
            return spike if factor == 1 else Sum(((spike, factor),))
        try:
            each = OneToOne(factor).over(tuple(spikes.shape[1:]))
        except ValueError as error:
            raise TraceError(
                f"{seen.user} cannot be mapped: its graded_spikes_factor differs within a channel, "
                f"and weights behind it cannot hold that: give each channel one"
            ) from error
        name = f"{seen.name}.factor"
        return self.applied(name, seen.user, OPS["one_to_one"], each, [spike], spikes)

    def _foreign(self, seen: Seen, cell: Any, said: str) -> Any:
        """One step of a neuron that no constants describe."""
        found = foreign(cell, said)
        if found is None:
            raise TraceError(f"{seen.user} cannot be mapped: {said}")
        current, given = _entered(seen, cell, found.states)
        chain = self._chain(seen.name, seen.user, found.states, given, current)
        chain.foreign = chain.foreign or found
        self._drive(chain, self._source(current, chain, seen.user), seen.user)
        chain.foreign.currents.append(current.clone())
        result = seen.func(*seen.args, **seen.kwargs)
        spikes = result[0] if isinstance(result, tuple) else result
        for what in ("spk", *found.states):
            tensor = spikes if what == "spk" else getattr(cell, what)
            if what not in chain.made:
                chain.made[what] = Made(
                    chain.cell if what == "spk" else f"{chain.cell}.{what}",
                    what,
                    shape=tuple(tensor.shape),
                    kind=Kind.SPIKE if what == "spk" else Kind.VALUE,
                    timed=True,
                    chain=chain,
                )
            self.set(tensor, Step(chain.made[what], chain.calls))
        chain.calls += 1
        return result

    def _of(self, chain: Chain, what: str, attrs: dict[str, Any], tensor: Tensor) -> Made:
        """The spikes, membranes or currents of a neuron."""
        if what not in chain.made:
            op, name = {
                "spk": ("neuron", chain.cell),
                "mem": ("membrane", f"{chain.cell}.membrane"),
                "syn": ("unread", f"{chain.cell}.current"),
            }[what]
            kind = Kind.SPIKE if what == "spk" else Kind.VALUE
            tensors = {name: value for name, value in attrs.items() if isinstance(value, Tensor)}
            chain.made[what] = Made(
                name,
                op,
                shape=tuple(tensor.shape),
                kind=kind,
                timed=True,
                attrs={name: value for name, value in attrs.items() if name not in tensors},
                tensors=tensors,
                chain=chain,
            )
        return chain.made[what]

    def _chain(
        self, path: str, user: str, names: Sequence[str], before: Sequence[Any], current: Tensor
    ) -> Chain:
        """The calls that a call goes on with, by the state that it is given."""
        values = [self.get(state, user) for state in before]
        if all(value is None for value in values):
            fresh = any(state.shape != current.shape for state in before)
            if fresh or not any(bool(state.any()) for state in before):
                return Chain(path)
            raise TraceError(
                f"{user} does not start from zero: its state is left from the forward before, or "
                f"given; clear it at the beginning of forward (snntorch.utils.reset(net) clears "
                f"only if net itself holds such a neuron, not a layer of it), or use "
                f"has8.over_time (--readout), which clears it"
            )
        chain = values[0].made.chain if isinstance(values[0], Step) else None
        if chain is not None and chain.cell == path:
            kept = [chain.made.get(name) for name in names]
            if values == [Step(made, chain.calls - 1) for made in kept if made is not None]:
                return chain
        steps = [value.step for value in values if isinstance(value, Step)]
        where = f", where steps {steps} of others are passed on" if steps else ""
        raise TraceError(
            f"{user} does not go on with the state of its own step before{where}: pass on what its "
            f"last call returned"
        )

    def _source(self, current: Tensor, chain: Chain, user: str) -> Slot:
        """The node that drives a neuron, and how many steps ago it made that."""
        value = self.entering(current, user)
        if value is None:
            raise TraceError(f"{user} takes a tensor that no layer made from the input")
        one = self.known.one(value, user)
        if isinstance(one, Folded) or (isinstance(one, Whole) and one.steps is not None):
            raise TraceError(f"{user} takes all steps at once: give it one in each call")
        if isinstance(one, Whole):
            return one.made, None
        if one.step > chain.calls or (chain.sources and chain.sources[0][0].op == "at"):
            taps, shape = {one.step: 1.0}, one.made.shape
            of: dict[str, Any] = {"taps": taps, "shape": shape, "timed": False}
            name, inputs = f"{one.made.name}.last", ((one.made, 0),)
            return self.known.made("at", name, one.step, inputs, **of), None
        return one.made, chain.calls - one.step

    def _drive(self, chain: Chain, source: Slot, user: str) -> None:
        """Note what drives a neuron in a step, and that the steps repeat."""
        last = chain.sources[-1] if chain.sources else source
        if source != last and not all(
            self.known.covers(source, early, step) for step, early in enumerate(chain.sources)
        ):
            raise TraceError(
                f"the steps do not repeat: at step {chain.calls} {user} {_differs(source, last)}"
            )
        chain.sources.append(source)

    # Torch's functions.

    def _function(self, seen: Seen) -> Any:
        """A function of torch, or one of a tensor's own."""
        flat = tree_flatten((seen.args, seen.kwargs))[0]
        if seen.short in RANDOM:
            return uniform(self, seen)
        by_chance = any(id(x) in self.random for x in flat)
        known = any(id(x) in self.values for x in flat)
        starts = seen.short in WEIGHTED and not known and self.entering(flat[0], seen.user)
        if not (known or starts):
            result = seen.func(*seen.args, **seen.kwargs)
            if by_chance and isinstance(result, Tensor):
                self.random[id(result)] = result, None
            return result
        if by_chance:
            return compared(self, seen, [self.get(x, seen.user) for x in flat])
        if seen.short in ("to", "type_as") and id(seen.args[0]) not in self.values:
            return seen.func(*seen.args, **seen.kwargs)  # of the other only its type and device
        if seen.short == "__setitem__":
            return assigned(self, seen)
        for x in flat:
            self.get(x, seen.user)  # refuses what was written over
        leaves = before(seen)
        values = [self._was(x, leaf, seen) for x, leaf in zip(flat, leaves, strict=True)]
        if seen.short == "bernoulli" and values[0] is not None:
            return drawn(self, seen, values[0])
        if any(seen.func is code for code in CODES) and values[0] is not None:
            return coded(self, seen, values[0])
        result = seen.func(*seen.args, **seen.kwargs)
        if seen.short in VALUE_FREE:
            return result
        if seen.short == "numpy":
            raise TraceError(
                f"{seen.user} takes values out of torch, where they cannot be followed: compute "
                f"with torch's functions"
            )
        if seen.short in ASKS:
            raise TraceError(
                f"it branches on values ({seen.user}), and a chip does the same for all samples; "
                f"take the branch out, or code inputs outside and pass inputs='spikes'"
            )
        if not any(isinstance(x, Tensor) for x in tree_flatten(result)[0]):
            return result  # a shape, a number of axes
        if not form(self, seen, values, result):
            self._opaque(seen, leaves, result)
        return result

    # What the model answered.

    def _check_steps(self, answer: Any) -> None:
        """Refuse a list of what was made in each step, of which one tensor would be one step."""
        if not isinstance(answer, tuple | list) or len(answer) < 2:
            return
        values = [self.get(x, "the model's output") for x in answer]
        steps = {(value.made.name, value.step) for value in values if isinstance(value, Step)}
        if len(steps) == len(values) and len({name for name, _ in steps}) == 1:
            raise TraceError(
                f"the model returns a {type(answer).__name__} of {len(values)} tensors, one of "
                f"each step: return torch.stack of it"
            )

    def answered(self, answer: Any, output: int) -> Value:
        """What the model's output is."""
        self._check_steps(answer)
        if isinstance(answer, tuple | list):
            if not 0 <= output < len(answer):
                raise TraceError(f"the model returns {len(answer)} tensors, and not one {output}")
            answer = answer[output]
            self._check_steps(answer)
        elif output:
            raise TraceError(f"the model returns one tensor, and not one {output}")
        if not isinstance(answer, Tensor):
            raise TraceError(
                f"the model returns a {type(answer).__name__}: return a tensor, or a tuple of "
                f"tensors, of which output=N says which"
            )
        value = self.get(answer, "the model's output")
        if value is None:
            raise TraceError("the model's output does not come from its input through its layers")
        return value


def _entered(seen: Seen, cell: Any, names: Sequence[str]) -> tuple[Tensor, list[Any]]:
    """The current and the states that a neuron's step begins with, given to it or its own."""
    args, kwargs = seen.args, seen.kwargs
    states = dict(zip(names, args[1:], strict=False)) | kwargs
    given = [s if (s := states.get(name)) is not None else getattr(cell, name) for name in names]
    return args[0] if args else kwargs["input_"], given


def _lowered(op: Op, module: nn.Module | None, user: str) -> tuple[Any, Any]:
    """Attributes and tensors of a layer."""
    if module is None:
        return {}, {}
    try:
        attrs, tensors = op.lower(module)
    except ValueError as error:
        raise Unknown(str(error)) from error
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise TraceError(f"the weights of {user} are not all finite numbers")
    return dict(attrs), dict(tensors)


def _differs(source: Slot, last: Slot) -> str:
    """What a neuron takes otherwise than in the steps before, and what can be done."""
    made, _ = source
    taken = (
        "what differs from step to step is taken off one axis of the input, in order: x[:, t], or "
        "x[t] with inputs='steps' or 'spikes'"
    )
    if made.op == "at":
        step, before = next(iter(made.taps)), next(iter(last[0].taps), None)
        if last[0].op == "at" and before == step - 1:
            return (
                f"takes step {step} of {made.inputs[0][0].name!r}, since it begins with step "
                f"{before}: leave out steps in front of the loop, as x[{before}:] does, call each "
                f"neuron in every step, and clear no state within the loop"
            )
        return (
            f"takes step {step} of {made.inputs[0][0].name!r}, and steps are "
            f"taken in order, one by one: leave out others in front of the loop, as x[::2] does"
        )
    if made is ZEROS:
        return f"takes zeros, in the steps before its current from {_shown(last)}; {taken}"
    if _shown(source) == _shown(last):
        return f"takes something else of {_shown(source)} than in the steps before; {taken}"
    return f"takes its current from {_shown(source)}, in the steps before from {_shown(last)}"


def _shown(source: Slot) -> str:
    made, delay = source
    if not delay:
        return repr(made.name)
    return f"{made.name!r} {delay} step{'' if delay == 1 else 's'} ago"
