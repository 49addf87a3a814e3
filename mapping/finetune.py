"""Training through the chip's integers.

A prepared model runs its spiking layers exactly as the chip would: batch norm folded with its
running statistics, weights and biases rounded by the function that mapping uses, with scales that
are chosen once and then frozen, neurons in whole numbers. Gradients pass straight through
rounding (what is clipped gets none) and through the neurons' arctan surrogate. Weights stay
floats under their old names, so that what comes out is a plain checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from has8 import given
from has8.blocks import OverTime, SpikingLayer
from has8.errors import BadInput, CheckpointError
from has8.iir import SharedIIR
from has8.models.hnn import HNN, SpikingLayers
from mapping.chip.grid import default_bits
from mapping.graph.ir import Graph, Node
from mapping.graph.ops import wiring_of
from mapping.integers.methods import Method
from mapping.integers.quantize import Rounded
from mapping.integers.rounding import Scales
from mapping.partition.rules import synapses_of
from mapping.partition.segments import Partition
from mapping.pipeline import choose_scales, lower
from mapping.quantized import Before, QuantizedFilters, QuantizedLayer, Rule
from mapping.targets.schema import Target, load_target

PROVENANCE = "quantization"
"""Under which a checkpoint's provenance holds a :class:`Quantization`."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """What a model was fine-tuned for.

    Args:
        target: the chip's name.
        weight_bits: bits of a weight.
        method: by which the scales were chosen, "round" or "search".
        per_channel: whether channels could get thresholds of their own.
        scales: of each population on the chip, by name.
    """

    target: str
    weight_bits: int
    method: Method
    per_channel: bool
    scales: Scales

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint's provenance."""
        plain: dict[str, Any] = msgspec.to_builtins(asdict(self))
        return plain


def quantization_of(provenance: Mapping[str, Any]) -> Quantization | None:
    """What a checkpoint says that its model was fine-tuned for; None if it was not.

    Raises:
        CheckpointError: if it cannot be understood.
    """
    if PROVENANCE not in provenance:
        return None
    try:
        return msgspec.convert(provenance[PROVENANCE], Quantization)
    except msgspec.ValidationError as error:
        raise CheckpointError(
            f"the checkpoint says that it is fine-tuned, but not for what ({error}): write it anew"
        ) from error


def prepare(
    model: nn.Module,
    target: str | Path | Target = "loihi",
    *,
    calibration: Tensor,
    weight_bits: int | None = None,
    scales: Method = "search",
    per_channel: bool = False,
) -> Quantization:
    """Make a trained model run as the target would, in place, so that training tunes it for that.

    Everything that the target can run goes to it. The encoders' ranges are frozen. Train the
    model with :func:`has8.fit` and map it with :func:`mapping.map_model`, with the result's
    ``weight_bits`` and ``scales``: the chip's spikes are those that training saw.

    Args:
        model: trained, of :class:`has8.blocks.SpikingLayer` where it is to go to the chip.
        target: a bundled target's name, the path of a YAML file, or a target.
        calibration: images ``float32[N, C, H, W]``, a few hundred, on which scales are chosen.
        weight_bits: bits of a weight; None as for :func:`mapping.map_model`.
        scales: how scales are chosen, "round" or "search".
        per_channel: whether a search may give channels different thresholds.

    Returns:
        What the model is now tuned for; kept in the checkpoint's provenance.

    Raises:
        TraceError: if the model cannot be turned into a graph.
        UnknownName, TargetError: if the target cannot be read.
        BadInput: if an option is out of range, a layer for the chip is no spiking layer of has8,
            or nothing goes to the chip.
    """
    chip = target if isinstance(target, Target) else load_target(target)
    weight_bits = default_bits(chip.registers) if weight_bits is None else weight_bits
    given.instance(model, nn.Module, "a model")
    calibration = given.images(calibration, what="calibration images")
    graph, partition = lower(model, chip, calibration=calibration)
    layers = _layers(model, graph, partition)
    _check_called(model, layers, calibration[:1])
    chosen = choose_scales(graph, partition, chip, calibration, weight_bits, scales, per_channel)
    scales_of = {name: item.scale for name, item in chosen.items() if isinstance(item, Rounded)}
    for path, layer in layers.items():
        wires = tuple(wiring_of(graph, node) for node in layer.synapses)
        scale = scales_of[layer.neuron.name]
        rule = Rule(layer.synapses, wires, layer.neuron, scale, chip.registers, weight_bits)
        module = model.get_submodule(path)
        before = model.get_submodule(layer.before)
        if isinstance(module, SharedIIR) and isinstance(before, OverTime):
            _put(model, layer.before, Before(before))
            _put(model, path, QuantizedFilters(module, before[-1], rule))
        elif isinstance(module, SpikingLayer):
            _put(model, path, QuantizedLayer(module, rule))
    if isinstance(model, HNN) and not model.passes:
        model.artificial.requires_grad_(False)
    return Quantization(chip.name, weight_bits, scales, per_channel, scales_of)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Set a module within a model."""
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


@dataclass(frozen=True, slots=True)
class _Layer:
    """What computes a population, to be replaced.

    Args:
        neuron: the population's node.
        synapses: that drive it, that of the layer first.
        before: the path of the module that has the weights; empty where it is the layer itself.
    """

    neuron: Node
    synapses: tuple[Node, ...]
    before: str = ""


def _layers(model: nn.Module, graph: Graph, partition: Partition) -> dict[str, _Layer]:
    """The modules behind the chip's populations, by path, where there are weights to round.

    Raises:
        BadInput: if there is none, or a population is anything else.
    """
    layers = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in (n for part in partition.on_chip for n in part.nodes if graph[n].op == "neuron"):
        path, _, last = name.rpartition(".")
        module, parent = modules.get(name), modules.get(path)
        synapses = tuple(node for node in synapses_of(graph, name) if isinstance(node, Node))
        before = _in_front(modules, name, [node.name for node in synapses])
        if not synapses and any(isinstance(m, SpikingLayer | SharedIIR) for m in (module, parent)):
            continue  # the host computes its currents, or it is a bias: nothing of it is rounded
        if isinstance(module, nn.MaxPool2d):
            continue  # the largest of spikes, exactly
        if before:
            layers[name] = _Layer(graph[name], synapses, before)
        elif (
            type(parent) is SpikingLayer
            and last == "neuron"
            and [node.name for node in synapses] == [f"{path}.synapses.0"]
            and isinstance(parent.norm, nn.BatchNorm2d | None)
        ):
            layers[path] = _Layer(graph[name], synapses)
        else:
            raise _unfit(name)
    if not layers:
        raise BadInput("nothing of this model goes to the chip, so there is nothing to fine-tune")
    return layers


def _in_front(modules: Mapping[str, nn.Module], name: str, synapses: Sequence[str]) -> str:
    """Where the weights are of a neuron with shared filters; empty if it is anything else."""
    path, _, number = name.rpartition(".")
    if not isinstance(modules.get(name), SharedIIR) or type(modules.get(path)) is not SpikingLayers:
        return ""
    before = f"{path}.{int(number) - 1}"
    layers = modules.get(before)
    if type(layers) is not OverTime:
        return ""
    weights = f"{before}.{len(layers) - 1}"
    known = [weights], [weights, f"{name}.bias.synapse"]
    return before if list(synapses) in known else ""


def _check_called(model: nn.Module, layers: Mapping[str, _Layer], images: Tensor) -> None:
    """Each layer must be called itself, once: not its parts, not by way of several others.

    Raises:
        BadInput: for one that is not.
    """
    calls = dict.fromkeys(layers, 0)

    def count(path: str) -> None:
        calls[path] += 1

    hooks = [
        model.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: count(path))
        for path in layers
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for path, times in calls.items():
        if times != 1:
            raise _unfit(layers[path].neuron.name)


def _unfit(name: str) -> BadInput:
    return BadInput(
        f"layer {name!r} goes to the chip but is neither a plain has8.blocks.SpikingLayer nor one "
        f"of hnn_mlp or hnn_cnn that is called once, so its model is not fine-tuned in place: "
        f"mapping.tune.tune trains any network through the chip's integers, in Python"
    )
