"""What convolutions and linear layers come to: their multiply-accumulates, and their time alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from has8.errors import BadInput
from has8.kernels import paths
from has8.neurons import Leaky

LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one image in the convolution and linear layers, padding included.

    Args:
        ann: of the layers that run once.
        snn_step: of one step of the layers that run at every step.
        steps: of the spiking layers; 1 where there are none.
    """

    ann: int
    snn_step: int
    steps: int

    @property
    def one_step(self) -> int:
        """ANN and one step: how Table 3 of the HAS-8 paper counts."""
        return self.ann + self.snn_step

    @property
    def total(self) -> int:
        """What a forward pass really computes."""
        return self.ann + self.steps * self.snn_step


def count_macs(model: nn.Module, side: int, in_channels: int = 3) -> Macs:
    """Count in a forward pass of one image in which nothing is multiplied.

    Layers give zeros of the shape of their outputs. (On the meta device torch would do the like,
    after importing its compiler for some seconds.)

    Args:
        model: is of no use after it: its layers have other forward passes.
        side: of the image in pixels.
        in_channels: of the image.

    Raises:
        BadInput: if a layer does not run, or layers run for different numbers of steps.
    """
    rows = {module: 0 for module in model.eval().modules() if isinstance(module, LAYERS)}
    macs = dict.fromkeys(rows, 0)

    def count(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
        out = _zeros(layer, x)
        rows[layer] += len(out)
        macs[layer] += out.numel() * layer.weight[0].numel()
        return out

    for module in model.modules():
        if isinstance(module, LAYERS):
            module.forward = partial(count, module)  # type: ignore[method-assign]
        elif isinstance(module, (nn.BatchNorm2d, Leaky)):  # the output has the input's shape
            module.forward = _same  # type: ignore[method-assign]
    with torch.inference_mode(), paths.plain():
        model(torch.zeros(1, in_channels, side, side))
    steps = set(rows.values()) - {1}
    if 0 in steps or len(steps) > 1:
        raise BadInput(
            f"layers ran for {sorted(set(rows.values()))} steps: expected 1 and one other number"
        )
    spiking = sum(macs[module] for module in macs if rows[module] > 1)
    number = steps.pop() if steps else 1
    return Macs(sum(macs.values()) - spiking, spiking // number, number)


def _zeros(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """An output of the layer's shape: of a convolution, that of one channel of zeros."""
    if isinstance(layer, nn.Linear):
        return x.new_zeros(1).expand(*x.shape[:-1], layer.out_features)
    one = x.new_zeros(1, 1, *layer.kernel_size)
    out = F.conv2d(x[:, :1], one, None, layer.stride, layer.padding, layer.dilation)
    return out.expand(-1, layer.out_channels, -1, -1)


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, slots=True)
class _Blank:
    """A tensor without its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool


def _blank(value: Tensor) -> _Blank:
    return _Blank(
        tuple(value.shape), value.stride(), value.dtype, value.device, value.requires_grad
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a convolution or linear layer: its input's shape and memory order, no values."""

    layer: nn.Module
    given: _Blank


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Inside it, every call of a convolution or linear layer of the model is noted."""
    calls: list[Call] = []

    def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls.append(Call(layer, _blank(inputs[0])))

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, LAYERS)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def replay(calls: Sequence[Call]) -> Callable[[], None]:
    """A function that makes the calls again, with what each needs of a backward pass.

    Inputs and gradients are memory of its own, which calls of the same shapes share.
    """
    pool: dict[_Blank, Tensor] = {}

    def filled(blank: _Blank) -> Tensor:
        if blank not in pool:
            tensor = torch.empty_strided(
                blank.shape, blank.strides, dtype=blank.dtype, device=blank.device
            )
            pool[blank] = tensor.fill_(0.5).requires_grad_(blank.requires_grad)
        return pool[blank]

    def prepared(call: Call) -> Callable[[], None]:
        given = filled(call.given)
        leaves = [v for v in (given, *call.layer.parameters()) if v.requires_grad]
        grad = filled(_blank(call.layer(given).detach()))

        def again() -> None:
            out = call.layer(given)
            if leaves:
                torch.autograd.grad(out, leaves, grad)

        return again

    ready = [prepared(call) for call in calls]

    def run() -> None:
        for again in ready:
            again()

    return run
