"""From a torch module to the graph, by symbolic tracing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from has8.blocks import OverTime
from has8.errors import TraceError
from mapping.graph.ir import Graph, Node, Signal, sorted_graph
from mapping.graph.ops import OPS, op_of

FUNCTIONS: dict[Any, str] = {
    operator.add: "add",
    torch.add: "add",
    "add": "add",
    F.relu: "relu",
    torch.relu: "relu",
    "relu": "relu",
    torch.flatten: "flatten",
    "flatten": "flatten",
}
"""Functions and tensor methods that become a node; mapping.graph.ops lists the modules."""


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
    tracer = _Tracer()
    try:
        traced = tracer.trace(model.eval())
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TraceError(
            f"the forward of {type(model).__name__} cannot be traced ({reason}); it must not "
            f"branch on values or loop over tensors"
        ) from error
    return _lower(model, traced, tracer.scopes, Signal(tuple(input_shape)))


def _lower(model: nn.Module, traced: fx.Graph, scopes: dict[str, str], given: Signal) -> Graph:
    nodes: dict[str, Node] = {}
    names: dict[fx.Node, str] = {}
    for item in traced.nodes:
        if item.op == "output":
            result = item.args[0]
            if not isinstance(result, fx.Node):
                raise TraceError("the model must return one tensor of logits, not several values")
            return sorted_graph(nodes.values(), names[result])
        if item.op == "placeholder":
            if any(node.op == "input" for node in nodes.values()):
                raise TraceError("the model must take one tensor, but its forward takes several")
            node = Node(item.name, "input", (), given)
        else:
            node = _lower_call(model, item, names, nodes, scopes[item.name])
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
    if op is None:
        raise TraceError(
            f"layer {name!r} is a {what}, which mapping does not know: {_instead(module)}"
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


def _instead(module: nn.Module | None) -> str:
    """What to use in place of a module that has no file here, or of a function (None)."""
    if module is not None and type(module).__module__.startswith("snntorch"):
        return "use has8.neurons.Leaky, which has the same arithmetic and runs over all time steps"
    kinds = {kind.__name__ for op in OPS.values() for kind in op.modules}
    functions = "" if module is not None else ", and of functions +, relu and flatten"
    return f"use {', '.join(sorted(kinds))}{functions}"


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
