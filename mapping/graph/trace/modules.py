"""From a torch module to the graph, by symbolic tracing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import snntorch as snn
import torch
from torch import fx, nn
from torch.nn import functional as F

from has8.blocks import OverTime
from has8.errors import TraceError
from has8.values import described
from mapping.graph.ir import Graph, Kind, Node, Signal, sorted_graph
from mapping.graph.ops import OPS, op_of

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

    def made(self, item: fx.Node, shares: bool, writes: bool) -> None:
        """``item`` lies in the memory of its first input, or wrote over it, or neither."""
        self.place[item] = len(self.place)
        first = item.all_input_nodes[0] if shares or writes else item
        self.owner[item] = self.owner.get(first, item)
        if writes:
            self.written[self.owner[item]] = item


def _words(item: fx.Node) -> str:
    return item.target if isinstance(item.target, str) else item.target.__name__


class _Tracer(fx.Tracer):
    """Stops at modules that a file of mapping.graph.ops lowers; runs OverTime's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scopes: dict[str, str] = {}
        self._stack: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return op_of(m) is not None or (
            m.__module__.startswith(("torch.nn", "snntorch")) and not isinstance(m, nn.Sequential)
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
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._stack.pop()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        self.scopes[node.name] = self._stack[-1] if self._stack else ""
        return node


def trace(model: nn.Module, input_shape: tuple[int, ...]) -> Graph:
    """The graph of a model in evaluation mode.

    Args:
        model: calibrated; its forward takes one tensor ``[B, *input_shape]`` and uses modules
            that :mod:`mapping.graph.ops` lists, additions, ReLU and flatten.
        input_shape: of one sample, ``(C, H, W)``.

    Raises:
        TraceError: if the model branches on values, uses a layer that mapping.graph.ops does not
            list, or its shapes do not fit; the message names the layer.
    """
    for path, module in model.named_modules():
        if isinstance(module, snn.SpikingNeuron) and op_of(module) is None:
            raise TraceError(
                f"layer {path!r} is snnTorch's {type(module).__name__}, which keeps its state from "
                f"call to call: use has8.neurons.Leaky, which takes all steps at once, [T, B, ...]"
            )
    tracer = _Tracer()
    try:
        traced = tracer.trace(model.eval())
    except Exception as error:
        raise TraceError(
            f"the forward of {type(model).__name__} cannot be followed: {_reason(error)}"
        ) from error
    if not any(item.op == "placeholder" for item in traced.nodes):
        raise TraceError(f"the forward of {type(model).__name__} must take one tensor of images")
    return _lower(model, traced, tracer.scopes, Signal(tuple(input_shape)))


def _reason(error: Exception) -> str:
    """Why a forward cannot be traced, in words of whoever wrote it."""
    said = str(error).strip()
    if "cannot be iterated" in said:
        return "it loops over a tensor or unpacks one; write it in operations on the whole tensor"
    if "control flow" in said:
        return "it branches on values, and a chip does the same for all images; take the branch out"
    return said.splitlines()[0] if said else type(error).__name__


def _lower(model: nn.Module, traced: fx.Graph, scopes: dict[str, str], given: Signal) -> Graph:
    nodes: dict[str, Node] = {}
    names: dict[fx.Node, str] = {}
    memory = _Memory()
    for item in traced.nodes:
        if item.op == "output":
            result = item.args[0]
            if not isinstance(result, fx.Node):
                raise TraceError("the model must return one tensor of logits, not several values")
            memory.read(item, "the model's output")
            return sorted_graph(nodes.values(), names[result])
        if item.op == "placeholder":
            if any(node.op == "input" for node in nodes.values()):
                raise TraceError("the model must take one tensor, but its forward takes several")
            node = Node(item.name, "input", (), given)
            memory.made(item, shares=False, writes=False)
        else:
            node = _lower_call(model, item, names, nodes, scopes[item.name])
            memory.read(item, node.name)
            memory.made(item, _shares(node), node.op != "identity" and _writes(model, item))
        nodes[node.name] = node
        names[item] = node.name
    raise TraceError("the model returns nothing")


def _lower_call(
    model: nn.Module,
    item: fx.Node,
    names: dict[fx.Node, str],
    nodes: dict[str, Node],
    scope: str,
) -> Node:
    inputs = tuple(names[arg] for arg in item.all_input_nodes)
    if item.op == "call_module":
        module = model.get_submodule(str(item.target))
        name, op, what = str(item.target), op_of(module), type(module).__name__
    else:
        kind = FUNCTIONS.get(item.target)
        op = OPS.get(kind) if kind else None
        what = str(getattr(item.target, "__name__", item.target))
        name, module = f"{scope}.{kind or what}".lstrip("."), None
    if item.op == "get_attr":
        raise TraceError(
            f"the forward of {type(model).__name__} computes with {_constant(model, what)}: use "
            f"layers, whose weights they hold"
        )
    if op is None:
        known = sorted({kind.__name__ for op in OPS.values() for kind in op.modules})
        raise TraceError(
            f"{'layer' if module is not None else 'call'} {name!r} ({what}) is of a kind that "
            f"mapping does not know: build the model of {', '.join(known)}, additions and "
            f"flatten, or describe this kind in a file in mapping/graph/ops"
        )
    if op.name == "add":
        inputs = _operands(item, names, name)
    if op.name == "flatten" and module is None and _flatten_axes(item) not in ((1,), (1, -1)):
        raise TraceError(f"flatten {name!r} must flatten everything behind the batch axis")
    name = _unique(name, nodes)
    try:
        attrs, tensors = op.lower(module) if module is not None else ({}, {})
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("its weights are not all finite numbers; train the model again")
        type_ = op.infer(attrs, tensors, tuple(nodes[source].type for source in inputs))
    except ValueError as error:
        raise TraceError(f"layer {name!r} ({what}) cannot be mapped: {error}") from error
    return Node(name, op.name, inputs, type_, attrs, tensors)


def _constant(model: nn.Module, path: str) -> str:
    """A tensor that is no value of the trace, as whoever wrote the model calls it.

    Args:
        model: as it was traced, which gave each tensor without a name one of torch.fx's.
        path: where the tensor is in the model.
    """
    if not path.startswith("_tensor_constant"):
        return f"a tensor of its own, {path!r}"
    tensor = getattr(model, path)
    memory = tensor.untyped_storage().data_ptr()
    for name, buffer in model.named_buffers():
        if memory and buffer.untyped_storage().data_ptr() == memory:  # a view of it
            return f"a tensor of its own, {name!r}"
    return f"{described(tensor)} that no layer holds"


def _shares(node: Node) -> bool:
    """Whether a node's result may be a view of its input."""
    repeated = node.op == "encode" and node.type.kind is Kind.VALUE
    return node.op in ("identity", "flatten") or repeated


def _writes(model: nn.Module, item: fx.Node) -> bool:
    """Whether a call writes its result over its first input."""
    if item.op == "call_module":
        return bool(getattr(model.get_submodule(str(item.target)), "inplace", False))
    return item.target in IN_PLACE or bool(item.kwargs.get("inplace", False))


def _operands(item: fx.Node, names: dict[fx.Node, str], name: str) -> tuple[str, ...]:
    """Both operands of an addition, which may be the same node."""
    if len(item.args) != 2 or item.kwargs or not all(isinstance(a, fx.Node) for a in item.args):
        raise TraceError(f"addition {name!r} must add two tensors, without alpha or constants")
    return tuple(names[arg] for arg in item.args if isinstance(arg, fx.Node))


def _flatten_axes(item: fx.Node) -> tuple[Any, ...]:
    return (*item.args[1:], *(item.kwargs[k] for k in ("start_dim", "end_dim") if k in item.kwargs))


def _unique(name: str, taken: dict[str, Node]) -> str:
    """The name, numbered where a module or function is used again."""
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate
