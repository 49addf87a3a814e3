"""A run of a model whose layers and torch's functions are watched, each call by its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import snntorch as snn
from snntorch import spikegen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from mapping.graph.ops import op_of

CODES = (spikegen.latency, spikegen.delta)
"""Functions of several of torch's that are followed as one."""
WRITES = frozenset({"__iadd__", "__isub__", "__imul__", "__itruediv__"})
"""Operators that write their result over their first operand."""


@dataclass(frozen=True)
class Seen:
    """One call that a run made.

    Args:
        index: its place among the calls of the run.
        name: of the node that it may become: the layer's path, or the function's name in it.
        user: the same in messages.
        func: what was called.
        args, kwargs: its arguments.
        module: the layer, or None for a function.
    """

    index: int
    name: str
    user: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module | None = None

    @property
    def short(self) -> str:
        """The function's name."""
        return self.name.rpartition(".")[2]

    @property
    def in_place(self) -> bool:
        """Whether it writes its result over its first argument."""
        if self.module is not None:
            return bool(getattr(self.module, "inplace", False))
        written = self.short.endswith("_") and not self.short.endswith("__")
        return written or self.short in WRITES or bool(self.kwargs.get("inplace", False))


def is_cell(module: nn.Module) -> bool:
    """Whether a layer is one of snnTorch's neurons, which take one step in a call."""
    return isinstance(module, snn.SpikingNeuron) and op_of(module) is None


class Watch(TorchFunctionMode):
    """Follows a model; what happens inside of a layer or a function is not seen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.count = 0
        self._inside = 0
        self._scopes: list[str] = []

    def saw(self, seen: Seen) -> Any:
        """A call; gives its result. What happens in here is not watched."""
        return seen.func(*seen.args, **seen.kwargs)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """A body in which the model's layers and torch's functions are followed."""
        wrapped = []
        try:
            for path, module in self.model.named_modules():
                if isinstance(module, nn.ModuleList | nn.ModuleDict) or not path:
                    continue
                call = self._layer if _is_layer(module) else self._scope
                module.forward = partial(call, path, module, module.forward)
                wrapped.append(module)
            with self, self._codes():
                yield
        finally:
            for module in wrapped:
                del module.forward

    @contextmanager
    def _codes(self) -> Iterator[None]:
        """A body in which the model's files call the functions of :data:`CODES` through here."""
        files = {sys.modules.get(type(part).__module__) for part in self.model.modules()}
        kept = [
            (file, name, function)
            for file in {spikegen, *files} - {None}
            for name, function in list(vars(file).items())
            if any(function is code for code in CODES)
        ]
        try:
            for file, name, function in kept:
                setattr(file, name, partial(self._code, function))
            yield
        finally:
            for file, name, function in kept:
                setattr(file, name, function)

    def _code(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.__torch_function__(function, (), args, kwargs)

    def _scope(self, path: str, module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
        self._scopes.append(path)
        try:
            return forward(*args, **kwargs)
        finally:
            self._scopes.pop()

    def _layer(self, path: str, module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if self._inside:
            return forward(*args, **kwargs)
        what = "neuron" if is_cell(module) else "layer"
        user = f"{what} {path!r} ({type(module).__name__})"
        return self._seen(path, user, forward, args, kwargs, module)

    def _seen(self, name: str, user: str, func: Any, args: Any, kwargs: Any, module: Any) -> Any:
        index, self.count = self.count, self.count + 1
        self._inside += 1
        try:
            return self.saw(Seen(index, name, user, func, args, kwargs, module))
        finally:
            self._inside -= 1

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function, and know what its result is."""
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", func))
        if name == "__get__":
            name = str(getattr(func.__self__, "__name__", name))
        scope = self._scopes[-1] if self._scopes else ""
        where = f"of {scope!r}" if scope else "in the forward"
        return self._seen(
            f"{scope}.{name}".lstrip("."), f"{name!r} {where}", func, args, kwargs, None
        )


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is followed as one call."""
    if is_cell(module) or op_of(module) is not None:
        return True
    own = module.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
    return own and not any(is_cell(part) for part in module.modules())


class Capture(Watch):
    """A run of which the arguments of some calls are kept, as they were before the call."""

    def __init__(self, model: nn.Module, wanted: dict[int, Callable[..., Any]]) -> None:
        super().__init__(model)
        self.wanted = wanted
        self.leaves: dict[int, list[Any]] = {}

    def saw(self, seen: Seen) -> Any:
        """Keep the arguments of a call that is wanted, if it is the same one."""
        func = self.wanted.get(seen.index)
        if func is not None and func == seen.func:
            self.leaves[seen.index] = before(seen)
        return super().saw(seen)


def before(seen: Seen) -> list[Any]:
    """The arguments of a call as they are before it."""
    leaves = tree_flatten((seen.args, seen.kwargs))[0]
    if seen.in_place:
        leaves = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
    return list(leaves)
