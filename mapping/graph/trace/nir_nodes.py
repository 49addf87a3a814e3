"""What each node of a NIR graph is in steps: layers and neurons, one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapping.graph.ir import Kind, Signal
from mapping.graph.ops.op import pair, single

Decay = Literal["euler", "exponential"]
"""What is left after a step dt of a time constant tau: ``1 - dt / tau`` or ``exp(-dt / tau)``."""
NirReset = Literal["zero", "refractory", "subtract", "subtract_at_once"]
"""What a membrane does after a spike; "zero" is what NIR defines, to ``v_reset``. "refractory" does
that and loses what arrives in the next step, as all of snnTorch's neurons but ``Leaky`` do."""
SPIKING = ("IF", "LIF", "CubaLIF", "Threshold")
SILENT = ("I", "LI", "CubaLI")
"""Neurons that do not fire: their membranes are what they make."""
Layer = tuple[str, Mapping[str, Any], Mapping[str, Tensor]]
"""Kind, attributes and tensors of a node to be."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Steps:
    """How differential equations become steps.

    Args:
        dt: of a step, in seconds.
        decay: what is left after one.
        resets: of each neuron that fires, by its name.
    """

    dt: float
    decay: Decay
    resets: Mapping[str, NirReset]

    def delays(self, node: Any) -> list[tuple[int, list[Layer]]]:
        """The steps of a Delay, with the layers that keep what is so late; of all there are none.

        Raises:
            ValueError: if they are not whole.
        """
        exact = np.asarray(node.delay, float) / self.dt
        steps = np.rint(exact).astype(int)
        if steps.min() < 0 or abs(exact - steps).max() > 1e-3:
            raise ValueError(f"its delays must be whole numbers of steps of {self.dt} s")
        several = np.unique(steps).tolist()
        if len(several) == 1:
            return [(several[0], [])]
        source = Signal(shape_of(node))
        return [(late, _scale(_tensor(steps == late), source)) for late in several]

    def layers(self, name: str, node: Any, source: Signal) -> list[Layer]:
        """What a node is, one behind the other; nothing where it only passes on.

        Args:
            name: of the node.
            node: of the file.
            source: what it takes.

        Raises:
            ValueError: if it cannot be run in such steps.
        """
        kind = kind_of(node)
        if kind in SPIKING + SILENT:
            return self._neuron(node, source, self.resets.get(name, "none"))
        if kind in ("Affine", "Linear"):
            return [("linear", {}, {"weight": _tensor(node.weight), **_bias(node)})]
        if kind in ("Conv1d", "Conv2d"):
            return [_conv(node)]
        if kind in ("AvgPool2d", "SumPool2d"):
            return _pool(node)
        if kind == "Flatten":
            rank = len(source.shape)
            start, end = (int(x) % rank + 1 for x in (node.start_dim, node.end_dim))
            return [("flatten", {"start": start, "end": end}, {})]
        if kind == "Scale":
            return _scale(_tensor(node.scale), source)
        if kind in ("Input", "Output"):
            return []
        raise ValueError("has8 does not read this type")

    def _neuron(self, node: Any, source: Signal, reset: str) -> list[Layer]:
        """A neuron, behind what its leak adds to its current. Membranes count from its reset."""
        kind, drive = kind_of(node), _currents(source)
        if kind == "Threshold":
            each = {"alpha": 0.0, "beta": 0.0, "gain": 1.0, "threshold": node.threshold}
            return [*drive, ("neuron", *_constants(each, "zero"))]
        zero = reset in ("zero", "refractory")
        base = np.asarray(node.v_reset if zero else 0.0, float)
        alpha, gain = np.zeros(()), np.asarray(node.r, float)
        if kind.startswith("Cuba"):
            alpha = self._left(node.tau_syn)
            gain = gain * (1 - alpha) * node.w_in
        tau = getattr(node, "tau", getattr(node, "tau_mem", None))
        beta = np.ones(()) if tau is None else self._left(tau)
        gain = gain * (self.dt if tau is None else 1 - beta)
        threshold = np.asarray(getattr(node, "v_threshold", 1.0), float) - base
        if not (np.all(threshold > 0) and np.all(gain > 0)):
            raise ValueError("its threshold must be above its v_reset, and its r and w_in above 0")
        if tau is not None and np.any(pull := node.v_leak - base):
            if np.any(alpha):
                raise ValueError("its v_leak must be its v_reset, since its currents last")
            bias = _tensor(pull * (1 - beta) / gain)
            drive = _scale(torch.ones(source.shape), source, bias)
        each = {"alpha": alpha, "beta": beta, "gain": gain, "threshold": threshold}
        return [*drive, ("membrane" if kind in SILENT else "neuron", *_constants(each, reset))]

    def _left(self, tau: Array) -> Array:
        """What is left of something after a step."""
        with np.errstate(all="ignore"):
            part = self.dt / np.asarray(tau, float)
        left: Array = np.exp(-part) if self.decay == "exponential" else 1 - part
        if not bool((left >= 0).all() and (left <= 1).all()):
            raise ValueError(f"its time constant must be a step at least, {self.dt} s: pass dt")
        return left


def kind_of(node: Any) -> str:
    """The type of a node, in NIR's word."""
    return type(node).__name__


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of what a node makes."""
    (shape,) = node.output_type.values()
    return tuple(int(size) for size in shape) or (1,)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32).copy())


def _bias(node: Any) -> dict[str, Tensor]:
    """The biases of a layer, unless all are 0."""
    found = getattr(node, "bias", None)
    return {} if found is None or not np.any(found) else {"bias": _tensor(found)}


def _conv(node: Any) -> Layer:
    weight, axes = _tensor(node.weight), node.weight.ndim - 2
    each = pair if axes == 2 else single
    stride, dilation = (each(_ints(x)) for x in (node.stride, node.dilation))
    padding = node.padding
    if isinstance(padding, str | bytes):
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        same = padding in ("same", b"same")
        if same and (any(r % 2 for r in reach) or set(stride) != {1}):
            raise ValueError("padding='same' with an even kernel or a stride is not symmetric")
        padding = [r // 2 * same for r in reach]
    attrs = {"stride": stride, "padding": each(_ints(padding)), "dilation": dilation}
    layer = {**attrs, "groups": int(node.groups)}
    return f"conv{axes}d", layer, {"weight": weight, **_bias(node)}


def _pool(node: Any) -> list[Layer]:
    """Averages, and of sums how many elements there are of each."""
    names = {"kernel": node.kernel_size, "stride": node.stride, "padding": node.padding}
    window = {name: pair(_ints(sizes)) for name, sizes in names.items()}
    averages: Layer = ("avgpool", {**window, "count_include_pad": True}, {})
    if kind_of(node) == "AvgPool2d":
        return [averages]
    return [averages, ("scale", {"factor": float(np.prod(window["kernel"]))}, {})]


def _ints(sizes: Any) -> Any:
    """A whole number, or several."""
    found = np.asarray(sizes).reshape(-1).astype(int).tolist()
    return found[0] if len(found) == 1 else tuple(found)


def _currents(source: Signal) -> list[Layer]:
    """What makes currents of spikes that no weights come between."""
    return _scale(torch.ones(source.shape), source) if source.kind is Kind.SPIKE else []


def _scale(factor: Tensor, source: Signal, bias: Tensor | None = None) -> list[Layer]:
    """A factor of each channel, or else of each element, and what is added."""
    tensors = {"weight": factor, **({} if bias is None else {"bias": bias})}
    each = {name: x.broadcast_to(source.shape) for name, x in tensors.items()}
    flat = {name: x.reshape(len(x), -1) for name, x in each.items()}
    if all(bool((x == x[:, :1]).all()) for x in flat.values()):
        return [("one_to_one", {}, {name: x[:, 0].clone() for name, x in flat.items()})]
    every = {name: x.flatten().clone() for name, x in each.items()}
    back: Layer = ("reshape", {"shape": list(source.shape)}, {})
    return [("flatten", {}, {}), ("one_to_one", {}, every), back]


def _constants(
    each: Mapping[str, Any], reset: str
) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Attributes and tensors of a neuron: numbers, or arrays where it has several values."""
    rests = reset == "refractory"
    attrs: dict[str, Any] = {"model": "lif", "reset": "zero" if rests else reset}
    attrs["refractory"] = int(rests)
    tensors = {}
    for name, constant in each.items():
        array = np.asarray(constant, float)
        if (array == array.flat[0]).all():
            attrs[name] = float(array.flat[0])
            continue
        flat = array.reshape(len(array), -1)
        if (flat == flat[:, :1]).all():
            array = flat[:, 0].reshape(-1, *(1,) * (array.ndim - 1))
        tensors[name] = _tensor(array)
    return attrs, tensors
