"""From a torch module to the graph, by symbolic tracing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from has8.blocks import OverTime
from has8.errors import Has8Error, TraceError
from mapping.graph.ir import Graph, Kind, Node, Signal, sorted_graph, unique_name
from mapping.graph.ops import OPS, Op, op_of, run_node
from mapping.graph.trace.opaque import NoNode, record

FUNCTIONS: dict[Any, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    "add": "add",
    "add_": "add",
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    "relu": "relu",
    "relu_": "relu",
    torch.flatten: "flatten",
    "flatten": "flatten",
}
"""Functions and tensor methods that become a node; mapping.graph.ops lists the modules."""


IN_PLACE: frozenset[Any] = frozenset({operator.iadd, "add_", F.relu_, torch.relu_, "relu_"})
"""Those that write their result over their first operand."""


class SymbolsFail(TraceError):
    """torch refuses symbols where it takes tensors."""


class _Proxy(fx.Proxy):
    """A value of a trace; torch.fx's own takes ``x += y`` for ``x = x + y``."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        raise ValueError("it assigns to a part of a tensor, x[...] = y")


class _Memory:
    """Which values of a trace lie in the same memory, and what was written over.

    A graph has no order in which its values change. So a value that an in-place operation wrote
    over can be followed only as the operation's result, under which name nothing is lost.
    """

    def __init__(self) -> None:
        self.owner: dict[fx.Node, fx.Node] = {}
        self.written: dict[fx.Node, fx.Node] = {}
        self.place: dict[fx.Node, int] = {}

    def read(self, item: fx.Node, name: str) -> None:
        """``item``, named ``name`` in messages, uses its inputs.

        Raises:
            TraceError: if another operation wrote over one of them.
        """
        for source in item.all_input_nodes:
            writer = self.written.get(self.owner[source])
            if writer is not None and self.place[source] < self.place[writer]:
                raise TraceError(
                    f"{name!r} uses a tensor that an operation in place ({_words(writer)}) has "
                    f"changed before: use that operation's result there, or let it make a new "
                    f"tensor (x = x + y for x += y, inplace=False)"
                )

    def made(self, item: fx.Node, shares: fx.Node | None, writes: fx.Node | None) -> None:
        """``item`` lies in the memory of an earlier one, or wrote over one, or neither."""
        self.place[item] = len(self.place)
        self.owner[item] = self.owner.get(writes or shares or item, item)
        if writes is not None:
            self.written[self.owner[item]] = item


def _words(item: fx.Node) -> str:
    return item.target if isinstance(item.target, str) else item.target.__name__


class _Tracer(fx.Tracer):
    """Stops at modules that a file of mapping.graph.ops lowers; runs OverTime's layers.

    Args:
        whole: paths of modules that are followed as one, since their forward cannot be.
    """

    def __init__(self, whole: Collection[str] = ()) -> None:
        super().__init__()
        self.scopes: dict[str, str] = {}
        self.merged: set[str] = set()
        self.failed: str | None = None
        self._whole = whole
        self._stack: list[str] = []
        self._over_time = 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            op_of(m) is not None
            or module_qualified_name in self._whole
            or (
                m.__module__.startswith(("torch.nn", "snntorch"))
                and not isinstance(m, nn.Sequential)
            )
        )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        if isinstance(m, OverTime):  # steps are part of an edge's type, not a reshape
            for layer in m:
                op = op_of(layer)
                if op is not None and op.sees_time:
                    raise ValueError(f"OverTime holds a {type(layer).__name__}, which needs time")
            forward = partial(nn.Sequential.forward, m)
        self._stack.append(self.path_of_module(m))
        self._over_time += isinstance(m, OverTime)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self._stack[-1]
            raise
        finally:
            self._over_time -= isinstance(m, OverTime)
            self._stack.pop()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        self.scopes[node.name] = self._stack[-1] if self._stack else ""
        if self._over_time:
            self.merged.add(node.name)
        return node


def trace(model: nn.Module, input_shape: tuple[int, ...]) -> Graph:
    """The graph of a model in evaluation mode.

    Args:
        model: calibrated; its forward takes one tensor ``[B, *input_shape]``. What no file of
            :mod:`mapping.graph.ops` describes becomes a node of torch's calls.
        input_shape: of one sample, ``(C, H, W)``.

    Raises:
        TraceError: if the model branches on values, a layer gives nothing that a graph can hold,
            or its shapes do not fit; the message names the layer.
    """
    traced, tracer = _symbols(model.eval())
    if not any(item.op == "placeholder" for item in traced.nodes):
        raise TraceError(f"the forward of {type(model).__name__} must take one tensor of images")
    return _Lowering(model, tracer).lower(traced, Signal(tuple(input_shape)))


def _symbols(model: nn.Module) -> tuple[fx.Graph, _Tracer]:
    """The model's calls; a layer of values that symbols cannot follow is one call."""
    whole: set[str] = set()
    while True:
        tracer = _Tracer(whole)
        try:
            return tracer.trace(model), tracer
        except Exception as error:
            path = tracer.failed
            if not path or path in whole or _is_spiking(model.get_submodule(path)):
                said = f"the forward of {type(model).__name__} cannot be followed: {_reason(error)}"
                kind = TraceError if isinstance(error, Has8Error) else SymbolsFail
                raise kind(said) from error
            whole.add(path)


def _is_spiking(module: nn.Module) -> bool:
    """Whether it holds layers that must be nodes of their own."""
    if isinstance(module, OverTime):
        return True
    ops = (op_of(part) for part in module.modules())
    return any(op is not None and op.role not in ("host", "synapse") for op in ops)


def _reason(error: Exception) -> str:
    """Why a forward cannot be traced, in words of whoever wrote it."""
    said = str(error).strip()
    if "cannot be iterated" in said:
        return "it loops over a tensor or unpacks one; write it in operations on the whole tensor"
    if "control flow" in said:
        return "it branches on values, and a chip does the same for all images; take the branch out"
    return said.splitlines()[0] if said else type(error).__name__


class _Lowering:
    """Turns the calls of one model into nodes."""

    def __init__(self, model: nn.Module, tracer: _Tracer) -> None:
        self.model, self.tracer = model, tracer
        self.nodes: dict[str, Node] = {}
        self.names: dict[fx.Node, str] = {}
        self.memory = _Memory()
        self.examples: Examples | None = None
        self.deferred: dict[fx.Node, str] = {}
        """Calls that are no nodes, with the reason: those that use them are followed with them."""

    def lower(self, traced: fx.Graph, given: Signal) -> Graph:
        """The graph, from an input of the given type."""
        for item in traced.nodes:
            if item.op == "output":
                result = item.args[0]
                if not isinstance(result, fx.Node):
                    raise TraceError(
                        "the model must return one tensor of logits, not several values"
                    )
                self.memory.read(item, "the model's output")
                if result in self.deferred:
                    raise TraceError(
                        f"the model's output ({_words(result)}) cannot be a node: "
                        f"{self.deferred[result]}"
                    )
                return sorted_graph(self.nodes.values(), self.names[result])
            if item.op == "placeholder":
                if self.nodes:
                    raise TraceError(
                        "the model must take one tensor, but its forward takes several"
                    )
                self._add(item, Node(item.name, "input", (), given))
                self.memory.made(item, None, None)
            elif item.op == "get_attr":
                self.deferred[item] = "it is a tensor of the model's own"
                self.memory.made(item, None, None)
            else:
                self._call(item)
                self._forget()
        raise TraceError("the model returns nothing")

    def _forget(self) -> None:
        """Drop examples that went into all their users."""
        if self.examples is not None:
            for item, name in self.names.items():
                users = [self.names.get(user) for user in item.users]
                if name in self.examples and all(self.examples.ran(user) for user in users):
                    self.examples.forget(name)

    def _add(self, item: fx.Node, node: Node) -> None:
        self.nodes[node.name] = node
        self.names[item] = node.name

    def _call(self, item: fx.Node) -> None:
        if item.op == "call_module":
            module = self.model.get_submodule(str(item.target))
            name, op, what = str(item.target), op_of(module), type(module).__name__
        else:
            kind = FUNCTIONS.get(item.target)
            op = OPS.get(kind) if kind else None
            what = str(getattr(item.target, "__name__", item.target))
            scope = self.tracer.scopes[item.name]
            name, module = f"{scope}.{kind or what}".lstrip("."), None
        self.memory.read(item, name)
        name = unique_name(name, self.nodes)
        fault: ValueError | None = None
        if op is not None and self._is_plain(item, op, module):
            try:
                node = self._known(item, op, module, name)
            except ValueError as error:
                if op.role not in ("host", "synapse"):
                    raise _unmapped(name, what, error) from error
                fault = error
            else:
                self._add(item, node)
                first = item.all_input_nodes[0]
                writes = node.op != "identity" and _writes(self.model, item)
                self.memory.made(item, first if _shares(node) else None, first if writes else None)
                return
        elif op is not None and op.role not in ("host", "synapse"):
            reasons = [self.deferred[i] for i in item.all_input_nodes if i in self.deferred]
            raise _unmapped(name, what, ValueError(reasons[0] if reasons else "it takes one value"))
        self._opaque(item, name, what, fault)

    def _is_plain(self, item: fx.Node, op: Op, module: nn.Module | None) -> bool:
        """Whether a call is one of its kind on values of the graph, without other arguments."""
        if not all(source in self.names for source in item.all_input_nodes):
            return False
        if op.name == "add":
            return (
                len(item.args) == 2
                and not item.kwargs
                and all(isinstance(argument, fx.Node) for argument in item.args)
            )
        if op.name == "flatten" and module is None:
            return _flatten_axes(item) in ((1,), (1, -1))
        return len(item.all_input_nodes) == 1

    def _known(self, item: fx.Node, op: Op, module: nn.Module | None, name: str) -> Node:
        inputs = tuple(self.names[source] for source in item.all_input_nodes)
        if op.name == "add":  # both operands may be the same node
            inputs = tuple(self.names[x] for x in item.args if isinstance(x, fx.Node))
        attrs, tensors = op.lower(module) if module is not None else ({}, {})
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("its weights are not all finite numbers; train the model again")
        type_ = op.infer(attrs, tensors, tuple(self.nodes[source].type for source in inputs))
        return Node(name, op.name, inputs, type_, attrs, tensors)

    def _opaque(self, item: fx.Node, name: str, what: str, fault: ValueError | None) -> None:
        """A call that no file describes: a node of torch's calls, or part of its users' nodes."""
        chain = self._chain(item)
        sources = list(
            dict.fromkeys(s for part in chain for s in part.all_input_nodes if s in self.names)
        )
        inputs = tuple(self.names[source] for source in sources)
        if not inputs:
            self._defer(item, "it depends on no image")
            return
        types = tuple(self.nodes[source].type for source in inputs)
        merged = item.name in self.tracer.merged
        if self.examples is None:
            self.examples = Examples(self.nodes)
        examples = self.examples.of(inputs, merged)

        def call(*values: Tensor) -> Any:
            return self._run(chain, dict(zip(sources, values, strict=True)))

        try:
            made = record(call, examples, types, merged=merged)
        except NoNode as error:
            if fault is not None:
                raise _unmapped(name, what, fault) from error
            self._defer(item, str(error))
            return
        except Exception as error:  # whatever a foreign forward raises
            reason = fault or ValueError(_reason(error))
            raise _unmapped(name, what, reason) from error
        if made.flattens:
            node = Node(name, "flatten", inputs, replace(types[0], shape=made.type.shape))
        else:
            node = Node(name, "torch", inputs, made.type, made.attrs, made.tensors)
        self._add(item, node)
        self.memory.made(
            item,
            None if made.shares is None else sources[made.shares],
            None if made.writes is None else sources[made.writes],
        )

    def _defer(self, item: fx.Node, reason: str) -> None:
        self.deferred[item] = reason
        first = next(iter(item.all_input_nodes), None)
        self.memory.made(item, first, first if _writes(self.model, item) else None)

    def _chain(self, item: fx.Node) -> list[fx.Node]:
        """A call behind those that it needs and that are no nodes, in their order."""
        found, pending = {item}, [item]
        while pending:
            new = [s for s in pending.pop().all_input_nodes if s in self.deferred]
            pending += [s for s in new if s not in found]
            found.update(new)
        return [i for i in self.deferred if i in found] + [item]

    def _run(self, chain: Sequence[fx.Node], values: dict[fx.Node, Any]) -> Any:
        """The result of the last of some calls."""
        for item in chain:
            args, kwargs = fx.map_arg((item.args, item.kwargs), values.__getitem__)
            if item.op == "get_attr":
                values[item] = attrgetter(str(item.target))(self.model)
            elif item.op == "call_module":
                values[item] = self.model.get_submodule(str(item.target))(*args, **kwargs)
            elif item.op == "call_method":
                values[item] = getattr(args[0], str(item.target))(*args[1:], **kwargs)
            else:
                values[item] = item.target(*args, **kwargs)  # type: ignore[operator]
        return values[chain[-1]]


def _unmapped(name: str, what: str, error: ValueError) -> TraceError:
    return TraceError(f"layer {name!r} ({what}) cannot be mapped: {error}")


class Examples:
    """What flows along the edges of a graph that grows, for two small batches of random images."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._values: tuple[dict[str, Tensor], ...] = ({}, {})
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._values[0]

    def ran(self, name: str | None) -> bool:
        """Whether a node has its values, or had them."""
        return name in self._known

    def forget(self, name: str) -> None:
        """Drop values that nothing needs any more."""
        for values in self._values:
            del values[name]

    def of(self, names: Sequence[str], merged: bool) -> list[list[Tensor]]:
        """The values of some nodes, by batch; merged, with steps in the batch."""
        drawn = torch.Generator().manual_seed(0)
        new = [node for name, node in self._nodes.items() if name not in self._known]
        self._known.update(node.name for node in new)
        for batch, values in zip((2, 3), self._values, strict=True):
            for node in new:
                if node.op == "input":
                    values[node.name] = torch.rand(batch, *node.type.shape, generator=drawn)
                    continue
                steps = self._nodes[node.inputs[0]].type.steps
                given = tuple(values[source] for source in node.inputs)
                with torch.no_grad():
                    values[node.name] = run_node(OPS[node.op], node, given, steps)
        return [
            [
                v[name].flatten(0, 1) if merged and self._nodes[name].type.steps else v[name]
                for name in names
            ]
            for v in self._values
        ]


def _shares(node: Node) -> bool:
    """Whether a node's result may be a view of its input."""
    repeated = node.op == "encode" and node.type.kind is Kind.VALUE
    return node.op in ("identity", "flatten") or repeated


def _writes(model: nn.Module, item: fx.Node) -> bool:
    """Whether a call writes its result over its first input."""
    if item.op == "call_module":
        return bool(getattr(model.get_submodule(str(item.target)), "inplace", False))
    return item.target in IN_PLACE or bool(item.kwargs.get("inplace", False))


def _flatten_axes(item: fx.Node) -> tuple[Any, ...]:
    return (*item.args[1:], *(item.kwargs[k] for k in ("start_dim", "end_dim") if k in item.kwargs))
