"""Whatever torch runs as one node: its calls are recorded on real tensors, in two batch sizes.

What differs between the two must be a multiple of the batch size; everything else is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isnan
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mapping.graph.ir import Signal
from mapping.graph.ops.torch_calls import DTYPES, KEYWORDS, execute, infer, overload

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""Tolerances between calls and what they were recorded of: torch may sum in another order."""

SAME = frozenset({"aten.alias.default", "aten.detach.default", "aten.lift_fresh.default"})
"""Calls whose result is their input."""

LIKE = frozenset(f"{how}_like" for how in ("empty", "full", "ones", "zeros")) | {
    "new_empty",
    "new_full",
    "new_ones",
    "new_zeros",
}
"""Operations that take no more from a tensor than its shape."""

OTHER_NAMES = {
    "aten.view.default": "aten.reshape.default",  # which memory in another order can take too
    "aten._unsafe_view.default": "aten.reshape.default",
}

BRANCHES = "it branches on values, or computes with one in Python; take that out of the forward"
MIXED = "what it computes for one sample depends on the others of the batch"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What one call of anything did.

    Args:
        attrs: of a node of kind "torch".
        tensors: of that node.
        type: what it gives.
        writes: the place of the input that it writes over, or None.
        shares: the place of the input whose memory its result lies in, or None.
    """

    attrs: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    type: Signal
    writes: int | None
    shares: int | None

    @property
    def flattens(self) -> bool:
        """Whether all that it does is to flatten its one input."""
        calls = self.attrs["calls"]
        return (
            len(calls) == 1
            and len(self.attrs["timed"]) == 1
            and calls[0]["op"] == OTHER_NAMES["aten.view.default"]
            and calls[0]["args"][0] == {"input": 0}
            and len(self.type.shape) == 1
        )


class NoNode(ValueError):
    """What was called gives nothing that a node can: its user must be followed with it."""


class _Ref(NamedTuple):
    """Where a tensor comes from."""

    kind: str
    place: Any


class _Item(NamedTuple):
    """One call as it was recorded; arguments hold references and constant tensors."""

    op: str
    args: Any
    kwargs: dict[str, Any]


def record(
    call: Callable[..., Any],
    examples: Sequence[Sequence[Tensor]],
    types: Sequence[Signal],
    *,
    merged: bool = False,
) -> Recorded:
    """A node's content that computes what ``call`` does.

    Args:
        call: takes as many tensors as there are types, and gives one.
        examples: two sets of such tensors of two batch sizes, with different numbers.
        types: of the inputs.
        merged: whether ``call`` takes steps merged into the batch, ``[T * B, ...]``, and gives
            the same; then the examples are merged too.

    Raises:
        NoNode: if it gives something other than one tensor of real numbers with a batch axis.
        ValueError: with a sentence, if it cannot be a node.
    """
    timed = [signal.steps is not None for signal in types]
    merged = merged and any(timed)
    if merged and not all(timed):
        raise ValueError("it takes values with time steps and without, in one step")
    axis = 1 if timed[0] and not merged else 0
    sizes = [of[0].shape[axis] for of in examples]
    runs = [_run(call, inputs) for inputs in examples]
    tensors: dict[str, Tensor] = {}
    calls, result = _joined([run.program() for run in runs], sizes, tensors)
    attrs = {"timed": timed, "merged": merged, "calls": calls, "result": result}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"a tensor that it computes with is not all finite numbers ({name})")
    try:
        type_ = infer(attrs, tensors, tuple(types))
    except ValueError as error:
        raise NoNode(str(error)) from error
    if not type_.shape or min(type_.shape) < 1:
        raise NoNode("its result must have an axis behind the batch axis")
    _check(attrs, tensors, examples[1], runs[1].result, timed, merged, type_)
    return Recorded(attrs, tensors, type_, runs[0].writes, runs[0].shares)


def _check(
    attrs: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    expected: Tensor,
    timed: Sequence[bool],
    merged: bool,
    type_: Signal,
) -> None:
    """The calls give what was seen, for all samples and for the first one alone."""
    if not bool(expected.isfinite().all()):
        raise ValueError("it answers with NaN or infinity")

    def axis(has_time: bool) -> int:
        return 1 if has_time and not merged else 0

    first = [x.narrow(axis(t), 0, 1) for x, t in zip(inputs, timed, strict=True)]
    with torch.no_grad():
        whole = execute(attrs, tensors, inputs, inputs[0].shape[axis(timed[0])])
        alone = execute(attrs, tensors, first, 1)
    if not torch.allclose(whole, expected, RELATIVE, ABSOLUTE):
        raise ValueError("its calls cannot be followed: it does something that torch does not see")
    if not torch.allclose(
        alone, expected.narrow(axis(type_.steps is not None), 0, 1), RELATIVE, ABSOLUTE
    ):
        raise ValueError(MIXED)


class _Recorder(TorchDispatchMode):
    """Notes every call that an input's numbers enter; the others make constants."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refs = {id(x): _Ref("input", place) for place, x in enumerate(inputs)}
        self.memory = {_memory(x): place for place, x in enumerate(inputs)}
        self.kept: list[Any] = list(inputs)  # whose ids must not be used again
        self.items: list[_Item] = []
        self.writes: int | None = None
        self.shares: int | None = None
        self.result: Any = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise ValueError(f"it draws random numbers ({func})")
        known = any(id(x) in self.refs for x in given)
        if known and torch.Tag.data_dependent_output in func.tags:
            raise ValueError(BRANCHES)
        name = str(func)
        before = args
        if known and func._schema.is_mutable and id(args[0]) not in self.refs:
            before = (args[0].clone(), *args[1:])  # a constant as it was
        result = func(*args, **kwargs)
        self.kept.append((args, kwargs, result))
        if not known or name.split(".")[1] in LIKE:
            return result
        if name in SAME:
            self.refs[id(result)] = self.refs[id(args[0])]
        elif func._schema.is_mutable and not name.startswith("aten.native_batch_norm."):
            self._in_place(name, args[0], before, kwargs)
        else:
            self._note(name, args, kwargs, result)
        return result

    def _note(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        name = OTHER_NAMES.get(name, name)
        if name == "aten.native_batch_norm.default":
            name, args = _batch_norm(args)
        overload(name)  # refuses what a graph must not hold
        place = len(self.items)
        self.items.append(_Item(name, self._held(args), self._held(kwargs)))
        if isinstance(result, Tensor):
            self.refs[id(result)] = _Ref("call", place)
        elif isinstance(result, list | tuple):
            for part, x in enumerate(result):
                if isinstance(x, Tensor):
                    self.refs[id(x)] = _Ref("part", [place, part])

    def _in_place(self, name: str, target: Tensor, args: Any, kwargs: dict[str, Any]) -> None:
        _, base, which = name.split(".")
        if not base.endswith("_") or target._is_view():
            raise ValueError("it writes over a part of a tensor; let it make a new one")
        if base == "copy_":
            raise ValueError("it copies into a tensor; let it make a new one")
        if _memory(target) in self.memory:
            self.writes = self.memory[_memory(target)]
        self._note(f"aten.{base[:-1]}.{which}", args, kwargs, target)

    def _held(self, argument: Any) -> Any:
        """An argument with references in place of tensors that are no constants."""
        if isinstance(argument, Tensor):
            return self.refs.get(id(argument), argument)
        if isinstance(argument, list | tuple):
            return [self._held(item) for item in argument]
        if isinstance(argument, dict):
            return {k: self._held(v) for k, v in argument.items() if k not in KEYWORDS}
        return argument

    def program(self) -> tuple[list[_Item], _Ref]:
        """The calls that the result needs, and where it is."""
        result = self.result
        if not isinstance(result, Tensor) or id(result) not in self.refs:
            raise NoNode("it gives no tensor that depends on its inputs, or several values")
        if result.dtype != torch.float32:
            raise NoNode(
                f"it gives {str(result.dtype).removeprefix('torch.')}, no float32: return the "
                f"values that it is found from"
            )
        end = self.refs[id(result)]
        needed: set[int] = set()
        pending = [end]
        while pending:
            for place in _calls_of(pending.pop()):
                if place not in needed:
                    needed.add(place)
                    pending.append(self.items[place][1:])  # type: ignore[arg-type]
        number = {place: count for count, place in enumerate(sorted(needed))}
        items = [
            _Item(self.items[place].op, *_renumbered(list(self.items[place][1:]), number))
            for place in sorted(needed)
        ]
        return items, _renumbered(end, number)


def _run(call: Callable[..., Any], inputs: Sequence[Tensor]) -> _Recorder:
    copies = [x.clone(memory_format=torch.contiguous_format) for x in inputs]
    recorder = _Recorder(copies)
    with torch.no_grad(), _plain(), _Circular(), recorder:
        result = call(*copies)
    recorder.result = result
    if isinstance(result, Tensor):
        recorder.shares = recorder.memory.get(_memory(result))
    return recorder


class _Circular(TorchFunctionMode):
    """Pads in a circle with slices side by side, where torch writes into a tensor."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.pad or "circular" not in (*args[2:3], kwargs.get("mode")):
            return func(*args, **kwargs)
        x, pad = args[0], list(args[1] if len(args) > 1 else kwargs["pad"])
        if min(pad) < 0:
            return func(*args, **kwargs)
        for place in range(0, len(pad), 2):
            axis = x.dim() - 1 - place // 2
            before = x.narrow(axis, x.shape[axis] - pad[place], pad[place])
            x = torch.cat([before, x, x.narrow(axis, 0, pad[place + 1])], axis)
        return x


@contextmanager
def _plain() -> Iterator[None]:
    """Without torch's own fused forms of whole layers, which are not made of other calls."""
    fast = torch.backends.mha.get_fastpath_enabled()
    one_dnn = torch.backends.mkldnn.set_flags(False, _fp32_precision=None)[0]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.set_flags(one_dnn, _fp32_precision=None)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two constants are one, but for the order of sums."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    view = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return view or torch.allclose(a, b, equal_nan=True)


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _batch_norm(args: Any) -> tuple[str, Any]:
    """Batch normalisation as the function that it is in evaluation."""
    x, weight, bias, mean, variance, training, momentum, eps = args
    if not training:
        name = "aten._native_batch_norm_legit_no_training.default"
        return name, (x, weight, bias, mean, variance, momentum, eps)
    if mean is not None or variance is not None:
        raise ValueError("it updates running statistics in evaluation")
    return "aten._native_batch_norm_legit.no_stats", (x, weight, bias, True, momentum, eps)


def _calls_of(argument: Any) -> Iterator[int]:
    """The calls that an argument refers to."""
    if isinstance(argument, _Ref):
        if argument.kind != "input":
            yield argument.place if argument.kind == "call" else argument.place[0]
    elif isinstance(argument, list | tuple):
        for item in argument:
            yield from _calls_of(item)
    elif isinstance(argument, dict):
        yield from _calls_of(list(argument.values()))


def _renumbered(argument: Any, number: Mapping[int, int]) -> Any:
    if isinstance(argument, _Ref):
        if argument.kind == "call":
            return _Ref("call", number[argument.place])
        if argument.kind == "part":
            return _Ref("part", [number[argument.place[0]], argument.place[1]])
        return argument
    if isinstance(argument, list | tuple):
        return [_renumbered(item, number) for item in argument]
    if isinstance(argument, dict):
        return {k: _renumbered(v, number) for k, v in argument.items()}
    return argument


def _joined(
    programs: Sequence[tuple[list[_Item], _Ref]], sizes: Sequence[int], tensors: dict[str, Tensor]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One program for any batch size from two for one each; adds the constants to ``tensors``."""
    (items, end), (others, other_end) = programs
    if [item.op for item in items] != [item.op for item in others] or end != other_end:
        raise ValueError(BRANCHES)
    first: list[dict[str, Any]] = []  # what makes constants of the batch size
    names: dict[int, Any] = {}
    size, larger = sizes

    def constant(a: Tensor, b: Tensor) -> Any:
        key = id(a)
        if key in names:
            return names[key]
        name = f"t{len(tensors)}"
        shape = None
        if a.shape != b.shape:
            shape = [number(x, y) for x, y in zip(a.shape, b.shape, strict=False)]
            odd = [axis for axis, x in enumerate(shape) if isinstance(x, dict)]
            if a.dim() != b.dim() or len(odd) != 1:
                raise ValueError("it makes a tensor of a shape that follows the batch size")
            one, other = (x.narrow(odd[0], 0, 1) for x in (a, b))
            if not _same(a, one.expand_as(a)) or not _same(b, other.expand_as(b)):
                raise ValueError(MIXED)
            a, b = one, other
        if not _same(a, b):
            raise ValueError(BRANCHES)
        tensors[name] = a.detach().float().cpu().contiguous().clone()
        made: Any = {"tensor": name}
        if a.dtype != torch.float32:
            if a.dtype not in DTYPES.values() or not torch.equal(tensors[name].to(a), a):
                raise ValueError(f"it computes with a tensor of {a.dtype}, not exact in float32")
            kind = next(word for word, dtype in DTYPES.items() if dtype == a.dtype)
            first.append(
                {
                    "op": "aten._to_copy.default",
                    "args": [made],
                    "kwargs": {"dtype": {"dtype": kind}},
                }
            )
            made = {"call": len(first) - 1}
        if shape is not None:
            first.append({"op": "aten.expand.default", "args": [made, shape], "kwargs": {}})
            made = {"call": len(first) - 1}
        names[key] = made
        return made

    def number(a: int, b: int) -> Any:
        if a == b:
            return a
        if a % size == 0 and a // size * larger == b and a > 0:
            return {"batch": a // size}
        raise ValueError("it does something else for each batch size")

    def merge(a: Any, b: Any) -> Any:
        if type(a) is not type(b):
            raise ValueError(BRANCHES)
        if isinstance(a, _Ref):
            if a != b:
                raise ValueError(BRANCHES)
            return a
        if isinstance(a, Tensor):
            return constant(a, b)
        if isinstance(a, list | tuple):
            if len(a) != len(b):
                raise ValueError(BRANCHES)
            return [merge(x, y) for x, y in zip(a, b, strict=True)]
        if isinstance(a, dict):
            return {k: merge(v, b[k]) for k, v in a.items()}
        if isinstance(a, bool | str) or a is None:
            if a != b:
                raise ValueError(BRANCHES)
            return a
        if isinstance(a, int):
            return number(a, b)
        if isinstance(a, float) and not isnan(a) and a == b:
            return a if abs(a) < inf else {"number": "inf" if a > 0 else "-inf"}
        if isinstance(a, torch.dtype) and a == b:
            word = "value" if a == torch.float32 else None
            word = word or next((w for w, dtype in DTYPES.items() if dtype == a), None)
            if word is not None:
                return {"dtype": word}
        raise ValueError(f"it calls torch with {a}, which a graph does not hold")

    merged = [
        {"op": a.op, "args": merge(a.args, b.args), "kwargs": merge(a.kwargs, b.kwargs)}
        for a, b in zip(items, others, strict=True)
    ]
    shift = len(first)

    def plain(argument: Any) -> Any:
        if isinstance(argument, _Ref):
            if argument.kind == "part":
                return {"part": [argument.place[0] + shift, argument.place[1]]}
            return {argument.kind: argument.place + (shift if argument.kind == "call" else 0)}
        if isinstance(argument, list):
            return [plain(item) for item in argument]
        if isinstance(argument, dict):
            return {key: plain(item) for key, item in argument.items()}
        return argument

    return [*first, *(plain(call) for call in merged)], plain(end)
