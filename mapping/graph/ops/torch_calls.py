"""Whatever torch can run and no other file describes: a few of its calls, which stay on the host.

A node holds them as plain data, so a file with such a node runs nobody's code. A call names an
operation that :data:`ALLOWED` lists: a pure function of tensors, which draws no random numbers,
reads no files and makes no tensor of a size that its inputs do not have.

Arguments are numbers, words, lists and references: ``{"input": 0}``, ``{"tensor": name}``,
``{"call": 3}``, ``{"part": [3, 0]}`` (of a call with several results), ``{"batch": 2}`` (twice the
batch size), ``{"dtype": "int64"}`` ("value" is that of the inputs), ``{"number": "-inf"}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import inf, prod
from typing import Any

import msgspec
import torch
from torch import Tensor

from mapping.graph.ir import Kind, Node, Signal
from mapping.graph.ops.op import Attrs, Op

_ALLOWED = """
    abs acos acosh add addcdiv addcmul addmm amax amin any argmax argmin asin asinh atan atan2 atanh
    baddbmm bitwise_and bitwise_not bitwise_or bitwise_xor bmm cat ceil celu channel_shuffle
    clamp clamp_max clamp_min clone constant_pad_nd convolution cos cosh cumsum diagonal div
    elu eq erf exp exp2 expand expm1 flip floor floor_divide fmod frac gather ge gelu glu
    grid_sampler_2d gt hardshrink
    hardsigmoid hardswish hardtanh im2col index index_select isinf isnan le leaky_relu lerp
    linalg_vector_norm log log10 log1p log2 log_sigmoid_forward logical_and logical_not logical_or
    logical_xor logit logsumexp lt masked_fill max max_pool2d_with_indices
    max_pool3d_with_indices maximum mean min minimum mish mm mul native_channel_shuffle
    native_group_norm native_layer_norm ne neg norm permute pixel_shuffle pixel_unshuffle pow
    prod reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat
    replication_pad1d replication_pad2d reshape roll round rsqrt rsub scatter select
    select_scatter selu sgn sigmoid sign silu sin sinh slice slice_scatter softplus softshrink sort
    split split_with_sizes sqrt square squeeze stack std sub sum t tan tanh threshold topk
    transpose tril triu trunc unbind unfold unsafe_split unsqueeze upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var var_mean where
    adaptive_max_pool2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    _adaptive_avg_pool2d _adaptive_avg_pool3d _fused_rms_norm _log_softmax
    _native_batch_norm_legit_no_training _prelu_kernel _safe_softmax _softmax _to_copy
"""

ALLOWED = frozenset({*_ALLOWED.split(), "_native_batch_norm_legit.no_stats"})
"""Operations of torch's namespace "aten", with all overloads that write to no tensor, or with one
(the others of ``_native_batch_norm_legit`` change running statistics)."""

PARTS = frozenset({"split", "split_with_sizes", "unbind", "unsafe_split"})
"""Those that give as many tensors as an axis is long."""

DTYPES = {"bool": torch.bool, "int32": torch.int32, "int64": torch.int64, "float64": torch.float64}
"""Types between calls, beside that of the inputs; words that arguments may name."""

KEYWORDS = frozenset({"device", "layout", "memory_format", "pin_memory", "generator", "names"})
"""Arguments that say where and how a tensor lies, never what it holds: calls have none."""

MOST_ELEMENTS = 2**28
"""Elements of all results together for one sample: 1 GiB."""
MOST_PARTS = 65_536

_NAME = re.compile(r"aten\.([a-z_0-9]+)\.([A-Za-z_0-9]+)")


class Call(Attrs, frozen=True):
    """One call of an operation, such as "aten.add.Tensor"; see the file's head for arguments."""

    op: str
    args: list[Any]
    kwargs: dict[str, Any]


class Calls(Attrs, frozen=True):
    """Attributes of a node of torch's calls.

    Args:
        timed: of each input, whether it has a time axis.
        merged: whether the calls see ``[T * B, ...]``, each step alone; else ``[T, B, ...]``.
        calls: in their order.
        result: a reference to what the node gives.
    """

    timed: tuple[bool, ...]
    merged: bool
    calls: list[Call]
    result: dict[str, Any]

    def __post_init__(self) -> None:
        """Check what single ranges cannot."""
        if not self.timed:
            raise ValueError("calls of torch need an input")
        if self.merged and not all(self.timed):
            raise ValueError("merged inputs need a time axis")


Watch = Callable[[str, Sequence[Any], Any], None]
"""Called after each call, with its operation's name, its arguments and its result."""


def overload(name: str) -> Callable[..., Any]:
    """The operation that a call names.

    Raises:
        ValueError: if it is none that calls may name.
    """
    match = _NAME.fullmatch(name)
    if match is None or not {match[1], f"{match[1]}.{match[2]}"} & ALLOWED:
        raise ValueError(f"{name!r} is no operation that a graph may hold")
    packet = getattr(torch.ops.aten, match[1])
    if match[2] not in packet.overloads():
        raise ValueError(f"torch has no operation {name!r}")
    found = getattr(packet, match[2])
    if found._schema.is_mutable or torch.Tag.nondeterministic_seeded in found.tags:
        raise ValueError(f"{name!r} is no pure function")
    chosen: Callable[..., Any] = found
    return chosen


def execute(
    attrs: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    batch: int,
    watch: Watch | None = None,
) -> Tensor:
    """Run the calls.

    Args:
        attrs: of :class:`Calls`.
        tensors: the node's, in the dtype and on the device of the inputs.
        inputs: as the calls see them.
        batch: the batch size, times T where steps are merged.
        watch: called after each call.

    Raises:
        ValueError: if a reference leads nowhere, or the result is no tensor.
    """
    results: list[Any] = []

    def held(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return [held(item) for item in argument]
        if not isinstance(argument, Mapping):
            return argument
        if len(argument) != 1:
            raise ValueError(f"{argument} is no reference")
        ((kind, which),) = argument.items()
        if kind == "tensor" and which in tensors:
            return tensors[which]
        if kind == "input" and _place(which, inputs):
            return inputs[which]
        if kind == "call" and _place(which, results):
            return results[which]
        if kind == "part" and isinstance(which, list) and len(which) == 2:
            call, part = which
            several = results[call] if _place(call, results) else None
            if isinstance(several, list | tuple) and _place(part, several):
                return several[part]
        if kind == "batch" and type(which) is int and 0 < which < 2**31:
            return which * batch
        if kind == "dtype" and isinstance(which, str) and which in (*DTYPES, "value"):
            return DTYPES.get(which, inputs[0].dtype)
        if kind == "number" and which in ("inf", "-inf"):
            return inf if which == "inf" else -inf
        raise ValueError(f"{argument} leads nowhere")

    for call in attrs["calls"]:
        name, operation = call["op"], overload(call["op"])
        if odd := KEYWORDS & call["kwargs"].keys():
            raise ValueError(f"a call of {name} must not say {sorted(odd)[0]!r}")
        args = held(call["args"])
        if name.split(".")[1] in PARTS and max(args[0].shape, default=0) > MOST_PARTS:
            raise ValueError(f"{name} would make more than {MOST_PARTS:,} tensors")
        results.append(operation(*args, **{k: held(v) for k, v in call["kwargs"].items()}))
        if watch is not None:
            watch(name, args, results[-1])
    result = held(attrs["result"])
    if not isinstance(result, Tensor):
        raise ValueError("its result is no tensor")
    return result.to(inputs[0].dtype)


def _place(which: Any, items: Sequence[Any]) -> bool:
    return type(which) is int and 0 <= which < len(items)


def infer(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> Signal:
    """Values of the shape that torch says, for any batch size; computes without data."""
    return _typed(attrs, tensors, inputs)[0]


def macs(node: Node, inputs: Sequence[Signal]) -> int:
    """Multiply-accumulates of one sample over all steps, padding included.

    Those of convolutions and products of matrices; other calls have none.
    """
    return _typed(node.attrs, node.tensors, tuple(inputs))[1]


def _typed(
    attrs: Mapping[str, Any], tensors: Mapping[str, Tensor], inputs: tuple[Signal, ...]
) -> tuple[Signal, int]:
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    return _checked(msgspec.json.encode(dict(attrs)), shapes, inputs)


@lru_cache(maxsize=4096)
def _checked(
    encoded: bytes, shapes: tuple[tuple[str, tuple[int, ...]], ...], inputs: tuple[Signal, ...]
) -> tuple[Signal, int]:
    """The type and the multiply-accumulates of calls; every pass asks for them again."""
    attrs = msgspec.json.decode(encoded)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes}
    if [signal.steps is not None for signal in inputs] != attrs["timed"]:
        raise ValueError("its inputs are not those that its calls take")
    steps = {signal.steps for signal in inputs if signal.steps is not None}
    if len(steps) > 1:
        raise ValueError("its inputs have different numbers of steps")
    time = steps.pop() if steps else None
    multiplied = _Macs()
    small = _shape(attrs, tensors, inputs, 2, multiplied)
    large = _shape(attrs, tensors, inputs, 3)
    for axis in (0, 1):
        expected = (*small[:axis], 3, *small[axis + 1 :])
        if len(small) > axis and small[axis] == 2 and large == expected:
            if axis and small[0] != time:
                break
            signal = Signal(small[axis + 1 :], Kind.VALUE, time if axis else None)
            return signal, multiplied.total // 2
    raise ValueError(
        "its result must keep the batch axis first (behind the steps, if any), with others behind"
    )


class _Macs:
    """Adds up what calls multiply."""

    def __init__(self) -> None:
        self.total = 0

    def __call__(self, name: str, args: Sequence[Any], result: Any) -> None:
        base = name.split(".")[1]
        if base == "convolution":
            x, weight, transposed = args[0], args[1], args[6]
            # each element of the output (of the input, if transposed) meets one whole kernel
            self.total += (x if transposed else result).numel() * prod(weight.shape[1:])
        elif base in ("mm", "bmm"):
            self.total += result.numel() * args[0].shape[-1]
        elif base in ("addmm", "baddbmm"):
            self.total += result.numel() * args[1].shape[-1]


def _shape(
    attrs: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    inputs: Sequence[Signal],
    batch: int,
    watch: Watch | None = None,
) -> tuple[int, ...]:
    """The shape of the result, ``(B, ...)`` or ``(T, B, ...)``, in one batch size.

    Raises:
        ValueError: if the calls do not fit their arguments or make too much.
    """
    steps = inputs[0].steps or 1 if attrs["merged"] else 1
    made = 0

    def count(name: str, args: Sequence[Any], result: Any) -> None:
        nonlocal made
        found = result if isinstance(result, list | tuple) else [result]
        made += sum(x.numel() for x in found if isinstance(x, Tensor))
        if made > MOST_ELEMENTS * batch * steps:
            raise ValueError(f"its calls make more than {MOST_ELEMENTS:,} numbers of one sample")
        if watch is not None:
            watch(name, args, result)

    empty = [
        torch.empty((*_lead(signal, batch, attrs["merged"]), *signal.shape), device="meta")
        for signal in inputs
    ]
    try:
        with torch.no_grad():
            shape = tuple(execute(attrs, tensors, empty, batch * steps, count).shape)
    except ValueError:
        raise
    except Exception as error:  # whatever torch makes of arguments that may be anything
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"its calls do not fit: {said[0]}") from error
    if not attrs["merged"]:
        return shape
    if not shape or shape[0] != steps * batch:
        raise ValueError("its result must keep the batch axis first, with others behind")
    return (steps, batch, *shape[1:])


def _lead(signal: Signal, batch: int, merged: bool) -> tuple[int, ...]:
    if signal.steps is None:
        return (batch,)
    return (signal.steps * batch,) if merged else (signal.steps, batch)


def run(node: Node, *inputs: Tensor) -> Tensor:
    """The calls on ``[B, ...]`` and ``[T, B, ...]``, as the node's inputs are."""
    attrs = node.attrs
    if not attrs["merged"]:
        batch = inputs[0].shape[1 if attrs["timed"][0] else 0]
        return execute(attrs, node.tensors, inputs, batch)
    merged = [x.flatten(0, 1) for x in inputs]
    result = execute(attrs, node.tensors, merged, len(merged[0]))
    split: Tensor = result.unflatten(0, (len(inputs[0]), -1))
    return split


def _lower(module: Any) -> Any:
    raise ValueError("calls are followed, not read off a module")


OPS = (
    Op(
        "torch",
        (),
        _lower,
        infer,
        run,
        sees_time=True,
        inputs=None,
        attrs=Calls,
        any_tensors=True,
        reason="has8 has no chip layer for it: torch runs it as it is",
        macs=macs,
    ),
)
