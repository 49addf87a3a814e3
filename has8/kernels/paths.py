"""Which path a model takes: compiled kernels where they compute the same, else plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from has8 import kernels

_plain = ContextVar("plain", default=False)


def usable(x: Any, *modules: nn.Module | None) -> bool:
    """Whether the compiled path can stand in for calling ``modules`` on ``x``.

    It cannot when ``x`` is being traced or compiled or lies on another device, or when somebody
    watches one of the modules through a hook.
    """
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dim() > 1
        and x.dtype in kernels.KINDS
        and x.numel() > 0
        and not must_be_plain()
        and not any(_watched(module) for module in modules if module is not None)
        and kernels.available()
    )


@contextmanager
def plain() -> Iterator[None]:
    """Run the body on plain torch without any fast path, so that sums round as torch's do.

    A rounding error can carry a membrane over its threshold. Whoever compares a model with other
    code of the same operations, bit for bit, has to do it in here.
    """
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def must_be_plain() -> bool:
    """Whether fast paths are off: inside :func:`plain`, or while torch records what is called."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return _plain.get() or tracing or torch.compiler.is_compiling()


def _watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
