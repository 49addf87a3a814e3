"""Which nodes a chip can take, and why it cannot take the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from mapping.graph.chains import obstacle
from mapping.graph.ir import Graph, Kind, Node, loops_of
from mapping.graph.ops import OPS
from mapping.graph.ops.neuron import constants_of
from mapping.graph.ops.shape import AXES, RESHAPED
from mapping.graph.pooling import OR
from mapping.graph.repeats import repeats
from mapping.targets.schema import Registers

PASSED_ON = ("delay", *RESHAPED)
"""Kinds of nodes through which a synapse on the chip takes spikes."""
HINTS = {
    "subtract": ": reset='zero' maps it so",
    "subtract_at_once": ": reset='zero' maps it so, or train it with reset_delay=True",
}
"""What lets a neuron with a reset that a target lacks go to it."""
POOL_SPIKES = (
    "the largest of several currents, which no chip takes: put the pooling behind the neuron, "
    "where it pools spikes"
)
FOLDED = (
    "it goes into the weights of a layer only where nothing but such layers stands between spikes "
    "and a neuron"
)
FACTORS = (
    "the largest of spikes times factors that are not all above 0: put these behind the pooling"
)
AVERAGES = (
    "averages go into the weights of the layers in front of them and behind them that drive "
    "neurons; not where padding meets elements that they leave out, a transposed convolution is "
    "next to them, or anything else takes them: average over windows that fill the image"
)
LEAST_BITS = 3
"""Of a payload that stands for a value, the sign included."""
SENT = "; with coding='graded' (--coding graded) values of each step cross to the chip, rounded"
HOSTED = "its neuron stays on the host"
CLEARED = (
    "its membrane is read as it was when the spike was decided, and a chip clears it with the "
    "spike: train it with reset_mechanism='subtract', and the last membrane is read from the chip"
)
"""Why a membrane that resets to zero is not read from a chip."""


def synapses_of(graph: Graph, neuron: str) -> list[Node] | str:
    """The convolutions and linear layers whose sum is a neuron's current.

    Returns:
        The synapse nodes, none where a constant or a value of each sample drives it, or a sentence
        that says what stands in the way.
    """
    found: list[Node] = []
    written: list[Node] = []
    pending = [(graph[graph[neuron].inputs[0]], neuron)]
    while pending:
        node, taker = pending.pop()
        if node.op == "add":
            pending.extend((graph[name], node.name) for name in node.inputs)
        elif node.op == "ones":
            pass
        elif repeats(node):
            written.append(node)
        elif OPS[node.op].role != "synapse":
            made = POOL_SPIKES if node.op == "maxpool" else "not from synapses alone"
            made = obstacle(graph, node.name) or made
            return f"its current comes from {node.name!r} ({node.op}), {made}"
        elif graph[node.inputs[0]].type.kind is not Kind.SPIKE:
            taken, reason = graph[node.inputs[0]].type, obstacle(graph, node.name)
            more = f": {reason}" if reason else ""
            return f"{node.name!r} takes {taken}, and a chip takes only spikes{more}"
        else:
            found.append(node)
            for late in delays_of(graph, node):
                if len(graph.consumers(late.name)) != 1:
                    return f"the spikes that {late.name!r} passes on are used elsewhere too"
        users = [user.name for user, _ in graph.consumers(node.name) if user.op != "last_membrane"]
        if len(users) != 1:
            other = next((user for user in users if user != taker), taker)
            return (
                f"the current of {node.name!r} goes to {other!r} too, and on a chip a current is "
                f"one neuron's own"
            )
    return _unwritable(graph[neuron], written) or found[::-1]


def takes_graded(registers: Registers) -> bool:
    """Whether a target takes graded spikes that are worth the name."""
    programs = {"unpack", "pack"} <= set(registers.neurons)
    return programs and registers.message_bits >= LEAST_BITS


def taking_values(graph: Graph, neuron: Node) -> list[Node]:
    """The synapses of a neuron's current that take values which differ from step to step."""
    nodes = [graph[name] for name in current_nodes(graph, neuron.name)]
    synapses = [node for node in nodes if OPS[node.op].role == "synapse"]
    return [node for node in synapses if _varies(graph[node.inputs[0]])]


def _varies(source: Node) -> bool:
    """Whether a node makes values of each step that are not the same in all."""
    values = source.type.kind is Kind.VALUE and source.type.steps is not None
    return values and not repeats(source)


def _unwritable(neuron: Node, written: Sequence[Node]) -> str | None:
    """Why a chip cannot be given the repeated part of a current as biases; None if it can."""
    if not written:
        return None
    if len(written) > 1:
        names = " and ".join(repr(node.name) for node in written)
        return f"its current has several parts that are the same in all steps, {names}"
    if written[0].attrs.get("largest") is None:
        return (
            "its current is the same in all steps, and to write it as biases its range must be "
            "known: pass calibration data"
        )
    if torch.as_tensor(constants_of(neuron)["alpha"]).any():
        return (
            "its current is the same in all steps and lasts for several, and a chip adds what is "
            "written once a sample to the membrane, where it does not last: let spikes drive it "
            "(spikegen.rate), or train it without alpha, as snn.Leaky"
        )
    return None


def written_to(graph: Graph, neuron: str) -> Node | None:
    """The node whose values are a neuron's bias, written once a sample; None where there is none.

    Args:
        graph: any.
        neuron: one that the chip can take.
    """
    pending = [graph[neuron].inputs[0]]
    while pending:
        node = graph[pending.pop()]
        if repeats(node):
            return node
        pending.extend(node.inputs if node.op == "add" else ())
    return None


def delays_of(graph: Graph, synapse: Node) -> list[Node]:
    """The delays and other shapes between a synapse and the spikes that it takes, last one first.

    What takes part of a chip has three axes at most: behind what has more, the host sends spikes.
    """
    found: list[Node] = []
    node = graph[synapse.inputs[0]]
    while node.op in PASSED_ON and node not in found:
        found.append(node)
        node = graph[node.inputs[0]]
    while found and len(graph[found[-1].inputs[0]].type.shape) > AXES:
        found.pop()
    return found


def source_of(graph: Graph, synapse: Node) -> tuple[str, int]:
    """Whose spikes a synapse takes, and how many steps late."""
    late = delays_of(graph, synapse)
    source = late[-1].inputs[0] if late else synapse.inputs[0]
    return source, sum(node.attrs.get("steps", 0) for node in late)


def reject(
    graph: Graph, registers: Registers, hosted: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Every node that computes and that the chip cannot take or is not to, with the reason.

    Encoders, decoders, shapes and the input are the boundary, not candidates, and are left out.

    Args:
        graph: after the passes.
        registers: the target's.
        hosted: neurons that are to stay on the host, with the reason.
    """
    hosted = hosted or {}
    reasons: dict[str, str] = {}
    taken: set[str] = set()
    for node in graph:
        if node.op != "neuron":
            continue
        if reason := rejected_neuron(graph, node, registers):
            reasons[node.name] = reason
        elif biased := lasting_biases(graph, node.name):
            reasons[node.name] = (
                f"its current lasts several steps and has the bias of {biased[0]!r}, which a chip "
                f"adds to the membrane, where it does not last: train it with bias=False"
            )
        elif node.name in hosted:
            reasons[node.name] = hosted[node.name]
        else:
            taken.update(layer_nodes(graph, node.name))
    for name, reason in list(_rejected_loops(graph, reasons)):
        reasons[name] = reason
        taken -= set(layer_nodes(graph, name))
    for node in graph:  # what stands for a bias goes with the layer that has it
        driven = {user.name for user, _ in graph.consumers(node.name)}
        if node.name in taken and _fires_always(graph, node) and not driven & taken:
            reasons[node.name] = HOSTED
            taken -= set(layer_nodes(graph, node.name))
    for node in graph:
        if node.name in taken or node.name in reasons or node.op in ("input", *RESHAPED):
            continue
        if OPS[node.op].role in ("encode", "decode"):
            continue
        if node.type.steps is None and node.op != "last_membrane":
            reasons[node.name] = "works on values without time steps: an ANN layer"
        elif node.op == "fired":
            reasons[node.name] = node.attrs["why"]
        elif reason := _unreadable(node, registers) or OPS[node.op].reason:
            reasons[node.name] = reason
        elif node.op == "maxpool" and graph[node.inputs[0]].type.kind is Kind.VALUE:
            reasons[node.name] = f"it takes {_largest(graph, node)}"
        elif node.op in ("avgpool", "global_avgpool"):
            reasons[node.name] = AVERAGES
        elif node.op == "delay":
            reasons[node.name] = _undelayed(graph, node)
        elif node.op == "add" and _driven(graph, node):
            reasons[node.name] = HOSTED
        elif OPS[node.op].affine is not None:
            reasons[node.name] = FOLDED
        elif OPS[node.op].role == "host":
            of = "spikes" if graph[node.inputs[0]].type.kind is Kind.SPIKE else "currents"
            reasons[node.name] = f"the target has no {node.op} of {of}"
        elif OPS[node.op].role != "synapse" or _driven(graph, node):
            reasons[node.name] = HOSTED
        else:
            reasons[node.name] = _undriven(graph, node)
    return reasons


def _fires_always(graph: Graph, node: Node) -> bool:
    """Whether a node is a neuron that fires in every step, in place of a bias."""
    return node.attrs == OR and graph[node.inputs[0]].op == "ones"


def _driven(graph: Graph, node: Node) -> bool:
    """Whether a node's output, alone or in a sum, is a neuron's current."""
    users = [user for user, _ in graph.consumers(node.name)]
    return any(
        user.op in ("neuron", "iir", "membrane", "last_membrane", "fired")
        or (user.op == "add" and _driven(graph, user))
        for user in users
    )


def _largest(graph: Graph, maximum: Node) -> str:
    """What a maximum is taken of that a chip cannot take it of."""
    source = graph[maximum.inputs[0]]
    factor = (
        source.op in ("scale", "one_to_one") and graph[source.inputs[0]].type.kind is Kind.SPIKE
    )
    return FACTORS if factor else POOL_SPIKES


def _undelayed(graph: Graph, node: Node) -> str:
    """Why what is to come some steps late does so on the host."""
    if node.type.kind is not Kind.SPIKE:
        return "a chip delays only spikes, not values: delay the spikes that they are made of"
    users = [repr(user.name) for user, _ in graph.consumers(node.name)] or ["what reads them"]
    return f"a chip delays spikes on their way to its own neurons, and {users[0]} is on the host"


def _undriven(graph: Graph, node: Node) -> str:
    """Why a layer without a neuron stays on the host."""
    behind = [user for user, _ in graph.consumers(node.name) if OPS[user.op].role == "synapse"]
    if behind:
        reason = obstacle(graph, behind[0].name)
        return f"no neuron takes its current, but {behind[0].name!r}" + (
            f": {reason}" if reason else ""
        )
    return "no neuron takes its current"


def rejected_neuron(graph: Graph, node: Node, registers: Registers) -> str | None:
    """Why a target cannot take a neuron, whatever its synapses' biases; None if it can."""
    attrs, parts = node.attrs, synapses_of(graph, node.name)
    if isinstance(parts, str) and takes_graded(registers) and taking_values(graph, node):
        parts += SENT
    if attrs["model"] not in registers.neurons:
        return f"the target has no {attrs['model']!r} neuron"
    if attrs["model"] != "lif":
        return parts if isinstance(parts, str) else None
    if reason := _lacking_reset(node, registers):
        return reason
    if attrs["refractory"] > registers.refractory_max:
        return "the target's neurons have no refractory steps"
    return parts if isinstance(parts, str) else _too_late(graph, parts, registers)


def _too_late(graph: Graph, synapses: Sequence[Node], registers: Registers) -> str | None:
    """Why a target cannot delay the spikes of a neuron's synapses; None if it can."""
    for synapse in synapses:
        delay = source_of(graph, synapse)[1]
        if delay > registers.delay_max:
            return (
                f"{synapse.name!r} takes spikes {delay} steps late, and the target delays them by "
                f"{registers.delay_max} at most"
            )
    return None


def _lacking_reset(node: Node, registers: Registers) -> str | None:
    """Why a target cannot reset a neuron as it is to be; None if it can."""
    reset = node.attrs["reset"]
    if reset in registers.resets:
        return None
    offered = " or ".join(map(repr, registers.resets))
    return f"the target has no reset by {reset!r}, it has {offered}{HINTS.get(reset, '')}"


def _unreadable(node: Node, registers: Registers) -> str | None:
    """Why the membranes of a node could not even be read once a sample; None if they could."""
    if node.op != "membrane":
        return None
    return CLEARED if cleared(node) else _lacking_reset(node, registers)


def cleared(node: Node) -> bool:
    """Whether a spike clears a neuron's membrane, so that it cannot be read afterwards."""
    return node.attrs["reset"] == "zero" or bool(node.attrs["refractory"])


def lasting_biases(graph: Graph, neuron: str) -> list[str]:
    """The synapses whose bias is part of a current that lasts for more than a step."""
    alpha, parts = constants_of(graph[neuron]).get("alpha", 0), synapses_of(graph, neuron)
    if isinstance(parts, str) or not torch.as_tensor(alpha).any():
        return []
    return [part.name for part in parts if _has_bias(part)]


def _has_bias(synapse: Node) -> bool:
    return "bias" in synapse.tensors and bool(synapse.tensors["bias"].any())


def layer_nodes(graph: Graph, neuron: str) -> list[str]:
    """The nodes that run on a chip with a neuron: what drives it, itself, what reads it."""
    return [
        *current_nodes(graph, neuron),
        neuron,
        *(node.name for node in readers_of(graph, neuron)),
    ]


def layer_with(graph: Graph, name: str) -> str:
    """The neuron of the layer on the chip that a node belongs to."""
    return next(
        node.name for node in graph if node.op == "neuron" and name in layer_nodes(graph, node.name)
    )


def readers_of(graph: Graph, neuron: str) -> list[Node]:
    """The nodes that read a neuron's membranes after the last step."""
    return [node for node in graph if node.op == "last_membrane" and node.inputs[1] == neuron]


def current_nodes(graph: Graph, neuron: str) -> list[str]:
    """Synapse and addition nodes between a neuron and the spikes that drive it."""
    names: list[str] = []
    pending = [graph[neuron].inputs[0]]
    while pending:
        name = pending.pop()
        if repeats(graph[name]):
            continue
        names.append(name)
        if graph[name].op == "add":
            pending.extend(graph[name].inputs)
        elif OPS[graph[name].op].role == "synapse":
            names += [late.name for late in delays_of(graph, graph[name])]
    return names


def _rejected_loops(graph: Graph, rejected: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The neurons of loops over steps that cannot be on a chip as a whole, with the reason."""
    for part in loops_of(graph.nodes):
        neurons = [node.name for node in part if node.op == "neuron"]
        if len(part) == 1:
            continue
        taken = {n for name in neurons if name not in rejected for n in current_nodes(graph, name)}
        taken.update(neurons)
        odd = [node.name for node in part if node.name not in taken or node.name in rejected]
        if odd:
            reason = f"it is in a loop with {odd[0]!r}, which stays on the host"
        elif _too_quick(graph, neurons):
            reason = (
                "it is in a loop with fewer steps of delay than connections, each of which takes "
                "a step on a chip: feed spikes back through fewer layers, or later"
            )
        else:
            continue
        yield from ((name, reason) for name in neurons if name not in rejected)


def _too_quick(graph: Graph, neurons: Sequence[str]) -> bool:
    """Whether a loop of neurons has fewer steps of delay than connections."""
    late = dict.fromkeys(neurons, 0)
    for _ in range(len(neurons) + 1):
        moved = False
        for name in neurons:
            for synapse in synapses_of(graph, name):
                assert isinstance(synapse, Node)
                source, delay = source_of(graph, synapse)
                if source in late and late[source] + 1 - delay > late[name]:
                    late[name], moved = late[source] + 1 - delay, True
        if not moved:
            return False
    return True
