"""What convolutions and linear layers come to: their multiply-accumulates, and their time alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from has8.errors import BadInput

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
    """Count by hooks in a forward pass of one image without data (on the meta device).

    Args:
        model: loses its weights: it is moved to the meta device.
        side: of the image in pixels.
        in_channels: of the image.

    Raises:
        BadInput: if a layer does not run, or layers run for different numbers of steps.
    """
    model.to("meta").eval()
    rows = {module: 0 for module in model.modules() if isinstance(module, LAYERS)}
    macs = dict.fromkeys(rows, 0)

    def note(module: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(module, LAYERS)
        rows[module] += len(out)
        macs[module] += out.numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(note) for module in rows]
    with torch.no_grad():
        model(torch.zeros(1, in_channels, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    steps = set(rows.values()) - {1}
    if 0 in steps or len(steps) > 1:
        raise BadInput(
            f"layers ran for {sorted(set(rows.values()))} steps: expected 1 and one other number"
        )
    spiking = sum(macs[module] for module in macs if rows[module] > 1)
    number = steps.pop() if steps else 1
    return Macs(sum(macs.values()) - spiking, spiking // number, number)


@dataclass(frozen=True, slots=True)
class _Blank:
    """A tensor without its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool


def _blank(value: Any) -> Any:
    """A tensor's blank; anything else itself."""
    if not isinstance(value, Tensor):
        return value
    return _Blank(
        tuple(value.shape), value.stride(), value.dtype, value.device, value.requires_grad
    )


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a convolution or linear layer: shapes and memory order, no values."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Recorder(TorchFunctionMode):
    """Inside it, every call of a convolution or linear layer is noted in :attr:`calls`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Note the call, then make it."""
        kwargs = kwargs or {}
        if func in (torch.conv2d, F.linear):
            named = {name: _blank(value) for name, value in kwargs.items()}
            self.calls.append(Call(func, tuple(map(_blank, args)), named))
        return func(*args, **kwargs)


def replay(calls: Sequence[Call]) -> Callable[[], None]:
    """A function that makes the calls again, with what each needs of a backward pass.

    It works on memory of its own, which calls of the same shapes share.
    """
    pool: dict[_Blank, Tensor] = {}

    def filled(value: Any) -> Any:
        if not isinstance(value, _Blank):
            return value
        if value not in pool:
            tensor = torch.empty_strided(
                value.shape, value.strides, dtype=value.dtype, device=value.device
            )
            pool[value] = tensor.fill_(0.5).requires_grad_(value.requires_grad)
        return pool[value]

    def prepared(call: Call) -> Callable[[], None]:
        args = [filled(value) for value in call.args]
        kwargs = {name: filled(value) for name, value in call.kwargs.items()}
        leaves = [v for v in (*args, *kwargs.values()) if getattr(v, "requires_grad", False)]
        grad = filled(_blank(call.function(*args, **kwargs).detach()))

        def again() -> None:
            out = call.function(*args, **kwargs)
            if leaves:
                torch.autograd.grad(out, leaves, grad)

        return again

    ready = [prepared(call) for call in calls]

    def run() -> None:
        for again in ready:
            again()

    return run
