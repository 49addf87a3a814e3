"""The same nets as a user of snnTorch or of SpikingJelly would write them, or of neither.

Those of both are made from a HAS-8 model: the same weights, ANN branches, pooling, classifier and
ranges of the encoders; only the spiking branches, with their encoding and decoding, are written
anew. Nothing here uses has8's own neurons, blocks, convolutions or kernels. Spikes are pooled at
every step and then decoded, as published; has8 decodes first, which is equal.

Three differences are those of the libraries. A step-by-step loop gives batch norm one step at a
time, so that its training statistics are those of a step. snnTorch detaches the reset in the
backward pass, as has8 does, and SpikingJelly here does not. SpikingJelly fires at ``v >=
threshold``, the others at ``v > threshold``. In evaluation logits are the same but for rounding.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

from has8.blocks import HybridBlock, OverTime, SpikingLayer, SpikingSequential
from has8.encoders import DuplicateEncoder
from has8.errors import BackendError, BadInput
from has8.iir import IIR, Axon
from has8.models.hnn import HNN
from has8.models.residual import SEWBlock
from has8.surrogate import SLOPES, plane_factors

LIBRARIES = ("snntorch", "spikingjelly")
STEPWISE = "steps"
"""Torch alone, step by step: the form of networks that neither library has."""
STEPS = 8


class _Planes(torch.autograd.Function):
    """Bit planes, least significant first, with a surrogate slope for each."""

    @staticmethod
    def forward(ctx: Any, code: Tensor, slope: str, rescaled: bool) -> Any:
        ctx.save_for_backward(code)
        ctx.rule = slope, rescaled
        whole = code.round().clamp(0, 255).int()
        return torch.stack([((whole >> k) & 1).to(code.dtype) for k in range(STEPS)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (code,) = ctx.saved_tensors
        slope, rescaled = ctx.rule
        function, factors = SLOPES.get(slope), plane_factors(slope, rescaled)
        total = torch.zeros_like(code)
        for k in range(STEPS):
            total = total + grads[0][k] * function(code + 0.5, k) * factors[k]
        return total * ((code >= 0) & (code <= 255)), None, None


class PlainEncoder(nn.Module):
    """Bit planes over the range that a has8 encoder tracks: ``[B, ...] -> [8, B, ...]``."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.range = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Track in training, quantise, split into planes."""
        if self.training and not self.range.frozen:
            self.range.track(x, self.range.momentum)
        code = (x - self.range.lo) / (self.range.hi - self.range.lo) * 255
        planes: Tensor = _Planes.apply(code, self.range.slope, self.range.rescaled)
        return planes


class _Gaussian(torch.autograd.Function):
    """Spikes of membranes less 1, whose slope is a Gaussian of deviation 0.4."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor) -> Any:
        ctx.save_for_backward(membrane)
        return (membrane > 1).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (membrane,) = ctx.saved_tensors
        slope = torch.exp(-((1 - membrane) ** 2) / (2 * 0.4**2)) / (math.sqrt(2 * math.pi) * 0.4)
        return grads[0] * slope


class StepByStep(nn.Module):
    """An HNN with ``shared=False``: in each step filters, weights, neurons, one after the other.

    What is the same in all steps is computed once, as has8 does.
    """

    def __init__(self, model: HNN) -> None:
        super().__init__()
        self.artificial, self.spiking = model.artificial, model.spiking
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = nn.Linear  # without has8's fast path for many rows
        (self.steps,) = (m.steps for m in model.modules() if isinstance(m, DuplicateEncoder))

    def forward(self, x: Tensor) -> Tensor:
        """Images to numbers of spikes."""
        x, states = self.artificial(x), dict[nn.Module, tuple[Any, Any]]()
        layers = list(self.spiking)
        while not isinstance(layers[0], DuplicateEncoder):
            x = layers.pop(0)(x)
        total = torch.zeros((), device=x.device)
        for _ in range(self.steps):
            y = x
            for layer in layers[1:-1]:
                one, other = states.get(layer, (0.0, 0.0))
                if isinstance(layer, Axon):
                    states[layer] = layer.a1 * one + layer.a2 * other + layer.b0 * y, one
                    y = states[layer][0]
                elif isinstance(layer, IIR):
                    trace = layer.constants.theta * one + other
                    y = _Gaussian.apply(y - trace)
                    states[layer] = trace, y
                elif isinstance(layer, OverTime):
                    for module in layer:
                        y = module(y)
            total = total + y
        return total


class Scale(nn.Module):
    """``x * factor``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return x * self.factor


class Shortcut(nn.Module):
    """SEW's block: two layers beside a shortcut; over one step or over all."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.layers, self.shortcut = layers, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        out: Tensor = self.layers(x) + self.shortcut(x)
        return out


class PlainBlock(nn.Module):
    """A hybrid block: clear the neurons, encode, run the steps with pooling, decode, add.

    Args:
        block: whose ANN branch, pooling, encoder's range and decoding weights to use.
        snn: the rewritten spiking branch.
    """

    weights: Tensor

    def __init__(self, block: HybridBlock, snn: nn.Module) -> None:
        super().__init__()
        self.ann, self.pool, self.snn = block.ann, block.pool, snn
        self.encode = PlainEncoder(block.encode)
        self.register_buffer("weights", block.decode.weights.clone())

    def spikes(self, planes: Tensor) -> Tensor:
        """``[8, B, ...]`` to pooled spikes ``[8, B, ...]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, ...]``."""
        spikes = self.spikes(self.encode(x))
        out: Tensor = self.ann(x) + torch.tensordot(self.weights.to(spikes.dtype), spikes, dims=1)
        return out


class SnnTorchBlock(PlainBlock):
    """With a loop over the steps and a list of spikes."""

    def spikes(self, planes: Tensor) -> Tensor:
        """See :meth:`PlainBlock.spikes`."""
        for module in self.snn.modules():
            if isinstance(module, snn.Leaky):
                module.reset_mem()
        return torch.stack([self.pool(self.snn(plane)) for plane in planes])


class SpikingJellyBlock(PlainBlock):
    """With SpikingJelly's multi-step mode."""

    def spikes(self, planes: Tensor) -> Tensor:
        """See :meth:`PlainBlock.spikes`."""
        jelly = _spikingjelly()
        jelly.functional.reset_net(self.snn)
        out: Tensor = jelly.layer.SeqToANNContainer(self.pool)(self.snn(planes))
        return out


def forms(model: nn.Module) -> tuple[str, ...]:
    """The forms that :func:`rewritten` gives a model."""
    return (STEPWISE,) if isinstance(model, HNN) else LIBRARIES


def rewritten(model: nn.Module, library: str) -> nn.Module:
    """A copy of a HAS-8 model (``mode="hw"``, ``order="lsb"``) on another library's neurons.

    Args:
        model: from :func:`has8.create_model`; an HNN has duplicate coding and its own filters.
        library: one of :func:`forms`.

    Raises:
        BadInput: if the model has no hybrid blocks, or some that have no plain form here.
        BackendError: if SpikingJelly is asked for and not installed.
    """
    model = copy.deepcopy(model)
    if isinstance(model, HNN):
        return StepByStep(model)
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, HybridBlock)}
    if not blocks:
        raise BadInput(f"a {type(model).__name__} has no hybrid blocks: choose a has8 model")
    make: Callable[[SpikingLayer], nn.Module]
    block: type[PlainBlock]
    if library == "snntorch":
        make, block = _snntorch_layer, SnnTorchBlock
    else:
        make, block = _spikingjelly_layer, SpikingJellyBlock
    for name, hybrid in blocks.items():
        model.set_submodule(name, block(hybrid, _branch(hybrid.snn, make)))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d  # without has8's fast path for small images
    return model.train(model.training)  # new modules too


def _branch(branch: nn.Module, make: Callable[[SpikingLayer], nn.Module]) -> nn.Module:
    if isinstance(branch, SpikingLayer):
        return make(branch)
    if isinstance(branch, SpikingSequential):
        return nn.Sequential(*(_branch(layer, make) for layer in branch))
    if isinstance(branch, SEWBlock):
        down = branch.downsample
        return Shortcut(
            nn.Sequential(make(branch.conv1), make(branch.conv2)),
            nn.Identity() if down is None else make(down),
        )
    raise BadInput(f"no plain form of a {type(branch).__name__} is known: write one here")


def _snntorch_layer(layer: SpikingLayer) -> nn.Module:
    beta, threshold = layer.neuron.constants
    neuron = snn.Leaky(
        beta=beta,
        threshold=threshold,
        spike_grad=surrogate.atan(alpha=layer.neuron.alpha),
        init_hidden=True,
        reset_mechanism="zero",
    )
    snn.SpikingNeuron.instances.remove(neuron)  # snnTorch would keep it alive
    return nn.Sequential(*_synapses(layer), Scale(layer.neuron.gain), neuron)


def _spikingjelly_layer(layer: SpikingLayer) -> nn.Module:
    jelly, (beta, threshold) = _spikingjelly(), layer.neuron.constants
    if beta != 1 - layer.neuron.gain:
        raise BadInput("SpikingJelly's LIFNode has a gain of 1 - beta: choose neuron='lif'")
    neuron = jelly.neuron.LIFNode(
        tau=1 / (1 - beta),
        decay_input=True,
        v_threshold=threshold,
        v_reset=0.0,
        surrogate_function=jelly.surrogate.ATan(layer.neuron.alpha),
        detach_reset=False,
        step_mode="m",
    )
    return nn.Sequential(jelly.layer.SeqToANNContainer(*_synapses(layer)), neuron)


def _synapses(layer: SpikingLayer) -> Iterable[nn.Module]:
    """The convolution or linear layer, and the batch norm if there is one."""
    kinds = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    return [module for module in layer.modules() if isinstance(module, kinds)]


def missing(library: str) -> str | None:
    """Why a library cannot be compared with, in one line; None if it can."""
    try:
        _spikingjelly() if library == "spikingjelly" else None
    except BackendError as error:
        return str(error)
    return None


def _spikingjelly() -> Any:
    """``spikingjelly.activation_based``, with the modules that are used here."""
    name = "spikingjelly.activation_based"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its old escape sequences, and torch.jit
            for part in ("functional", "layer", "neuron", "surrogate"):
                import_module(f"{name}.{part}")
            return import_module(name)
    except ImportError as error:
        raise BackendError(
            f"SpikingJelly is not compared with ({error}): on Python 3.10 it comes with "
            "'uv sync --group bench'"
        ) from error
