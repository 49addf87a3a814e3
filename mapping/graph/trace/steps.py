"""From a network that loops over its steps to the graph, by following one run with real tensors.

The loop is Python's, so it is not traced but run: every tensor of the run is known as the output of
a node, or as what a node makes in one step. Calls of the same layer on the same node are that node
again, and a spiking neuron whose state goes from call to call is one node over all its steps. So
the steps are rolled up where they repeat, and where they do not, the layer and the step are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from has8.errors import Has8Error, TraceError
from mapping.graph.ir import Graph, Node, Signal, sorted_graph, unique_name
from mapping.graph.ops import OPS, op_of
from mapping.graph.ops.cells import constants_of

SAME = frozenset({"detach", "clone", "contiguous", "float", "to", "cpu", "requires_grad_", "data"})
"""Functions and properties that give the same values again."""
VALUE_FREE = frozenset({"zeros_like", "empty_like", "ones_like", "full_like", "new_zeros"})
"""Functions that take only the shape of a tensor."""
ASKS = frozenset({"item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__"})
"""Functions that tell Python a tensor's values."""
POOLS = {
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
}
"""Functions that take what the module of that kind is made with."""


@dataclass(eq=False)
class _Chain:
    """The calls of one neuron that pass their state on, from cleared state."""

    cell: str
    calls: int = 0


@dataclass(eq=False)
class _Made:
    """What one node makes.

    Args:
        name: the node's, before it is made unique.
        op: its kind.
        inputs: what feeds it, and whether it is repeated in every step.
        attrs, tensors: the node's.
        shape: of the tensor that the run had, without time axis, ``(B, ...)``.
        chain: the calls of a neuron, whose number is the number of steps.
        taps: of a decoder, the weight of each step that it reads.
    """

    name: str
    op: str
    inputs: list[tuple[_Made, bool]]
    attrs: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    chain: _Chain | None = None
    taps: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Whole:
    """All that a node makes: ``[B, ...]``, or ``[T, B, ...]`` with ``steps`` T."""

    made: _Made
    steps: int | None = None


@dataclass(frozen=True)
class _Step:
    """What a node makes in one step, ``[B, ...]``."""

    made: _Made
    step: int


@dataclass(frozen=True)
class _Sum:
    """A sum of what nodes make in steps, each times a factor; ``[B, ...]``."""

    terms: tuple[tuple[_Step | _Whole, float], ...]


_Value = _Whole | _Step | _Sum


def loops(model: nn.Module) -> bool:
    """Whether a model holds snnTorch's neurons, which take one step in a call."""
    return any(map(_is_cell, model.modules()))


def _is_cell(module: nn.Module) -> bool:
    return isinstance(module, snn.SpikingNeuron) and op_of(module) is None


def trace_steps(model: nn.Module, x: Tensor, given: Signal, output: int = 0) -> Graph:
    """The graph of a model in evaluation mode that loops over its steps.

    Args:
        model: its forward takes one tensor and gives a tensor or a tuple of some.
        x: a few samples, ``[B, *shape]`` or, if ``given`` has steps, ``[T, B, *shape]``.
        given: type of the input.
        output: which of several tensors that the model returns.

    Raises:
        TraceError: if a layer or call is not known, state is passed on otherwise than from step
            to step, or the steps do not repeat; the message names the layer and the step.
    """
    model.eval()
    run = _Run(model, x, given)
    try:
        with torch.no_grad(), listed(model):
            model(x.clone())  # what is left in a neuron's state now, the next forward must clear
            with run.watched():
                answer = model(run.x)
    except Has8Error:
        raise
    except Exception as error:  # of a forward that others wrote
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TraceError(f"the forward of {type(model).__name__} fails: {said}") from error
    return run.graph(answer, output)


@contextmanager
def listed(model: nn.Module) -> Iterator[None]:
    """A body in which ``snntorch.utils.reset`` knows the neurons of a copied model."""
    kept = snn.SpikingNeuron.instances
    snn.SpikingNeuron.instances = [m for m in model.modules() if isinstance(m, snn.SpikingNeuron)]
    try:
        yield
    finally:
        snn.SpikingNeuron.instances = kept


class _Run(TorchFunctionMode):
    """One run of a model, and what each of its tensors is."""

    def __init__(self, model: nn.Module, x: Tensor, given: Signal) -> None:
        super().__init__()
        self.model, self.given = model, given
        self.x = x.clone()
        self.batch = x.shape[given.batch_axis]
        self.inside = 0
        self.values: dict[int, tuple[_Value, Tensor, int]] = {}
        self.nodes: dict[tuple[Any, ...], _Made] = {}
        self.sources: dict[_Chain, tuple[_Made, bool]] = {}
        start = _Made("input", "input", [], shape=(self.batch, *given.shape))
        self.input = start
        self._set(self.x, _Whole(start, given.steps))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A body in which the model's layers and torch's functions are followed."""
        wrapped = []
        try:
            for path, module in self.model.named_modules():
                call: Callable[..., Any]
                if _is_cell(module):
                    call = partial(self._cell, path, module, module.forward)
                elif op_of(module) is not None:
                    call = partial(self._layer, path, module, module.forward)
                elif module.__module__.startswith("torch.nn") and not list(module.children()):
                    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                        continue
                    call = partial(self._unknown, path, module, module.forward)
                else:
                    continue
                module.forward = call
                wrapped.append(module)
            with self:
                yield
        finally:
            for module in wrapped:
                del module.forward

    # What a tensor is.

    def _set(self, tensor: Tensor, value: _Value) -> None:
        self.values[id(tensor)] = value, tensor, tensor._version

    def _get(self, tensor: Any, user: str) -> _Value | None:
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

    def _needed(self, tensor: Any, user: str) -> _Value:
        value = self._get(tensor, user)
        if value is None:
            raise TraceError(
                f"{user} takes a tensor that no layer made, such as the zeros in front of the "
                f"first step: spikes of the step before cannot be mapped yet"
            )
        return value

    # What happens in the run.

    def _layer(
        self, path: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """A layer that mapping.graph.ops knows."""
        if self.inside:
            return forward(*args, **kwargs)
        user = f"layer {path!r} ({type(module).__name__})"
        given = [self._needed(x, user) for x in (*args, *kwargs.values())]
        result = self._quietly(forward, *args, **kwargs)
        if self._get(result, user) is None or op_of(module) is not OPS["identity"]:
            self._set(result, self._applied(path, module, user, given, result))
        return result

    def _applied(
        self, name: str, module: nn.Module | None, user: str, given: list[_Value], result: Tensor
    ) -> _Value:
        """What a layer, or a function ``name`` that is a kind of node, makes of values."""
        op = OPS[name.rpartition(".")[2]] if module is None else op_of(module)
        assert op is not None
        values = [self._one(value, user) for value in given]
        at = {value.step for value in values if isinstance(value, _Step)}
        if len(at) > 1:
            raise TraceError(f"{user} takes what was made in different steps, {sorted(at)}")
        lengths = [v.steps for v in values if isinstance(v, _Whole) and v.steps is not None]
        if at and lengths:
            raise TraceError(f"{user} takes one step and all steps at once")
        inputs = [(v.made, bool(at) and isinstance(v, _Whole)) for v in values]
        if op.sees_time and module is not None and at:
            raise TraceError(f"{user} takes all steps at once, and the loop gives it one")
        whole = lengths[0] if lengths else None
        key = (name, str(module), bool(at), *inputs)
        if key not in self.nodes:
            try:
                attrs, tensors = op.lower(module) if module is not None else ({}, {})
            except ValueError as error:
                raise TraceError(f"{user} cannot be mapped: {error}") from error
            if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
                raise TraceError(f"the weights of {user} are not all finite numbers")
            if op.name == "encode":
                whole = attrs["steps"]
            elif op.name == "decode":
                whole = None
            shape = tuple(result.shape) if whole is None else tuple(result.shape[1:])
            self.nodes[key] = _Made(name, op.name, inputs, dict(attrs), dict(tensors), shape)
        made = self.nodes[key]
        if at:
            return _Step(made, at.pop())
        if op.name == "encode":
            whole = made.attrs["steps"]
        return _Whole(made, None if op.name == "decode" else whole)

    def _unknown(
        self, path: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        if self.inside:
            return forward(*args, **kwargs)
        raise TraceError(
            f"layer {path!r} ({type(module).__name__}) is of a kind that mapping does not know "
            f"inside a loop over steps"
        )

    def _cell(
        self,
        path: str,
        cell: snn.SpikingNeuron,
        forward: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """One step of one of snnTorch's neurons."""
        if self.inside:
            return forward(*args, **kwargs)
        user = f"neuron {path!r} ({type(cell).__name__})"
        try:
            attrs = constants_of(cell)
        except ValueError as error:
            raise TraceError(f"{user} cannot be mapped: {error}") from error
        names = ("syn", "mem") if isinstance(cell, snn.Synaptic) else ("mem",)
        current = args[0] if args else kwargs["input_"]
        states = dict(zip(names, args[1:], strict=False)) | kwargs
        before = [s if (s := states.get(n)) is not None else getattr(cell, n) for n in names]
        chain = self._chain(path, user, names, before, current)
        source = self._current(self._needed(current, user), chain, user)
        first = self.sources.setdefault(chain, source)
        if first != source:
            raise TraceError(
                f"the steps do not repeat: at step {chain.calls} {user} takes its current from "
                f"{source[0].name!r}, in the steps before from {first[0].name!r}"
            )
        result = self._quietly(forward, *args, **kwargs)
        spikes = result[0] if isinstance(result, tuple) else result
        for name in names:
            state = getattr(cell, name)
            self._set(state, _Step(self._of(chain, name, attrs, state), chain.calls))
        if not getattr(cell, "reset_delay", True):
            self.nodes["cell", chain, "mem"].op = "unread"  # cleared already in the step's end
        self._set(spikes, _Step(self._of(chain, "spikes", attrs, spikes), chain.calls))
        chain.calls += 1
        return result

    def _of(self, chain: _Chain, what: str, attrs: dict[str, Any], tensor: Tensor) -> _Made:
        """The spikes, membranes or currents of a neuron."""
        key = ("cell", chain, what)
        if key not in self.nodes:
            op, name = {
                "spikes": ("neuron", chain.cell),
                "mem": ("membrane", f"{chain.cell}.membrane"),
                "syn": ("unread", f"{chain.cell}.current"),
            }[what]
            inputs = [self.sources[chain]]
            tensors = {name: value for name, value in attrs.items() if isinstance(value, Tensor)}
            numbers = {name: value for name, value in attrs.items() if name not in tensors}
            shape = tuple(tensor.shape)
            self.nodes[key] = _Made(name, op, inputs, numbers, tensors, shape, chain)
        return self.nodes[key]

    def _chain(
        self, path: str, user: str, names: tuple[str, ...], before: list[Tensor], current: Tensor
    ) -> _Chain:
        """The calls that this call goes on with, or new ones where its state is zero."""
        values = [self._get(state, user) for state in before]
        if all(value is None for value in values):
            fresh = any(state.shape != current.shape for state in before)
            if fresh or not any(bool(state.any()) for state in before):
                return _Chain(path)
            raise TraceError(
                f"{user} does not start from zero: its state is left from the forward before, or "
                f"given; clear it at the beginning of forward, or use has8.over_time"
            )
        chain = values[0].made.chain if isinstance(values[0], _Step) else None
        if chain is not None and chain.cell == path:
            kept = [self.nodes.get(("cell", chain, name)) for name in names]
            if values == [_Step(made, chain.calls - 1) for made in kept if made is not None]:
                return chain
        steps = [value.step for value in values if isinstance(value, _Step)]
        where = f", where steps {steps} of others are passed on" if steps else ""
        raise TraceError(
            f"{user} does not go on with the state of its own step before{where}: pass on what its "
            f"last call returned"
        )

    def _current(self, value: _Value, chain: _Chain, user: str) -> tuple[_Made, bool]:
        """The node that drives a neuron, and whether it gives the same in every step."""
        one = self._one(value, user, at=chain.calls)
        if isinstance(one, _Whole):
            if one.steps is not None:
                raise TraceError(f"{user} takes all steps at once: give it one in each call")
            return one.made, True
        if one.step != chain.calls:
            raise TraceError(
                f"{user} takes in step {chain.calls} what {one.made.name!r} made in step "
                f"{one.step}: loops over steps and delays are not mapped yet"
            )
        return one.made, False

    def _one(self, value: _Value, user: str, at: int | None = None) -> _Step | _Whole:
        """A sum as a node: additions within a step, or decoders over several."""
        if not isinstance(value, _Sum):
            return value
        steps = {term.step for term, _ in value.terms if isinstance(term, _Step)}
        if len(steps) == 1 and all(factor == 1 for _, factor in value.terms):
            (step,) = steps
            total = value.terms[0][0]
            for term, _ in value.terms[1:]:
                total = self._pair(total, term, step)
            return total
        if at is not None:
            raise TraceError(
                f"{user} takes in step {at} a sum over the steps {sorted(steps)}: loops over steps "
                f"and delays are not mapped yet"
            )
        return self._decoded(value, user)

    def _pair(self, left: _Step | _Whole, right: _Step | _Whole, step: int) -> _Step:
        inputs = [(v.made, isinstance(v, _Whole)) for v in (left, right)]
        key = ("add", *inputs)
        if key not in self.nodes:
            self.nodes[key] = _Made("add", "add", inputs, shape=left.made.shape)
        return _Step(self.nodes[key], step)

    def _decoded(self, value: _Value, user: str) -> _Whole:
        """A value without steps of its own, or with all of them."""
        if isinstance(value, _Whole):
            return value
        terms = value.terms if isinstance(value, _Sum) else ((value, 1.0),)
        taps: dict[_Made, dict[int, float]] = {}
        for term, factor in terms:
            if isinstance(term, _Whole):
                raise TraceError(f"{user} takes a sum of what has steps and what has none")
            of = taps.setdefault(term.made, {})
            of[term.step] = of.get(term.step, 0.0) + factor
        parts = [self._decoder(made, of) for made, of in taps.items()]
        total = parts[0]
        for part in parts[1:]:
            total = _Made("add", "add", [(total, False), (part, False)], shape=part.shape)
        return _Whole(total)

    def _decoder(self, made: _Made, taps: dict[int, float]) -> _Made:
        key = ("decode", made, *sorted(taps.items()))
        if key not in self.nodes:
            self.nodes[key] = _Made(
                "readout", "decode", [(made, False)], shape=made.shape, taps=taps
            )
        return self.nodes[key]

    def _quietly(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.inside += 1
        try:
            return call(*args, **kwargs)
        finally:
            self.inside -= 1

    # Torch's functions.

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function, and know what its result is."""
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", func))
        if name == "__get__":
            name = str(getattr(func.__self__, "__name__", name))
        user = f"{name!r} in the forward"
        flat = [x for a in (*args, *kwargs.values()) for x in (a if _several(a) else (a,))]
        known = [x for x in flat if self._get(x, user) is not None]
        result = self._quietly(func, *args, **kwargs)
        if not known or name in VALUE_FREE:
            return result
        if name.endswith("_") and result is args[0] and id(result) in self.values:
            self._set(result, self.values[id(result)][0])  # its views still have the old version
        if name in ASKS:
            raise TraceError(
                "it branches on values, and a chip does the same for all samples; take the branch "
                "out"
            )
        if not isinstance(result, Tensor) and not _several(result):
            return result  # a shape, a number of axes
        self._function(name, user, args, kwargs, result)
        return result

    def _function(
        self, name: str, user: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        if name in ("add", "add_", "__radd__") and not kwargs:
            return self._set(result, self._added(args, user))
        if name in ("stack",):
            return self._set(result, self._stacked(args, kwargs, user))
        value = self._needed(args[0] if args else next(iter(kwargs.values())), user)
        rest = args[1:]
        steps = value.steps if isinstance(value, _Whole) else None
        if name in SAME and result.dtype == torch.float32:
            return self._set(result, value)
        if name in ("mul", "div", "true_divide", "__rmul__") and not kwargs:
            factor = next((a for a in rest if isinstance(a, int | float)), None)
            if factor:
                scaled = self._scaled(value, factor if "mul" in name else 1 / factor)
                if scaled is not None:
                    return self._set(result, scaled)
        if steps is not None and isinstance(value, _Whole):
            axis = kwargs.get("dim", rest[0] if rest else None)
            if (name == "__getitem__" or (name == "select" and axis == 0)) and _number(rest[-1]):
                return self._set(result, _Step(value.made, rest[-1] % steps))
            if name == "unbind" and (axis or 0) == 0:
                for step, part in enumerate(result):
                    self._set(part, _Step(value.made, step))
                return None
            whole = len(rest) + len(kwargs) == 1 and axis in (0, [0], (0,))
            if name in ("sum", "mean") and whole:
                part = 1.0 if name == "sum" else 1 / steps
                taps = dict.fromkeys(range(steps), part)
                return self._set(result, _Whole(self._decoder(value.made, taps)))
            if name in ("max", "amax") and whole:
                largest = result if name == "amax" else result.values
                made = _Made("largest", "largest", [(value.made, False)], shape=value.made.shape)
                return self._set(largest, _Whole(made))
        if name in ("view", "reshape", "flatten", "squeeze"):
            axes = 1 if steps is None else 2
            before = tuple(args[0].shape) if args else ()
            if tuple(result.shape) == before:
                return self._set(result, value)
            if tuple(result.shape) == (*before[:axes], prod(before[axes:])):
                return self._set(result, self._applied("flatten", None, user, [value], result))
        if name in ("relu", "relu_"):
            return self._set(result, self._applied("relu", None, user, [value], result))
        if name in POOLS:
            options = {k: v for k, v in kwargs.items() if k != "input"}
            module = POOLS[name](*rest, **options)
            return self._set(result, self._applied(name, module, user, [value], result))
        raise TraceError(
            f"{user} is of a kind that mapping does not know in a loop over steps: use layers, "
            f"additions, torch.stack, and sums, means or maxima over the steps"
        )

    def _added(self, args: tuple[Any, ...], user: str) -> _Value:
        """A sum of two; zeros add nothing."""
        values: list[_Value] = []
        for given in args:
            value = self._get(given, user)
            if value is not None:
                values.append(value)
            elif bool(given.any()) if isinstance(given, Tensor) else given != 0:
                raise TraceError(f"{user} adds a constant: only what layers make can be added")
        if len(values) == 1:
            return values[0]
        if all(isinstance(value, _Whole) for value in values):
            one, two = values
            assert isinstance(one, _Whole) and isinstance(two, _Whole)
            if one.steps != two.steps:
                raise TraceError(f"{user} adds what has steps and what has none")
            inputs = [(one.made, False), (two.made, False)]
            key = ("add", *inputs)
            made = _Made("add", "add", inputs, shape=one.made.shape)
            return _Whole(self.nodes.setdefault(key, made), one.steps)
        terms: list[tuple[_Step | _Whole, float]] = []
        for value in values:
            terms += value.terms if isinstance(value, _Sum) else [(value, 1.0)]
        return _Sum(tuple(terms))

    def _scaled(self, value: _Value, factor: float) -> _Value | None:
        if isinstance(value, _Whole):
            if not value.made.taps:
                return None
            taps = {step: weight * factor for step, weight in value.made.taps.items()}
            return _Whole(self._decoder(value.made.inputs[0][0], taps))
        terms = value.terms if isinstance(value, _Sum) else ((value, 1.0),)
        return _Sum(tuple((term, weight * factor) for term, weight in terms))

    def _stacked(self, args: tuple[Any, ...], kwargs: dict[str, Any], user: str) -> _Value:
        """All steps of a node, in their order."""
        if (args[1] if len(args) > 1 else kwargs.get("dim", 0)) != 0:
            raise TraceError("torch.stack must put the steps first, dim=0")
        several = args[0] if args else kwargs["tensors"]
        values = [self._one(self._needed(part, user), user) for part in several]
        first, count = values[0], len(values)
        if isinstance(first, _Whole):
            if first.steps is not None or any(value != first for value in values):
                raise TraceError("torch.stack must stack what one layer makes in each step")
            return _Whole(self._repeated(first.made, count), count)
        for step, value in enumerate(values):
            if value != _Step(first.made, step):
                raise TraceError(
                    f"the steps do not repeat: at step {step} torch.stack takes something else "
                    f"than what {first.made.name!r} makes in that step"
                )
        return _Whole(first.made, count)

    def _repeated(self, made: _Made, steps: int) -> _Made:
        key = ("repeat", made, steps)
        if key not in self.nodes:
            attrs = {"coding": "duplicate", "steps": steps}
            name = f"{made.name}.repeated"
            self.nodes[key] = _Made(name, "encode", [(made, False)], attrs, shape=made.shape)
        return self.nodes[key]

    # The graph.

    def graph(self, answer: Any, output: int) -> Graph:
        """The graph of what the model answered."""
        if isinstance(answer, tuple | list):
            if not 0 <= output < len(answer):
                raise TraceError(f"the model returns {len(answer)} tensors, and not one {output}")
            answer = answer[output]
        value = self._get(answer, "the model's output")
        if value is None:
            raise TraceError("the model's output does not come from its input through its layers")
        nodes: dict[str, Node] = {}
        names: dict[_Made, str] = {}
        start = Node("input", "input", (), self.given)
        nodes["input"], names[self.input] = start, "input"
        last = self._decoded(value, "the model's output")
        name = self._node(last.made, nodes, names)
        if last.steps != nodes[name].type.steps:
            raise TraceError(
                f"the model returns {last.steps} steps of {name!r}, which runs "
                f"{nodes[name].type.steps}"
            )
        return sorted_graph(nodes.values(), name)

    def _node(self, made: _Made, nodes: dict[str, Node], names: dict[_Made, str]) -> str:
        """The name of the node that makes something; new nodes are added."""
        if made in names:
            return names[made]
        pending = [source for source, _ in made.inputs]
        for source in pending:
            self._node(source, nodes, names)
        steps = made.chain.calls if made.chain is not None else None
        for source, repeated in made.inputs:
            if steps is None and not repeated:
                steps = nodes[names[source]].type.steps
        inputs = []
        for source, repeated in made.inputs:
            if repeated:
                assert steps is not None
                source = self._repeated(source, steps)
            inputs.append(self._node(source, nodes, names))
        types = tuple(nodes[source].type for source in inputs)
        if made.chain is not None and types[0].steps != steps:
            raise TraceError(
                f"the steps do not repeat: {made.name!r} runs {steps} steps and {inputs[0]!r}, "
                f"which feeds it, {types[0].steps}"
            )
        tensors = made.tensors
        if made.taps:
            weights = [made.taps.get(step, 0.0) for step in range(types[0].steps or 0)]
            tensors = {"weights": torch.tensor(weights)}
        if made.op == "unread":
            raise TraceError(
                f"{made.name!r} is read: only spikes can be, and membranes with reset_delay=True"
            )
        try:
            type_ = OPS[made.op].infer(made.attrs, tensors, types)
        except ValueError as error:
            raise TraceError(f"layer {made.name!r} cannot be mapped: {error}") from error
        if made.shape != (self.batch, *type_.shape):
            raise TraceError(
                f"layer {made.name!r} makes {made.shape} of {self.batch} samples, and not "
                f"{(self.batch, *type_.shape)}: is the batch its first axis, and time another's?"
            )
        name = unique_name(made.name, nodes)
        nodes[name] = Node(name, made.op, tuple(inputs), type_, made.attrs, tensors)
        names[made] = name
        return name


def _several(value: Any) -> bool:
    return isinstance(value, tuple | list) and not isinstance(value, torch.Size)


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
