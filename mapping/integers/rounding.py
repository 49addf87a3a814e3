"""From floats to legal integers: a small frozen value says how, rounding is a pure function of it.

Everything here works on torch tensors in float64, so that training can pass gradients through the
very rounding that mapping does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from has8.errors import BadInput
from mapping.chip.arithmetic import Ints, largest_drive, largest_state
from mapping.chip.grid import weight_grid
from mapping.chip.wiring import Wiring
from mapping.graph.ir import Graph, Node
from mapping.graph.ops import synapse_of, wiring_of
from mapping.graph.ops.neuron import constants_of
from mapping.graph.ops.op import scaled_outputs
from mapping.partition.rules import current_nodes, source_of, synapses_of, written_to
from mapping.targets.schema import Registers, Reset

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scale:
    """How one population's floats become integers.

    Args:
        thresholds: the mantissa of each channel's threshold, at least 1.
        exponents: of the weights of each synapse.
        sign_modes: of each synapse, "mixed", "excitatory" or "inhibitory".
    """

    thresholds: tuple[int, ...]
    exponents: tuple[int, ...]
    sign_modes: tuple[str, ...]


Scales = Mapping[str, Scale]
"""By the population's name."""


@dataclass(frozen=True, slots=True)
class FloatLayer:
    """A population in thresholds: gain applied, divided by each channel's largest threshold.

    Constants of its neurons are one value or several, which broadcast over its shape.

    Args:
        synapses: the nodes that it comes from.
        wirings: who reaches whom through each of them.
        weights: weights of each synapse, ``float64[C_out, C_in / groups, kH, kW]``.
        bias: the sum of their biases, ``float64[C]``.
        alpha: what is left of the current after a step.
        beta: what is left of the membrane after a step.
        threshold: of each neuron, in the largest of its channel.
        written: the largest magnitude of a bias that the host writes for each sample; None where
            it writes none.
        reset: what the membrane does after a spike; see :class:`mapping.chip.neurons.Lif`.
        refractory: steps after a spike that add nothing to the membrane.
        steps: steps of a sample.
        payloads: the largest magnitude that a spike of each synapse carries; none where all are 1.
    """

    synapses: tuple[Node, ...]
    wirings: tuple[Wiring, ...]
    weights: tuple[Tensor, ...]
    bias: Tensor
    alpha: Floats
    beta: Floats
    reset: Reset
    refractory: int
    steps: int
    threshold: Floats = field(default_factory=lambda: np.ones(()))
    written: float | None = None
    payloads: tuple[int, ...] = ()

    def worst_current(self, weights: Sequence[Floats]) -> float:
        """The largest sum of such magnitudes of weights times payloads into one neuron."""
        sums = (largest_drive(w) * self.payload(place) for place, w in enumerate(weights))
        return float(np.max(sum(sums)))

    def payload(self, place: int) -> int:
        """The largest magnitude that a spike of the synapse in this place carries."""
        return self.payloads[place] if self.payloads else 1

    def current_reach(self, registers: Registers) -> float:
        """How many times what arrives in one step the chip's current can come to in a sample."""
        kept = float(np.max(kept_of_current(self.alpha, registers)))
        return sum(kept**step for step in range(self.steps))


def decay_for(kept: Floats | float, offset: int, registers: Registers) -> Ints:
    """The decay registers that leave ``kept`` after a step, as nearly as there are any.

    Args:
        kept: in [0, 1].
        offset: what the target adds to the register.
        registers: the target's.
    """
    full = 1 << registers.decay_bits
    nearest = np.rint((1 - np.asarray(kept, np.float64)) * full).astype(np.int64) - offset
    return np.asarray(nearest.clip(0, full - 1))


def kept_of_current(alpha: Floats | float, registers: Registers) -> Floats:
    """What the target leaves of a current that is to keep ``alpha`` in a step."""
    offset = registers.current_decay_offset
    return np.asarray(
        1 - (decay_for(alpha, offset, registers) + offset) / (1 << registers.decay_bits)
    )


def kept_of_membrane(beta: Floats | float, registers: Registers) -> Floats:
    """What the target leaves of a membrane that is to keep ``beta`` in a step."""
    offset = registers.membrane_decay_offset
    return np.asarray(
        1 - (decay_for(beta, offset, registers) + offset) / (1 << registers.decay_bits)
    )


def layer_of(graph: Graph, neuron: str) -> FloatLayer:
    """The float layer that ends in a neuron that the chip can take."""
    synapses = synapses_of(graph, neuron)
    assert not isinstance(synapses, str), synapses
    wirings = [wiring_of(graph, node) for node in synapses]
    ones = sum(graph[name].op == "ones" for name in current_nodes(graph, neuron))
    source = written_to(graph, neuron)
    largest = None if source is None else source.attrs["largest"]
    layer = float_layer(synapses, wirings, graph[neuron], ones, largest)
    sources = (graph[source_of(graph, node)[0]] for node in synapses)
    payloads = tuple(source.type.payload.largest for source in sources)
    return replace(layer, payloads=payloads) if max(payloads, default=1) > 1 else layer


def float_layer(
    synapses: Sequence[Node],
    wirings: Sequence[Wiring],
    neuron: Node,
    constant: float = 0,
    largest: float | None = None,
) -> FloatLayer:
    """The synapses and the neuron that they drive; gradients pass to the nodes' tensors.

    Args:
        synapses: whose sum is the neuron's current.
        wirings: who reaches whom through each of them.
        neuron: the node that they drive.
        constant: what arrives besides, in every step.
        largest: the largest magnitude of what arrives besides, the same in every step of a sample;
            None where nothing does.
    """
    shape, given = neuron.type.shape, constants_of(neuron)
    each, factor = excitability(neuron)
    of_channel = factor.view(-1, *(1,) * (len(shape) - 1))
    relative = torch.where(each == of_channel, 1.0, of_channel / each)
    weights = tuple(
        scaled_outputs(
            {},
            synapse_of(node).canonical(node.attrs, node.tensors["weight"].double(), wires),
            factor.to(node.tensors["weight"].device),
        )
        for node, wires in zip(synapses, wirings, strict=True)
    )
    bias = (weights[0] if weights else factor).new_zeros(len(factor)) + constant * factor
    for node in synapses:
        if "bias" in node.tensors:
            bias = bias + node.tensors["bias"].double() * factor.to(bias.device)
    assert neuron.type.steps is not None
    return FloatLayer(
        tuple(synapses),
        tuple(wirings),
        weights,
        bias,
        _over(given["alpha"], shape),
        _over(given["beta"], shape),
        given["reset"],
        given["refractory"],
        neuron.type.steps,
        _over(relative, shape),
        None if largest is None else largest * float(factor.max()),
    )


def excitability(neuron: Node) -> tuple[Tensor, Tensor]:
    """How many thresholds a current of 1 is.

    Returns:
        Of each neuron, ``float64[*shape]``; and of each channel, ``[C]``: its neurons share their
        weights, and the least excitable of them sets their unit.
    """
    shape, given = neuron.type.shape, constants_of(neuron)
    gain, threshold = (
        torch.as_tensor(given[name], dtype=torch.float64).cpu() for name in ("gain", "threshold")
    )
    each = torch.broadcast_to(gain / threshold, shape)
    return each, each.reshape(shape[0], -1).amin(1)


def written(
    neuron: Node,
    thresholds: Tensor,
    bias: Tensor,
    bias_exp: int,
    registers: Registers,
    current: Tensor,
) -> tuple[Tensor, int]:
    """The mantissas of biases that hold a current which is the same in every step of a sample.

    Args:
        neuron: the node that it drives.
        thresholds: the mantissa of each channel's largest threshold, ``float64[C]``.
        bias: mantissas that the neurons have in every sample, which broadcast over them.
        bias_exp: exponent of them all.
        registers: the target's.
        current: in the neuron's floats, ``[..., *shape]``; gradients pass to it.

    Returns:
        Whole numbers in float64, ``bias`` included, and how many are clipped to the register.
    """
    factor = excitability(neuron)[1].to(current.device)
    unit = factor * thresholds * 2.0 ** (registers.threshold_shift - bias_exp)
    scaled = current.double() * unit.view(-1, *(1,) * (len(neuron.type.shape) - 1))
    wanted = _rounded(scaled) + bias
    held = wanted.clamp(registers.bias_min, registers.bias_max)
    return held, int((held != wanted).sum())


def _over(values: Any, shape: tuple[int, ...]) -> Floats:
    """One value, one for each channel or one for each neuron of a shape, whichever is enough."""
    each = np.broadcast_to(torch.as_tensor(values, dtype=torch.float64).cpu().numpy(), shape)
    if (each == each.flat[0]).all():
        return np.array(each.flat[0])
    channels = each.reshape(shape[0], -1)[:, :1].reshape(-1, *(1,) * (len(shape) - 1))
    return np.array(channels if (each == channels).all() else each)


@dataclass(frozen=True, slots=True)
class Integers:
    """A population's integers, as whole numbers in float64.

    Args:
        scale: how they were rounded.
        weights: mantissas of each synapse, on the target's grid.
        bias: mantissas, ``[C]``.
        bias_exp: their common exponent.
        clipped: weights that are further off than rounding explains, and biases out of range.
        worst: the largest possible |current|, in units of the register, before weights had to
            shrink lest it wrap around.
    """

    scale: Scale
    weights: tuple[Tensor, ...]
    bias: Tensor
    bias_exp: int
    clipped: int
    worst: int


class _Round(torch.autograd.Function):
    """Rounding to whole numbers, halves to even, that passes gradients straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def _rounded(x: Tensor) -> Tensor:
    whole: Tensor = _Round.apply(x)
    return whole


def to_integers(layer: FloatLayer, scale: Scale, registers: Registers, bits: int) -> Integers:
    """Round a layer to integers that are legal on the target whatever the scale.

    Weights go to the nearest point of the grid, and those beyond its ends to the ends. The weights
    of a channel whose current could still wrap around all shrink, towards zero. Gradients pass
    straight through rounding; what is clipped gets none.

    Args:
        layer: in thresholds.
        scale: one threshold for each channel of the layer, the rest for each synapse.
        registers: the target's.
        bits: width of the grid's weights.
    """
    return to_integers_at(layer, [scale], registers, bits)[0]


def to_integers_at(
    layer: FloatLayer, scales: Sequence[Scale], registers: Registers, bits: int
) -> list[Integers]:
    """The same at each of some scales, all at once: as many times the weights in memory."""
    thresholds = layer.bias.new_tensor([scale.thresholds for scale in scales])
    unit = thresholds * 2.0 ** (registers.threshold_shift - registers.synapse_shift)
    clipped = torch.zeros(len(scales), dtype=torch.int64, device=unit.device)
    reach = layer.current_reach(registers)
    worst, weights, steps = torch.zeros_like(thresholds), [], []
    for place, weight in enumerate(layer.weights):
        size = unit.new_tensor([2.0 ** scale.exponents[place] for scale in scales])[:, None]
        grids = [weight_grid(registers, bits, scale.sign_modes[place]) for scale in scales]
        low, high, step = (_each(x, weight) for x in unit.new_tensor(grids).unbind(1))
        scaled = weight * _each(unit / size, weight) / step
        mantissa = _rounded(scaled.clamp(low / step, high / step)) * step
        clipped += ((scaled * step - mantissa).detach().abs() > step / 2).flatten(1).sum(1)
        drive = largest_drive(mantissa.detach().flatten(0, 1)).view_as(worst)
        worst += drive * size * reach * layer.payload(place)
        weights.append(mantissa)
        steps.append(step)
    limit = largest_state(registers.state_bits) >> registers.synapse_shift
    wraps = worst > limit
    if bool(wraps.any()):
        factor = (limit / worst).clamp(max=1)
        weights = [
            _shrunk(mantissa, _each(factor, mantissa[0]), step)
            for mantissa, step in zip(weights, steps, strict=True)
        ]
        clipped += wraps.sum(1) * sum(mantissa[0, 0].numel() for mantissa in weights)
    unit = thresholds * 2.0**registers.threshold_shift
    most = (layer.bias.detach().abs() + (layer.written or 0.0)) * unit
    biases, exponents, outside = _bias(layer.bias * unit, most, registers)
    of_scales = list(zip(*weights, strict=True)) if weights else [()] * len(scales)
    largest = [math.ceil(x * 2**registers.synapse_shift) for x in worst.amax(1).tolist()]
    return [
        Integers(scale, of_each, biases[k], exponents[k], lost, largest[k])
        for k, (scale, of_each, lost) in enumerate(
            zip(scales, of_scales, (clipped + outside).tolist(), strict=True)
        )
    ]


def kept(layer: FloatLayer, name: str, mantissa: int, registers: Registers, bits: int) -> Integers:
    """The integers of a layer whose floats are mantissas already, as they are.

    Args:
        layer: in thresholds of so many units.
        name: of its neurons, for the error.
        mantissa: of its threshold.
        registers: the target's.
        bits: width of the grid that weights must be on.

    Raises:
        BadInput: if the target does not hold one of them.
    """
    weights = tuple((weight * mantissa).round() for weight in layer.weights)
    bias = (layer.bias * mantissa).round() * 2**registers.threshold_shift
    most = bias.abs() + round((layer.written or 0.0) * mantissa) * 2**registers.threshold_shift
    (mantissas,), (exponent,), outside = _bias(bias[None], most[None], registers)
    fitting = [_fitting(weight, registers, bits) for weight in weights]
    if None in fitting or int(outside) or bool((mantissas * 2.0**exponent != bias).any()):
        raise BadInput(
            f"the integers of layer {name!r} are not all on the target's grids of {bits}-bit "
            f"weights and of biases, and they are not to be rounded again"
        )
    exponents = tuple(places for places, _ in filter(None, fitting))
    modes = tuple(mode for _, mode in filter(None, fitting))
    scale = Scale((mantissa,) * len(bias), exponents, modes)
    worst = sum(
        float(largest_drive(weight).max()) * layer.payload(place)
        for place, weight in enumerate(weights)
    )
    reach = worst * layer.current_reach(registers) * 2**registers.synapse_shift
    held = tuple(weight / 2.0**places for weight, places in zip(weights, exponents, strict=True))
    return Integers(scale, held, mantissas, exponent, 0, math.ceil(reach))


def _fitting(weight: Tensor, registers: Registers, bits: int) -> tuple[int, str] | None:
    """The least exponent, and a sign mode of it, whose grid holds all of some whole weights."""
    grids = {mode: weight_grid(registers, bits, mode) for mode in registers.sign_modes}
    for exponent in range(registers.weight_exp_max + 1):
        scaled = weight / 2.0**exponent
        for mode, (low, high, step) in grids.items():
            if bool(((scaled >= low) & (scaled <= high) & (scaled % step == 0)).all()):
                return exponent, mode
    return None


def _each(x: Tensor, weight: Tensor) -> Tensor:
    """A number for each scale, or for each of its channels, that broadcasts over the weights."""
    return x.reshape(*x.shape, *(1,) * (weight.dim() + 1 - x.dim()))


def _shrunk(mantissa: Tensor, factor: Tensor, step: Tensor) -> Tensor:
    """Each channel times its factor, to the grid's next point towards zero."""
    smaller = (mantissa.detach() * factor / step).trunc()
    return mantissa + (smaller * step - mantissa.detach())  # whole numbers: exact


def _bias(scaled: Tensor, reach: Tensor, registers: Registers) -> tuple[Tensor, list[int], Tensor]:
    """Mantissas at each scale, the smallest common exponents at which they are in range, and how
    many never are.

    Args:
        scaled: biases in the register's unit.
        reach: their magnitudes with the largest that is added to them.
        registers: the target's.
    """
    largest = min(registers.bias_max, -registers.bias_min)
    exponents = []
    for most in reach.amax(1).tolist() if reach.shape[1] else [0.0] * len(reach):
        exponent = 0
        while exponent < registers.bias_exp_max and round(most / 2**exponent) > largest:
            exponent += 1
        exponents.append(exponent)
    exact = scaled / scaled.new_tensor([2.0**exponent for exponent in exponents])[:, None]
    outside = (exact.detach().round().abs() > largest).sum(1)
    return _rounded(exact.clamp(-largest, largest)), exponents, outside
