"""Chains of layers between spikes and a neuron become one layer each, as a chip has them.

Convolutions, linear layers, averages, normalisation, factors and sums are affine, and so is all of
them behind each other: weights that slide over the spikes, and a bias. So a neuron's current comes
from synapses of spikes alone, whatever a model makes it of, wherever that is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as product_of
from math import gcd

import torch
from torch import Tensor

from mapping.chip.wiring import Axis, Wiring, dense, fan_out, shape3
from mapping.graph.ir import Graph, Kind, Node, Signal, sorted_graph, unique_name
from mapping.graph.ops import OPS, synapse_of, wiring_of
from mapping.graph.ops.op import Affine, each_channel
from mapping.graph.ops.shape import RESHAPED

DRIVEN = ("neuron", "membrane", "last_membrane")
"""Kinds of nodes whose first input is a current."""


class NotOne(ValueError):
    """Some layers are not one layer; says why, or nothing where one of them is not affine."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Layers behind each other, as one.

    Args:
        affine: what they do together.
        layers: the names of those with weights of their own, the last one first.
        synapses: that they have one by one.
    """

    affine: Affine
    layers: tuple[str, ...] = ()
    synapses: int = 0


def compose_chains(graph: Graph) -> Graph:
    """Make each part of a neuron's current that comes from spikes a layer of these spikes.

    A sum's parts become layers of their own, whose currents a chip adds. What is not exact, is
    used by anything else too, or would take more synapses than its layers have, stays.
    """
    nodes = {node.name: node for node in graph}
    made: dict[str, str] = {}
    drivers = driving(graph)
    for name in drivers:
        for term in _terms(graph, graph[name]):
            if term in made or not _only_drives(graph, name):
                continue
            with suppress(NotOne):
                made[term] = _add_layers(nodes, graph, term, _parts(graph, term))
    for name in drivers:
        node = nodes[name]
        count = len(node.inputs) if node.op == "add" else 1
        inputs = (*(made.get(x, x) for x in node.inputs[:count]), *node.inputs[count:])
        nodes[name] = replace(node, inputs=inputs)
    return sorted_graph(nodes.values(), graph.output.name)


def obstacle(graph: Graph, term: str) -> str | None:
    """Why the layers between spikes and a part of a current are not one; None if nothing says."""
    try:
        _parts(graph, term)
    except NotOne as reason:
        return str(reason) or None
    return None


def driving(graph: Graph) -> list[str]:
    """The neurons, each in front of the sums that are its current."""
    return list({name: None for node in graph if node.op in DRIVEN for name in _sums(graph, node)})


def _sums(graph: Graph, node: Node) -> Iterator[str]:
    """A neuron, and the sums that are its current."""
    yield node.name
    for source in node.inputs if node.op == "add" else node.inputs[:1]:
        if graph[source].op == "add":
            yield from _sums(graph, graph[source])


def _terms(graph: Graph, node: Node) -> list[str]:
    """What is no sum itself among what a neuron or a sum takes, unless it is a layer of spikes."""
    sources = node.inputs if node.op == "add" else node.inputs[:1]
    return [name for name in sources if graph[name].op != "add" and not _is_layer(graph, name)]


def _is_layer(graph: Graph, name: str) -> bool:
    node = graph[name]
    return OPS[node.op].role == "synapse" and graph[node.inputs[0]].type.kind is Kind.SPIKE


def _only_drives(graph: Graph, name: str) -> bool:
    """Whether all that a value is used for is, through affine layers, neurons' currents."""
    if graph[name].op in DRIVEN:
        return True
    users = graph.consumers(name)
    return bool(users) and all(
        (user.op in DRIVEN and slot == 0) or (_passes(user) and _only_drives(graph, user.name))
        for user, slot in users
    )


def _passes(node: Node) -> bool:
    op = OPS[node.op]
    return op.role == "synapse" or op.affine is not None or node.op in ("add", "concat", *RESHAPED)


Part = tuple[str, Chain]
"""The name of what makes spikes, and what is made of them."""


def _parts(graph: Graph, term: str) -> list[Part]:
    """The spikes that a part of a current is made of, each once, with the layer of each.

    Raises:
        NotOne: if it is no sum of layers of spikes.
    """
    if not of_spikes(graph, term):
        raise NotOne
    alike: dict[tuple[str, Wiring], Chain] = {}
    for source, chain in _walked(graph, term, None):
        if chain is None:
            shape = graph[source].type.shape
            chain = Chain(each_channel(shape, torch.ones(shape[0])))
        affine = chain.affine
        if (other := alike.get((source, affine.wiring))) is not None:
            weight = other.affine.weight + affine.weight
            affine = Affine(affine.wiring, weight, _total(other.affine.bias, affine.bias))
        alike[source, affine.wiring] = replace(chain, affine=affine)
    return [(source, chain) for (source, _), chain in alike.items()]


def of_spikes(graph: Graph, name: str) -> bool:
    """Whether all that is between a value and whatever it is made of is affine, and that spikes."""
    node = graph[name]
    if node.type.kind is Kind.SPIKE:
        return True
    return _passes(node) and all(of_spikes(graph, source) for source in node.inputs)


def _walked(
    graph: Graph, name: str, behind: Chain | None, alone: bool | None = None
) -> Iterator[tuple[str, Chain | None]]:
    """The spikes in front of a chain, with all that is between.

    Args:
        graph: that they are of.
        name: of the node that the chain takes.
        behind: the chain; None for none.
        alone: whether nothing else takes what is behind the node; None where nothing is behind.
    """
    node = graph[name]
    if node.type.kind is Kind.SPIKE:
        yield name, behind
        return
    if alone is None:
        alone = True
    else:
        alone = alone and len(graph.consumers(name)) == 1
        if not (alone or (OPS[node.op].role != "synapse" and _only_drives(graph, name))):
            raise NotOne(f"what {name!r} makes is used elsewhere too")
    if node.op == "add":
        yield from _walked(graph, node.inputs[0], behind, alone)
        yield from _walked(graph, node.inputs[1], _unbiased(behind), alone)
        return
    if node.op == "concat":
        for place, (part, sliced) in enumerate(_sliced(graph, node, behind)):
            yield from _walked(graph, part, _unbiased(sliced) if place else sliced, alone)
        return
    source = graph[node.inputs[0]]
    if node.op in RESHAPED:
        chain = _reshaped(behind, node, source.type.shape)
    else:
        chain = _joined(_chain_of(graph, node), behind, name)
    yield from _walked(graph, source.name, chain, alone)


def _chain_of(graph: Graph, node: Node) -> Chain:
    """One layer as a chain."""
    op, source = OPS[node.op], graph[node.inputs[0]].type
    if op.role == "synapse":
        wires = wiring_of(graph, node)
        bias = node.tensors["bias"].double() if "bias" in node.tensors else None
        weight = synapse_of(node).canonical(node.attrs, node.tensors["weight"].double(), wires)
        layers = () if node.op == "one_to_one" else (node.name,)
        return Chain(Affine(wires, weight, bias), layers, int(fan_out(wires).sum()))
    affine = op.affine(node, source) if op.affine is not None else None
    if affine is None:
        raise NotOne(
            f"the averages of {node.name!r} leave out the zeros around an image: let it count them "
            f"(count_include_pad=True) or not pad"
        )
    pools = not all(map(_is_point, (affine.wiring.rows, affine.wiring.cols)))
    return Chain(affine, (), int(fan_out(affine.wiring).sum()) if pools else 0)


def _total(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two biases, of which there may be none."""
    return one if other is None else other if one is None else one + other


def _unbiased(chain: Chain | None) -> Chain | None:
    return chain and replace(chain, affine=replace(chain.affine, bias=None))


def _reshaped(behind: Chain | None, node: Node, before: tuple[int, ...]) -> Chain | None:
    """A chain that takes a shape, as one that takes the same numbers in the shape before.

    Raises:
        NotOne: if it does not take them all alike.
    """
    if shape3(before) == shape3(node.type.shape):
        return behind
    if behind is None or not behind.affine.wiring.full:
        raise NotOne(
            f"{node.name!r} gives values another shape, which a chip gives to spikes alone: put it "
            f"right behind a neuron, around the whole current of one, or in front of a linear layer"
        )
    wires = dense(behind.affine.wiring.channels_out, before)
    weight = behind.affine.weight.reshape(wires.weight_shape)
    return replace(behind, affine=replace(behind.affine, wiring=wires, weight=weight))


def _sliced(graph: Graph, node: Node, behind: Chain | None) -> Iterator[tuple[str, Chain]]:
    """A chain that takes channels side by side, for each part of these its own.

    Raises:
        NotOne: if it does not take them all alike.
    """
    if behind is None or behind.affine.wiring.groups > 1:
        raise NotOne(
            f"{node.name!r} puts currents side by side: let each part drive neurons of its own, "
            f"and put their spikes side by side"
        )
    start = 0
    for name in node.inputs:
        stop = start + graph[name].type.shape[0]
        wiring = replace(behind.affine.wiring, channels_in=stop - start)
        part = replace(behind.affine, wiring=wiring, weight=behind.affine.weight[:, start:stop])
        yield name, replace(behind, affine=part)
        start = stop


def _joined(front: Chain, behind: Chain | None, name: str) -> Chain:
    """Two chains behind each other as one.

    Raises:
        NotOne: if they are none.
    """
    if behind is None:
        return front
    first, second = front.affine, behind.affine
    one, two = first.wiring, second.wiring
    rows, cols = _axis(one.rows, two.rows, name), _axis(one.cols, two.cols, name)
    groups = gcd(one.groups, two.groups)
    wiring = Wiring(rows, cols, one.channels_in, two.channels_out, groups)
    layers, synapses = (*behind.layers, *front.layers), behind.synapses + front.synapses
    if len(layers) > 1 and (found := int(fan_out(wiring).sum())) > synapses:
        names = " and ".join(repr(layer) for layer in reversed(layers))
        raise NotOne(
            f"{names}, layers in a row without a neuron, have {synapses:,} synapses and would as "
            f"one have {found:,}: put a neuron between them, or write the one layer"
        )
    bias = second.bias
    if first.bias is not None and bool(first.bias.any()):
        if any(axis.padding > 0 or axis.spread > 1 for axis in (two.rows, two.cols)):
            raise NotOne(
                f"zeros are padded to what {name!r} makes, and it makes something else of no "
                f"spikes: put normalisation behind the layer that pads, and averages that pad "
                f"behind the neuron"
            )
        sums = second.weight.sum((2, 3)).unflatten(0, (two.groups, -1))
        moved = (sums @ first.bias.view(two.groups, -1, 1)).flatten()
        bias = _total(bias, moved)
    affine = Affine(wiring, _kernel(first, second, wiring), bias)
    return Chain(affine, layers, synapses)


def _is_point(axis: Axis) -> bool:
    """Whether a window has one element, that of the same place."""
    return axis == replace(axis, kernel=1, stride=1, padding=0, spread=1, extra=0)


def _axis(first: Axis, second: Axis, name: str) -> Axis:
    """The windows of a layer over windows of the one in front of it.

    Raises:
        NotOne: if these are no windows over its source.
    """
    if not _is_point(first) and not _is_point(second):
        if (first.spread, first.extra, second.spread, second.extra) != (1, 0, 1, 0):
            raise NotOne(
                "a transposed convolution is one only with factors and normalisation of channels: "
                "put a neuron between it and other layers, and averages behind that"
            )
        beyond = first.size_out * first.stride - first.padding  # where the next window would begin
        if second.padding > 0 and beyond < first.size_in:
            raise NotOne(
                f"zeros are padded to what {name!r} makes, where its own windows would not be "
                f"empty: let the layer behind it not pad"
            )
    pitch, own = _steps(first, second)
    unit = gcd(pitch, own) or 1
    return Axis(
        kernel=(second.kernel - 1) * (pitch // unit) + (first.kernel - 1) * (own // unit) + 1,
        stride=first.stride * second.stride,
        padding=first.padding + first.stride * second.padding,
        dilation=unit,
        size_in=first.size_in,
        spread=first.spread * second.spread,
        extra=first.extra + second.extra,
    )


def _steps(first: Axis, second: Axis) -> tuple[int, int]:
    """From one tap of each of two layers to its next, in elements of the source; 0 for one tap."""
    return (
        second.dilation * first.stride if second.kernel > 1 else 0,
        first.dilation if first.kernel > 1 else 0,
    )


def _kernel(first: Affine, second: Affine, wiring: Wiring) -> Tensor:
    """The weights of two layers behind each other: each of one, spread as the other's taps lie."""
    one, two, groups = first.wiring, second.wiring, wiring.groups
    sides = zip((one.rows, one.cols), (two.rows, two.cols), (wiring.rows, wiring.cols), strict=True)
    steps = [
        [max(step // axis.dilation, 1) for step in _steps(front, back)]
        for front, back, axis in sides
    ]
    pitch, own = zip(*steps, strict=True)
    if two.groups == two.channels_in == two.channels_out:
        fronts = _in_groups(first, groups)
        taps = second.weight.unflatten(0, (groups, -1))
        spread = _spread(fronts, own, taps, pitch, lambda x, tap: x * tap[..., None, None])
    elif one.groups == one.channels_in == one.channels_out:
        taps = first.weight.unflatten(0, (groups, -1)).transpose(1, 2)
        backs = _in_groups(second, groups)
        spread = _spread(backs, pitch, taps, own, lambda x, tap: x * tap[..., None, None])
    else:
        fronts, backs = _in_groups(first, groups), _in_groups(second, groups)
        mixed = partial(torch.einsum, "gomhw,gmi->goihw")
        spread = _spread(backs, pitch, fronts, own, mixed)
    return spread.flatten(0, 1)


def _spread(
    weights: Tensor,
    steps: Sequence[int],
    taps: Tensor,
    between: Sequence[int],
    product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The sum over taps of the product of weights with each, moved as the tap lies.

    Args:
        weights: ``[..., kH, kW]``.
        steps: from one of them to the next.
        taps: ``[..., tH, tW]``.
        between: from one of these to the next.
        product: of the weights with one tap.
    """
    sizes = zip(weights.shape[-2:], steps, taps.shape[-2:], between, strict=True)
    extents = [(k - 1) * step + (t - 1) * gap + 1 for k, step, t, gap in sizes]
    total: Tensor | None = None
    for row, col in product_of(*map(range, taps.shape[-2:])):
        part = product(weights, taps[..., row, col])
        if total is None:
            total = part.new_zeros(*part.shape[:-2], *extents)
        rows, cols = (
            slice(tap * gap, tap * gap + (k - 1) * step + 1, step)
            for tap, gap, k, step in zip((row, col), between, part.shape[-2:], steps, strict=True)
        )
        total[..., rows, cols] += part
    assert total is not None
    return total


def _in_groups(affine: Affine, groups: int) -> Tensor:
    """The weights of a layer by fewer groups of channels, with zeros where it has none."""
    fewer = affine.wiring.groups // groups
    by_group = affine.weight.unflatten(0, (groups, fewer, -1))
    if fewer == 1:
        whole: Tensor = by_group[:, 0]
        return whole
    size, inputs, *kernel = by_group.shape[2:]
    wide = by_group.new_zeros(groups, fewer, size, fewer, inputs, *kernel)
    for place in range(fewer):
        wide[:, place, :, place] = by_group[:, place]
    filled: Tensor = wide.flatten(1, 2).flatten(2, 3)
    return filled


def _add_layers(nodes: dict[str, Node], graph: Graph, term: str, parts: Sequence[Part]) -> str:
    """Put a layer for each part, and their sum, into the nodes; gives the name of the sum.

    Raises:
        NotOne: if there is no such layer for one of them.
    """
    signal = replace(graph[term].type, kind=Kind.VALUE)
    layers = [_layer(chain.affine, graph[source].type, signal) for source, chain in parts]
    own = [chain.layers[:1] or (term,) for _, chain in parts]
    ((whole,),) = set(own) if len(set(own)) == 1 else {(term,)}
    if graph[term].type.kind is Kind.SPIKE:
        whole = unique_name(f"{term}.current", nodes)
    total, counted = "", set[str]()
    for place, ((source, chain), layer, (name,)) in enumerate(zip(parts, layers, own, strict=True)):
        if len(parts) == 1:
            name = whole
        elif own.count((name,)) > 1 or name == whole:
            name = unique_name(f"{name}.{place}", nodes)
        written = _operations(graph, set(chain.layers) - counted)
        counted.update(chain.layers)
        attrs = {**layer.attrs, "written": written}
        nodes[name] = replace(layer, name=name, inputs=(source,), attrs=attrs)
        if total:
            last = place == len(parts) - 1
            added = whole if last else unique_name(f"{whole}.sum", nodes)
            nodes[added] = Node(added, "add", (total, name), signal)
            name = added
        total = name
    return total


def _operations(graph: Graph, layers: Iterable[str]) -> int:
    """Dense multiply-accumulates of one step of some layers."""
    return sum(int(fan_out(wiring_of(graph, graph[name])).sum()) for name in layers)


def _layer(affine: Affine, source: Signal, made: Signal) -> Node:
    """The layer that makes values of a type of a source as some weights do.

    Raises:
        NotOne: if there is none.
    """
    for op in OPS.values():
        if op.synapse is None:
            continue
        content = op.synapse.layer(affine.wiring, affine.weight, source)
        if content is None:
            continue
        attrs, weight = content
        tensors = {"weight": weight.float().contiguous()}
        if affine.bias is not None:
            tensors["bias"] = affine.bias.float()
        try:
            if op.infer(attrs, tensors, (source,)) == made:
                return Node("", op.name, (), made, attrs, tensors)
        except ValueError:
            continue
    raise NotOne
