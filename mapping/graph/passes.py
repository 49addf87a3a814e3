"""Rewrites of the graph that keep what it computes; each is a pure function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from mapping.graph.chains import compose_chains, driving, of_spikes
from mapping.graph.factors import fold_factors
from mapping.graph.ir import Graph, Kind, Node, renamed_inputs, sorted_graph, unique_name
from mapping.graph.ops import OPS, synapse_of
from mapping.graph.ops.batchnorm import factor_and_offset
from mapping.graph.ops.pool import LINEAR
from mapping.graph.ops.shape import AXES, RESHAPED
from mapping.graph.pooling import maximum_as_or
from mapping.graph.verify import verify_graph

Pass = Callable[[Graph], Graph]


def drop_identity(graph: Graph) -> Graph:
    """Take out nodes that pass their input on."""
    source: dict[str, str] = {}
    kept: list[Node] = []
    for node in graph:
        spikes = bool(node.inputs) and graph[node.inputs[0]].type.kind is Kind.SPIKE
        if node.op == "identity" or (node.op == "relu" and spikes):
            source[node.name] = source.get(node.inputs[0], node.inputs[0])
        else:
            kept.append(node)
    output = graph.output.name
    return sorted_graph((renamed_inputs(node, source) for node in kept), source.get(output, output))


def fold_batchnorm(graph: Graph) -> Graph:
    """Multiply batch normalisation into the convolution or linear layer in front of it.

    Only where nothing else uses that layer's output; the rest stays as it is.
    """
    nodes = {node.name: node for node in graph}
    source: dict[str, str] = {}
    for node in graph:
        if node.op != "batchnorm":
            continue
        behind = node.inputs[0]
        front = nodes[source.get(behind, behind)]
        if OPS[front.op].role == "synapse" and len(graph.consumers(behind)) == 1:
            nodes[front.name] = replace(front, tensors=folded(front, node))
            source[node.name] = front.name
            del nodes[node.name]
    output = graph.output.name
    kept = [renamed_inputs(node, source) for node in nodes.values()]
    return sorted_graph(kept, source.get(output, output))


def folded(front: Node, norm: Node) -> dict[str, Tensor]:
    """Weight and bias of a synapse with the batch norm behind it; gradients pass to the tensors."""
    factor, offset = factor_and_offset(norm)
    weight = front.tensors["weight"].double()
    bias = offset
    if "bias" in front.tensors:
        bias = front.tensors["bias"].double() * factor + offset
    weight = synapse_of(front).scaled(front.attrs, weight, factor)
    return {"weight": weight.float(), "bias": bias.float()}


def absorb_reshapes(graph: Graph) -> Graph:
    """Take out other shapes of spikes in front of linear layers, which take spikes of any shape.

    One shape behind another is the last one.
    """
    source = {node.name: node.inputs[0] for node in graph if node.op in RESHAPED}

    def taken(node: Node) -> Node:
        spikes = [graph[name].type.kind is Kind.SPIKE for name in node.inputs]
        if not (node.op in RESHAPED or (node.op == "linear" and all(spikes))):
            return node
        (name,) = node.inputs
        while name in source and len(graph[source[name]].type.shape) <= AXES:
            name = source[name]
        return replace(node, inputs=(name,))

    return sorted_graph(map(taken, graph), graph.output.name)


def own_reshapes(graph: Graph) -> Graph:
    """Give each layer that takes spikes in another shape a node of its own for that.

    So that it is part of the layer, whoever else takes them in this shape.
    """
    nodes: dict[str, Node] = {}
    for node in graph:
        (name, *others) = node.inputs or ("",)
        shared = name and len(graph.consumers(name)) > 1 and graph[name].op in RESHAPED
        if shared and OPS[node.op].role == "synapse" and graph[name].type.kind is Kind.SPIKE:
            own = unique_name(f"{name}.{node.name}", {other.name for other in graph})
            nodes[own] = replace(graph[name], name=own)
            node = replace(node, inputs=(own, *others))
        nodes[node.name] = node
    return sorted_graph(nodes.values(), graph.output.name)


def reshape_past_neurons(graph: Graph) -> Graph:
    """``neuron(reshape(x))`` becomes ``reshape(neuron(x))``, and so do the sums that drive neurons.

    What makes their current of spikes is then affine layers alone. The neuron keeps its name.
    """
    nodes = {node.name: node for node in graph}
    renamed: dict[str, str] = {}
    driven = set(driving(graph))
    for name in [node.name for node in graph if node.name in driven]:
        node = nodes[name]
        count = len(node.inputs) if node.op == "add" else 1
        fronts = [_unshaped(graph, nodes, source) for source in node.inputs[:count]]
        shapes = {nodes[front].type.shape for front in fronts}
        if len(shapes) > 1 or any(f == s for f, s in zip(fronts, node.inputs, strict=False)):
            continue
        moved = _in_shape(replace(node, inputs=(*fronts, *node.inputs[count:])), *shapes)
        inner, outer = name, unique_name(f"{name}.reshape", nodes)
        if node.op == "add":
            inner, outer = unique_name(f"{name}.sum", nodes), name
        else:
            renamed[name] = outer
        nodes[inner] = replace(moved, name=inner)
        attrs = {"shape": list(node.type.shape)}
        nodes[outer] = Node(outer, "reshape", (inner,), node.type, attrs)
    taken = (
        node if node.name in renamed.values() else renamed_inputs(node, renamed)
        for node in nodes.values()
    )
    output = graph.output.name
    return sorted_graph(taken, renamed.get(output, output))


def _unshaped(graph: Graph, nodes: Mapping[str, Node], name: str) -> str:
    """What layers of spikes made before it took another shape; ``name`` where it has not."""
    front, node = name, nodes[name]
    if name in graph and not of_spikes(graph, name):
        return name
    while node.op in RESHAPED and node.type.kind is Kind.VALUE:
        node = nodes[node.inputs[0]]
        if node.op not in RESHAPED and len(node.type.shape) <= AXES:
            front = node.name
    return front


def _in_shape(node: Node, shape: tuple[int, ...]) -> Node:
    """A neuron, or a sum, of the same elements in another shape, with each its own constants."""
    before = node.type.shape
    tensors = {k: x.expand(before).reshape(shape) for k, x in node.tensors.items()}
    return replace(node, type=replace(node.type, shape=shape), tensors=tensors)


def split_concat(graph: Graph) -> Graph:
    """A synapse of channels side by side becomes one for each, with its part of the weights.

    Where spikes are among them, so that each of them can come to the chip by itself.
    """
    nodes = {node.name: node for node in graph}
    for node in graph:
        joined = graph[node.inputs[0]] if node.inputs else node
        sources = [graph[name].type for name in joined.inputs]
        spikes = any(source.kind is Kind.SPIKE for source in sources)
        whole = node.op == "linear" or (
            node.op in ("conv1d", "conv2d") and node.attrs["groups"] == 1
        )
        if joined.op != "concat" or not spikes or not whole:
            continue
        flat = node.op == "linear"
        if flat and any(x.kind is not Kind.SPIKE and len(x.shape) > 1 for x in sources):
            continue
        sizes = [source.size if flat else source.shape[0] for source in sources]
        total = ""
        for slot, weight in enumerate(node.tensors["weight"].split(sizes, 1)):
            bias = {k: v for k, v in node.tensors.items() if k == "bias" and not slot}
            name = unique_name(f"{node.name}.{slot}", nodes)
            tensors = {"weight": weight.contiguous(), **bias}
            inputs = (joined.inputs[slot],)
            nodes[name] = replace(node, name=name, inputs=inputs, tensors=tensors)
            if total:
                last = slot == len(sizes) - 1
                added = node.name if last else unique_name(f"{node.name}.sum", nodes)
                nodes[added] = Node(added, "add", (total, name), node.type)
                name = added
            total = name
    return sorted_graph(nodes.values(), graph.output.name)


def pool_past_decode(graph: Graph) -> Graph:
    """``decode(average(x))`` becomes ``average(decode(x))``, exactly, since both are linear."""
    return _past_decode(graph, lambda node: node.op in LINEAR)


def residual_past_decode(graph: Graph) -> Graph:
    """``decode(x + y)`` becomes ``decode(x) + decode(y)``, exactly.

    So the addition of a SEW block needs no chip, and an identity branch never crosses to it.
    """
    return _past_decode(graph, lambda node: node.op == "add")


def reshape_past_decode(graph: Graph) -> Graph:
    """``decode(flatten(x))`` becomes ``flatten(decode(x))``."""
    return _past_decode(graph, lambda node: node.op in RESHAPED)


def _past_decode(graph: Graph, linear: Callable[[Node], bool]) -> Graph:
    """Move nodes that ``linear`` picks, and that only decoders use, behind those decoders."""
    nodes = {node.name: node for node in graph}
    changed = True
    while changed:  # a decoder may meet one linear node behind another
        changed = False
        for decoder in [n for n in nodes.values() if n.op == "decode"]:
            front = nodes[decoder.inputs[0]]
            users = [n for n in nodes.values() if front.name in n.inputs]
            if not linear(front) or len(users) != 1:
                continue
            operands = []
            for slot, name in enumerate(front.inputs):
                inner = f"{decoder.name}.{slot}" if len(front.inputs) > 1 else f"{decoder.name}.in"
                type_ = replace(decoder.type, shape=nodes[name].type.shape)
                nodes[inner] = replace(decoder, name=inner, inputs=(name,), type=type_)
                operands.append(inner)
            # The moved node takes the decoder's name, so its users need no change.
            nodes[decoder.name] = replace(
                front, name=decoder.name, inputs=tuple(operands), type=decoder.type
            )
            del nodes[front.name]
            changed = True
            break
    return sorted_graph(nodes.values(), graph.output.name)


PASSES: tuple[Pass, ...] = (
    drop_identity,
    fold_batchnorm,
    fold_factors,
    reshape_past_neurons,
    compose_chains,
    absorb_reshapes,
    split_concat,
    pool_past_decode,
    residual_past_decode,
    reshape_past_decode,
    maximum_as_or,
    own_reshapes,
)
"""In the order in which they run."""


def run_passes(graph: Graph, passes: Sequence[Pass] = PASSES) -> Graph:
    """Run each pass and verify its result, unless it holds the very nodes that were verified.

    Raises:
        RuntimeError: if a pass broke the graph; the message names the pass.
    """
    verified: tuple[Node, ...] | None = None
    for rewrite in passes:
        graph = rewrite(graph)
        if graph.nodes == verified:
            continue
        verified = graph.nodes
        try:
            verify_graph(graph)
        except ValueError as error:
            raise RuntimeError(f"pass {rewrite.__name__} broke the graph: {error}") from error
    return graph
