"""Training through the chip's integers.

A prepared model runs its spiking layers exactly as the chip would: batch norm folded with its
running statistics, weights and biases rounded by the function that mapping uses, with scales that
are chosen once and then frozen, neurons in whole numbers. Gradients pass straight through
rounding (what is clipped gets none) and through the neurons' arctan surrogate. Weights stay
floats under their old names, so that what comes out is a plain checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from has8 import given
from has8.blocks import SpikingLayer
from has8.encoders import Decoder
from has8.errors import BadInput, CheckpointError
from has8.kernels import storage
from mapping.chip.grid import default_bits
from mapping.chip.wiring import Wiring
from mapping.graph.ir import Graph, Node
from mapping.graph.ops import wiring_of
from mapping.graph.ops.neuron import lower as lower_neuron
from mapping.graph.passes import folded
from mapping.integers.methods import Method
from mapping.integers.neurons import ChipNeurons
from mapping.integers.quantize import Rounded
from mapping.integers.rounding import Scale, Scales, float_layer, to_integers
from mapping.integers.sums import weighted_sums
from mapping.partition.rules import synapses_of
from mapping.partition.segments import Partition
from mapping.pipeline import choose_scales, lower
from mapping.targets.schema import Registers, Target, load_target

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
    layers = _spiking_layers(model, graph, partition)
    _check_called(model, layers, calibration[:1])
    chosen = choose_scales(graph, partition, chip, calibration, weight_bits, scales, per_channel)
    scales_of = {name: item.scale for name, item in chosen.items() if isinstance(item, Rounded)}
    for path, layer in layers.items():
        name = f"{path}.neuron"
        synapse = graph[f"{path}.synapses.0"]
        wires = wiring_of(graph, synapse)
        rule = _Rule(synapse, wires, graph[name], scales_of[name], chip.registers, weight_bits)
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, QuantizedLayer(layer, rule))
    return Quantization(chip.name, weight_bits, scales, per_channel, scales_of)


def _spiking_layers(
    model: nn.Module, graph: Graph, partition: Partition
) -> dict[str, SpikingLayer]:
    """The modules behind the chip's populations, by path.

    Raises:
        BadInput: if there is none, or a population is anything else.
    """
    layers = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in (n for part in partition.on_chip for n in part.nodes if graph[n].op == "neuron"):
        path, _, last = name.rpartition(".")
        layer = modules.get(path)
        synapses = [node.name for node in synapses_of(graph, name) if isinstance(node, Node)]
        if not synapses and isinstance(layer, SpikingLayer):
            continue  # its currents are computed on the host and written: nothing of it is rounded
        if not (
            type(layer) is SpikingLayer
            and last == "neuron"
            and synapses == [f"{path}.synapses.0"]
            and isinstance(layer.norm, nn.BatchNorm2d | None)
        ):
            raise _unfit(name)
        layers[path] = layer
    if not layers:
        raise BadInput("nothing of this model goes to the chip, so there is nothing to fine-tune")
    return layers


def _check_called(model: nn.Module, layers: Mapping[str, SpikingLayer], images: Tensor) -> None:
    """Each layer must be called itself, once: not its parts, not by way of several others.

    Raises:
        BadInput: for one that is not.
    """
    calls = dict.fromkeys(layers, 0)

    def count(path: str) -> None:
        calls[path] += 1

    hooks = [
        layer.register_forward_pre_hook(lambda *_, path=path: count(path))
        for path, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    for path, times in calls.items():
        if times != 1:
            raise _unfit(f"{path}.neuron")


def _unfit(name: str) -> BadInput:
    return BadInput(
        f"layer {name!r} goes to the chip but is no plain has8.blocks.SpikingLayer that is called "
        f"once, so its model is not fine-tuned in place: mapping.tune.tune trains any network "
        f"through the chip's integers, in Python"
    )


@dataclass(frozen=True, slots=True)
class _Rule:
    """How one layer is rounded.

    Args:
        synapse: its node of weights; the tensors are not used.
        wires: who reaches whom through it.
        neuron: the node that it drives.
        scale: how its floats become integers.
        registers: the target's.
        bits: bits of a weight.
    """

    synapse: Node
    wires: Wiring
    neuron: Node
    scale: Scale
    registers: Registers
    bits: int

    def __deepcopy__(self, memo: object) -> _Rule:
        """Frozen, so that copies of a model can share it."""
        return self


class QuantizedLayer(SpikingLayer):
    """A spiking layer that computes what the chip would; it shares the modules of another.

    Args:
        layer: whose synapses, batch norm and neuron it takes over.
        rule: how its floats become integers.
    """

    def __init__(self, layer: SpikingLayer, rule: _Rule) -> None:
        nn.Module.__init__(self)
        self.synapses, self.neuron = layer.synapses, layer.neuron
        self._rule = rule

    def forward(self, x: Tensor, decode: Decoder | None = None) -> Tensor:
        """``[T, B, ...]`` of 0 and 1 to spikes; decoded, to values."""
        narrow = storage.narrow_type(x)
        with torch.autocast(x.device.type, enabled=False):  # sums need all their bits
            spikes = self._spikes(x, narrow)
        return spikes if decode is None else decode(spikes)

    def _spikes(self, x: Tensor, narrow: torch.dtype) -> Tensor:
        rule = self._rule
        attrs, _ = lower_neuron(self.neuron)
        floats = float_layer([self._folded()], [rule.wires], replace(rule.neuron, attrs=attrs))
        integers = to_integers(floats, rule.scale, rule.registers, rule.bits)
        neurons = ChipNeurons.of(floats, rule.registers, x.device)
        (weight,) = neurons.weights(integers)
        x, layer = x.flatten(0, 1).to(neurons.dtype), self.synapses[0]
        if narrow == torch.bfloat16:
            drive: Tensor = _NarrowGradient.apply(x, weight, layer, rule.wires)
        else:
            drive = _sums(layer, rule.wires, x, weight)
        alpha = self.neuron.alpha * attrs["threshold"]
        drive = drive.reshape(-1, *rule.neuron.type.shape)
        spikes = neurons(drive, rule.neuron.type.steps or 1, integers, alpha)
        return spikes.to(storage.real(narrow))

    def _folded(self) -> Node:
        """The synapse with today's weights, and batch norm's running statistics in them."""
        layer, norm, rule = self.synapses[0], self.norm, self._rule
        node = replace(rule.synapse, tensors=_tensors(layer, "weight", "bias"))
        if norm is None:
            return node
        names = ("running_mean", "running_var", "weight", "bias")
        attrs = {"eps": norm.eps}
        batchnorm = Node("norm", "batchnorm", (), rule.synapse.type, attrs, _tensors(norm, *names))
        return replace(node, tensors=folded(node, batchnorm))


def _tensors(module: nn.Module, *names: str) -> dict[str, Tensor]:
    """The named parameters and buffers that a module has, as float32."""
    found = {name: getattr(module, name) for name in names}
    return {name: tensor.float() for name, tensor in found.items() if tensor is not None}


def _sums(layer: nn.Module, wires: Wiring, x: Tensor, weight: Tensor) -> Tensor:
    """What a layer makes of spikes with these weights and no bias."""
    with torch.backends.nnpack.flags(enabled=False):
        if isinstance(layer, nn.Conv2d):  # the layer knows a faster way for few pixels
            swapped = {"weight": weight}
            if layer.bias is not None:
                swapped["bias"] = weight.new_zeros(len(weight))
            sums: Tensor = functional_call(layer, swapped, (x,))
        else:
            sums = weighted_sums(wires, x, weight)
    # cuDNN may take Winograd's algorithm, which multiplies by fractions
    return sums + (sums.round() - sums).detach() if sums.is_cuda else sums


class _NarrowGradient(torch.autograd.Function):
    """:func:`_sums`, exact forwards; backwards in bfloat16, which holds spikes and weights too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: nn.Module, wires: Wiring) -> Tensor:
        ctx.save_for_backward(x.bfloat16(), weight.bfloat16())
        ctx.layer, ctx.wires, ctx.dtype = layer, wires, weight.dtype
        return _sums(layer, wires, x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = (tensor.requires_grad_() for tensor in ctx.saved_tensors)
        with torch.enable_grad():
            sums = _sums(ctx.layer, ctx.wires, x, weight)
        grad_x, grad_weight = torch.autograd.grad(sums, (x, weight), grads[0].bfloat16())
        return grad_x.to(ctx.dtype), grad_weight.to(ctx.dtype), None, None
