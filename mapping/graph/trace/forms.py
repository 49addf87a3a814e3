"""How people write loops over steps: the functions of torch that need no node of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from has8.errors import TraceError
from mapping.graph.ir import Kind
from mapping.graph.ops import OPS, Op, op_of
from mapping.graph.ops.one_to_one import OneToOne
from mapping.graph.trace.values import (
    ZEROS,
    Folded,
    Made,
    One,
    Stacked,
    Step,
    Sum,
    Value,
    Values,
    Whole,
)
from mapping.graph.trace.watch import Seen

SAME = frozenset(
    {
        "detach",
        "clone",
        "contiguous",
        "float",
        "to",
        "type",
        "type_as",
        "cpu",
        "requires_grad_",
        "data",
    }
    | {"alias", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
    | {"feature_dropout", "feature_alpha_dropout", "dropout_"}
)
"""Functions and properties that give the same values again, in evaluation mode."""
SPIKES_STAY = frozenset({"relu", "relu_", "abs", "absolute", "clamp", "clamp_", "clip", "relu6"})
"""Functions that change no spike of 0 or 1, if their result is equal."""
VALUE_FREE = frozenset(
    {"zeros_like", "empty_like", "ones_like", "full_like", "new_zeros", "new_empty", "new_ones"}
    | {"new_full", "new_tensor"}
)
"""Functions that take only the shape of a tensor."""
ASKS = frozenset({"item", "tolist", "__bool__", "__int__", "__float__", "__index__"})
"""Functions that tell Python a tensor's values."""
POOLS: dict[str, type[nn.Module]] = {
    "max_pool1d": nn.MaxPool1d,
    "max_pool2d": nn.MaxPool2d,
    "avg_pool1d": nn.AvgPool1d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool1d": nn.AdaptiveAvgPool1d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
}
"""Functions that take what the module of that kind is made with."""
WEIGHTED: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "linear": (nn.Linear, ("weight", "bias")),
    "matmul": (nn.Linear, ("other",)),
    "__matmul__": (nn.Linear, ("other",)),
    "mm": (nn.Linear, ("mat2",)),
    "conv1d": (nn.Conv1d, ("weight", "bias", "stride", "padding", "dilation", "groups")),
    "conv2d": (nn.Conv2d, ("weight", "bias", "stride", "padding", "dilation", "groups")),
}
"""Functions that do with given weights what a module does with its own, and what they take behind
their input; a product's weights are a module's turned round."""
ADDITIONS = {"add": 1, "add_": 1, "__radd__": 1, "__iadd__": 1, "sub": -1, "sub_": -1}
ADDITIONS |= {"subtract": -1, "__isub__": -1}
"""Sums and differences, with the sign of the second operand."""
PRODUCTS = frozenset({"mul", "mul_", "multiply", "__rmul__", "__imul__"})
MOVES = frozenset({"transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis"})
"""Functions that put axes into other places."""
QUOTIENTS = frozenset({"div", "div_", "divide", "true_divide", "__itruediv__"})
NEGATIONS = frozenset({"neg", "neg_", "negative", "negative_", "__neg__"})


class Unknown(ValueError):
    """A layer or its input is not as its kind of node is."""


class Run(Protocol):
    """What a form needs to know of a run."""

    known: Values
    batch: int

    def set(self, tensor: Tensor, value: Value) -> None:
        """Note what a tensor is from now on."""

    def get(self, tensor: Any, user: str) -> Value | None:
        """What a tensor is."""

    def latest(self, tensor: Tensor) -> Value | None:
        """What a tensor was when it was last noted."""

    def entering(self, tensor: Any, user: str) -> Value | None:
        """What a tensor is where a layer takes it."""

    def steps_on(self, value: Value, axis: int, place: int | None = None) -> Made | None:
        """The node of what lies along an axis of samples, if that may be an axis of steps."""

    def applied(
        self,
        name: str,
        user: str,
        op: Op,
        module: nn.Module | None,
        given: Sequence[Value],
        result: Tensor,
        own: Sequence[Tensor] = (),
    ) -> Value:
        """What a kind of node makes of values, with tensors of its own."""


def assigned(run: Run, seen: Seen) -> None:
    """``record[step] = spikes`` puts a part into a record of zeros."""
    target, index, part = seen.args
    value = run.get(part, seen.user)
    own = isinstance(part, Tensor) and part._base is target  # record[step] += spikes
    before = run.latest(target) if own else run.entering(target, seen.user)
    if isinstance(before, Whole) and before.made is ZEROS:
        before = None
    whole = index is Ellipsis or (isinstance(index, slice) and index == slice(None))
    if whole and value is not None and part.shape == target.shape:  # total[:] = total + spikes
        seen.func(*seen.args, **seen.kwargs)
        run.set(target, value)
        return
    axis, place = _place(index, target.dim())
    right = isinstance(part, Tensor) and part.dim() == target.dim() - 1
    fresh = before is None and (own or not bool(target.any()))
    follows = right and (fresh or isinstance(before, Stacked))
    if not isinstance(place, int) or value is None or not follows:
        raise TraceError(
            f"{seen.user} writes a part of a tensor, which is followed only in a record of zeros "
            f"into which whole steps are written (record[step] = spikes): use a list and "
            f"torch.stack"
        )
    parts: list[Value] = [Whole(ZEROS)] * target.shape[axis]
    if isinstance(before, Stacked):
        if before.axis != axis:
            raise TraceError(f"{seen.user} writes along two axes: write whole steps along one")
        parts = list(before.parts)
    parts[place] = value
    seen.func(*seen.args, **seen.kwargs)
    run.set(target, Stacked(tuple(parts), axis))


def form(run: Run, seen: Seen, values: Sequence[Value | None], result: Any) -> bool:
    """Note what a function gives, if it needs no node of torch's calls.

    Args:
        run: that is followed.
        seen: the call.
        values: of each argument, those in lists one by one, what it was before the call.
        result: what it gave.
    """
    name, first = seen.short, values[0]
    if any(map(_deferred, values)):
        return False
    if name in ADDITIONS or name == "__rsub__":
        return _added(run, seen, values, result) or _shifted(run, seen, values, result)
    if name in ("stack", "cat", "concat", "concatenate"):
        return _joined(run, seen, values, result)
    if name in PRODUCTS or name in QUOTIENTS:
        return _multiplied(run, seen, values, result)
    if first is None:
        return False
    if name in NEGATIONS:
        run.set(result, run.known.added([first], [-1]))
        return True
    drawn = isinstance(first, Step) and first.made.op == "bernoulli"  # 0 and 1 as False and True
    real = seen.args[0].dtype == torch.float32 or drawn
    if name in SAME and real and result.dtype == torch.float32:
        if name.startswith(("dropout", "alpha", "feature")) and not torch.equal(
            seen.args[0], result
        ):
            raise TraceError(f"{seen.user} drops values in evaluation: pass self.training")
        run.set(result, first)
        return True
    for rule in (_part, _moved, _over_space, _over_steps, _repeats, _shaped, _layer, _weighted):
        if rule(run, seen, first, result):
            return True
    return False


def _deferred(value: Value | None) -> bool:
    """Whether no node can give a value, so that torch's calls are followed until one can."""
    made = value.made if isinstance(value, Whole | Step) else None
    return made is not None and made.call is not None and made.call.deferred


def _added(run: Run, seen: Seen, values: Sequence[Value | None], result: Tensor) -> bool:
    """A sum or difference of two; zeros add nothing."""
    kept: list[Value | None] = []
    if seen.short not in ADDITIONS:
        return False
    for given, value in zip(seen.args[:2], values[:2], strict=False):
        if value is None and isinstance(given, Tensor):
            return False
        if value is None and given != 0:
            return False
        shaped = isinstance(given, Tensor) and given.shape != result.shape
        if shaped and value != Whole(ZEROS):
            return False
        kept.append(value)
    if len(kept) != 2 or seen.kwargs or not any(kept):
        return False
    run.set(result, run.known.added(kept, [1, ADDITIONS[seen.short]]))
    return True


def _shifted(run: Run, seen: Seen, values: Sequence[Value | None], result: Tensor) -> bool:
    """What has steps and a number for each channel, the same in all steps."""
    if len(seen.args) != 2 or seen.kwargs or (values[0] is None) == (values[1] is None):
        return False
    place = 0 if values[1] is None else 1
    value, given, other = values[place], seen.args[place], torch.as_tensor(seen.args[1 - place])
    turned = seen.short == "__rsub__"  # its second operand comes first
    sign = -1 if turned else ADDITIONS[seen.short]
    factor, added = (1, sign) if (place == 0) != turned else (sign, 1)
    own = other[0] if other.dim() == given.dim() and len(other) == 1 else other
    timed = isinstance(value, Step | Sum | Folded) and given.dim() > own.dim()
    if value is None or not timed or result.shape != given.shape or result.dtype != torch.float32:
        return False
    bias = own.detach().cpu().float() * added
    try:
        each = OneToOne(torch.tensor(float(factor)), bias).over(tuple(result.shape[1:]))
        made = run.applied(seen.name, seen.user, OPS["one_to_one"], each, [value], result)
    except ValueError:  # of each neuron, or of what steps do not have
        return False
    run.set(result, made)
    return True


def _multiplied(run: Run, seen: Seen, values: Sequence[Value | None], result: Tensor) -> bool:
    """A value times a number, or what has steps times a number for each channel."""
    if len(seen.args) != 2 or seen.kwargs or (values[0] is None) == (values[1] is None):
        return False
    place = 0 if values[1] is None else 1
    value, given, other = values[place], seen.args[place], seen.args[1 - place]
    over = seen.short in QUOTIENTS
    if value is None or (over and place):
        return False
    if not isinstance(other, Tensor) or (other.numel() == 1 and other.dim() <= 1):
        if not isinstance(other, int | float | Tensor) or (over and not other):
            return False
        run.set(result, run.known.added([value], [1 / float(other) if over else float(other)]))
        return True
    own = other[0] if other.dim() == given.dim() and len(other) == 1 else other
    timed = isinstance(value, Step | Sum | Folded) and given.dim() > own.dim()
    if not timed or result.shape != given.shape or own.dtype != torch.float32:
        return False
    weight = own.detach().cpu()
    try:
        each = OneToOne(1 / weight if over else weight).over(tuple(result.shape[1:]))
        made = run.applied(seen.name, seen.user, OPS["one_to_one"], each, [value], result)
    except ValueError:  # of each neuron, or of what steps do not have
        return False
    run.set(result, made)
    return True


def _joined(run: Run, seen: Seen, values: Sequence[Value | None], result: Tensor) -> bool:
    """Values along an axis: steps that are stacked, or spikes of several layers."""
    several = seen.args[0] if seen.args else seen.kwargs["tensors"]
    axis = seen.args[1] if len(seen.args) > 1 else seen.kwargs.get("dim", 0)
    parts = [value for value in values[: len(several)] if value is not None]
    if len(parts) != len(several) or not isinstance(axis, int):
        return False
    axis %= result.dim()
    if seen.short == "stack":
        run.set(result, Stacked(tuple(parts), axis))
        return True
    if all(isinstance(part, Stacked) and part.axis == axis for part in parts):
        every = tuple(p for part in parts if isinstance(part, Stacked) for p in part.parts)
        run.set(result, Stacked(every, axis))
        return True
    if axis == 1 and not any(isinstance(part, Stacked) for part in parts):
        try:
            run.set(result, run.applied(seen.name, seen.user, OPS["concat"], None, parts, result))
        except Unknown:
            return False
        return True
    return False


def _part(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """One or some of the steps."""
    if seen.short in ("unbind", "__iter__") and not isinstance(result, Tensor):
        axis = _axis_of(seen, 0)
        parts = [_at(run, seen, value, axis, place) for place in range(len(result))]
        for tensor, part in zip(result, parts, strict=True):
            if part is not None:
                run.set(tensor, part)
        return all(part is not None for part in parts)
    if seen.short == "select":
        axis, place = _axis_of(seen, 0), seen.args[-1]
    elif seen.short == "__getitem__":
        axis, place = _place(seen.args[1], seen.args[0].dim())
    else:
        return False
    if isinstance(place, slice):
        several = _steps_of(value)
        if several is not None and several.axis == axis:
            some = Stacked(several.parts[place], axis)
            run.set(result, run.known.one(some, seen.user) if several is not value else some)
            return True
        one = several is None and result.shape == (seen.args[0].shape[0], 1)  # x[:, t : t + 1]
        at = range(seen.args[0].shape[axis])[place]
        made = run.steps_on(value, axis, at[0]) if one else None
        if made is not None:
            run.set(result, Step(made, at[0]))
        return made is not None
    if isinstance(place, int):
        part = _at(run, seen, value, axis, place)
        if part is not None:
            run.set(result, part)
            return True
    return False


def _at(run: Run, seen: Seen, value: Value, axis: int, place: int) -> Value | None:
    """What lies at a place on an axis, if that is the axis of steps."""
    several = _steps_of(value)
    if several is None:
        made = run.steps_on(value, axis, place)
        return None if made is None else Step(made, place % seen.args[0].shape[axis])
    if axis == (1 if several.axis == 0 else 0):
        raise TraceError(
            f"{seen.user} takes single samples of a batch: axis {axis} is that of the samples"
        )
    return several.parts[place] if axis == several.axis else None


def _steps_of(value: Value) -> Stacked | None:
    """All steps one by one; None for what has no axis of steps."""
    if isinstance(value, Whole) and value.steps is not None:
        return Stacked(tuple(Step(value.made, step) for step in range(value.steps)), 0)
    return value if isinstance(value, Stacked) else None


def _moved(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """The axis of steps in another place; the other axes stay in their order."""
    if seen.short not in MOVES or not isinstance(result, Tensor):
        return False
    axes = result.dim()
    marked = torch.empty_strided((2,) * axes, tuple(range(1, axes + 1)), device="meta")
    order = [stride - 1 for stride in seen.func(marked, *seen.args[1:], **seen.kwargs).stride()]
    several = _steps_of(value)
    axis = order[0] if several is None else several.axis
    others = [place for place in order if place != axis]
    if others != sorted(others):
        return False
    if several is not None:
        run.set(result, Stacked(several.parts, order.index(axis)))
        return True
    made = run.steps_on(value, axis)
    if made is not None:
        run.set(result, Whole(made, len(result)))
    return made is not None


def _over_space(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """Sums and means over all that channels have in a step, ``x.mean((2, 3))``."""
    if seen.short not in ("sum", "mean") or not isinstance(value, Step | Folded):
        return False
    options: dict[str, Any] = {"dim": None, "keepdim": False}
    options |= dict(zip(options, seen.args[1:], strict=False)) | seen.kwargs
    given, axes = seen.args[0], options["dim"]
    axes = [axes] if isinstance(axes, int) else axes
    if len(options) > 2 or not isinstance(axes, list | tuple) or given.dim() not in (3, 4):
        return False
    if sorted(axis % given.dim() for axis in axes) != list(range(2, given.dim())):
        return False
    pool = nn.AdaptiveAvgPool1d(1) if given.dim() == 3 else nn.AdaptiveAvgPool2d(1)
    single = result.reshape(*given.shape[:2], *(1,) * (given.dim() - 2))
    try:
        op = OPS["global_avgpool"]
        made = run.applied(seen.name, seen.user, op, pool, [value], single)
        if not options["keepdim"]:
            made = run.applied(seen.name, seen.user, OPS["flatten"], None, [made], result)
    except Unknown:
        return False
    factor = 1.0 if seen.short == "mean" else float(prod(given.shape[2:]))
    run.set(result, run.known.added([made], [factor]))
    return True


def _over_steps(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """Sums, means and maxima over the steps."""
    if seen.short not in ("sum", "mean", "max", "amax"):
        return False
    rest, options = seen.args[1:], dict(seen.kwargs)
    axis = options.pop("dim", rest[0] if rest else None)
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    if options or len(rest) > 1 or not isinstance(axis, int) or isinstance(axis, bool):
        return False
    axis %= seen.args[0].dim()
    largest = seen.short in ("max", "amax")
    if isinstance(value, Stacked) and value.axis == axis and not largest:
        factor = 1 / len(value.parts) if seen.short == "mean" else 1.0
        run.set(result, run.known.added(value.parts, [factor] * len(value.parts)))
        return True
    if isinstance(value, Stacked) and value.axis == axis:
        value = run.known.one(replace(value, axis=0), seen.user)
        axis = 0
    if not isinstance(value, Whole) or value.steps is None or axis != 0:
        return False
    if largest:
        result = result if seen.short == "amax" else result.values
        made = run.known.made(
            "largest", "largest", None, ((value.made, 0),), shape=value.made.shape,
            timed=False, whole=True,
        )  # fmt: skip
        run.set(result, Whole(made))
        return True
    part = 1 / value.steps if seen.short == "mean" else 1.0
    taps = dict.fromkeys(range(value.steps), part)
    run.set(result, Whole(run.known.decoder(value.made, taps)))
    return True


def _repeats(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """An axis of steps in front, and the same values in each of them."""
    if seen.short == "unsqueeze":
        axis = seen.args[1] if len(seen.args) > 1 else seen.kwargs.get("dim")
        if not isinstance(axis, int) or isinstance(value, Stacked):
            return False
        if isinstance(value, Whole) and value.steps is not None:
            return False
        if axis in (0, 1):
            run.set(result, Stacked((value,), axis))
            return True
    anew = seen.short in ("repeat", "expand") and tuple(result.shape[1:]) == seen.args[0].shape
    if anew and not isinstance(value, Stacked):
        if isinstance(value, Whole) and value.steps is not None:
            return False
        run.set(result, Stacked((value,) * len(result), 0))
        return True
    if seen.short in ("repeat", "expand") and isinstance(value, Stacked) and len(value.parts) == 1:
        before = tuple(seen.args[0].shape)
        after = tuple(result.shape)
        if value.axis == 0 and after[1:] == before[1:]:
            run.set(result, Stacked(value.parts * after[0], 0))
            return True
    if seen.short == "squeeze" and isinstance(value, Stacked) and len(value.parts) == 1:
        axis = seen.args[1] if len(seen.args) > 1 else seen.kwargs.get("dim")
        if axis == value.axis:
            run.set(result, value.parts[0])
            return True
    return False


def unstacked(run: Run, seen: Seen, value: Value, tensor: Tensor) -> Value:
    """What a layer takes: an axis of one behind that of the samples is no axis of steps."""
    lone = isinstance(value, Stacked) and value.axis == 1 and len(value.parts) == 1
    if not isinstance(value, Stacked) or not lone or len(tensor) != run.batch:
        return value
    module = nn.Unflatten(1, tuple(tensor.shape[1:]))
    return run.applied(seen.name, seen.user, OPS["reshape"], module, value.parts, tensor)


def _shaped(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """Another shape of the same numbers in the same order."""
    if seen.short not in ("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten"):
        return False
    value = unstacked(run, seen, value, seen.args[0])
    before = tuple(seen.args[0].shape)
    if tuple(result.shape) == before:
        run.set(result, value)
        return True
    return _folded(run, seen, value, result) or _behind(run, seen, value, result)


def _behind(run: Run, seen: Seen, value: Value, result: Tensor) -> bool:
    """Another shape of what is behind the axes of the samples and of the steps."""
    before, after = tuple(seen.args[0].shape), tuple(result.shape)
    several = _steps_of(value)
    axes = 1 if several is None else 2
    if after[:axes] != before[:axes] or len(after) == axes or (several and several.axis > 1):
        return False
    rows = result
    if several is not None:
        value = run.known.one(Stacked(several.parts, 0), seen.user)
        rows = result.movedim(several.axis, 0)
    try:
        made = _reshaped(run, seen, value, rows, before[axes:], after[axes:])
    except Unknown:
        return False
    run.set(
        result, made if several is None else _unfolded(made.made, len(several.parts), several.axis)
    )
    return True


def _reshaped(
    run: Run,
    seen: Seen,
    value: Value,
    result: Tensor,
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> One:
    """The elements of each sample in another shape."""
    if before == after:
        return run.known.one(value, seen.user)
    flat = after == (prod(before),)
    op, module = (OPS["flatten"], None) if flat else (OPS["reshape"], nn.Unflatten(1, after))
    made = run.applied(seen.name, seen.user, op, module, [value], result)
    return run.known.one(made, seen.user)


def _folded(run: Run, seen: Seen, value: Value, result: Tensor) -> bool:
    """Steps and samples on one axis, or on two again, in whatever shape."""
    before, after = tuple(seen.args[0].shape), tuple(result.shape)
    try:
        if len(before) > 1 and after[:1] == (prod(before[:2]),) and len(after) > 1:
            fold = _fold(run, seen, value)
            if fold is None:
                return False
            run.set(result, _reshaped(run, seen, fold, result, before[2:], after[1:]))
            return True
        one = value if isinstance(value, Stacked) else run.known.one(value, seen.user)
        if not isinstance(one, Folded) or len(after) < 3:
            return False
        sides = (one.steps, before[0] // one.steps)
        if after[:2] != (sides if one.axis == 0 else sides[::-1]):
            return False
        made = _reshaped(run, seen, one, result.flatten(0, 1), before[1:], after[2:]).made
    except Unknown:
        return False
    run.set(result, _unfolded(made, one.steps, one.axis))
    return True


def _unfolded(made: Made, steps: int, axis: int) -> Value:
    """All steps of a node, on the first axis or on the one behind the samples."""
    parts = tuple(Step(made, step) for step in range(steps))
    return Stacked(parts, axis) if axis else Whole(made, steps)


def _fold(run: Run, seen: Seen, value: Value) -> Folded | None:
    """Steps and samples on one axis, of values that have them on the first two."""
    several = _steps_of(value)
    if several is None:
        steps = seen.args[0].shape[1]
        made = run.steps_on(value, 1) if steps > 1 else None
        return None if made is None else Folded(made, steps, 1)
    if several.axis > 1:
        return None
    one = run.known.one(Stacked(several.parts, 0), seen.user)
    return Folded(one.made, len(several.parts), several.axis)


def _layer(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """A function that is a kind of node."""
    if seen.short in SPIKES_STAY:
        one = run.known.one(value, seen.user)
        if one.made.kind is Kind.SPIKE and torch.equal(seen.args[0], result):
            run.set(result, one)
            return True
    if seen.short in ("relu", "relu_"):
        return _known(run, seen, OPS["relu"], None, value, result)
    if seen.short in POOLS and isinstance(result, Tensor):
        options = {k: v for k, v in seen.kwargs.items() if k != "input"}
        module = POOLS[seen.short](*seen.args[1:], **options)
        op = op_of(module)
        return op is not None and _known(run, seen, op, module, value, result)
    return False


def _weighted(run: Run, seen: Seen, value: Value, result: Any) -> bool:
    """What a layer does, with weights that no layer has."""
    if seen.short not in WEIGHTED or "input" in seen.kwargs:
        return False
    kind, names = WEIGHTED[seen.short]
    options = {**dict(zip(names, seen.args[1:], strict=False)), **seen.kwargs}
    weight, bias = options.pop(names[0]), options.pop("bias", None)
    own = [weight] if bias is None else [weight, bias]
    if any(run.get(x, seen.user) is not None for x in own) or weight.dim() < 2:
        return False
    if names[0] != "weight":
        weight = weight.transpose(-2, -1)
    outputs, inputs, *kernel = weight.shape
    sizes = (inputs * options.get("groups", 1), outputs, *([tuple(kernel)] if kernel else ()))
    if kind is nn.Linear and kernel:
        return False
    module = kind(*sizes, bias=bias is not None, device="meta", **options)
    module.weight = nn.Parameter(weight.detach(), False)
    if bias is not None:
        module.bias = nn.Parameter(bias.detach(), False)
    op, value = op_of(module), unstacked(run, seen, value, seen.args[0])
    return op is not None and _known(run, seen, op, module, value, result, own)


def _known(
    run: Run,
    seen: Seen,
    op: Op,
    module: nn.Module | None,
    value: Value,
    result: Tensor,
    own: Sequence[Tensor] = (),
) -> bool:
    try:
        made = run.applied(seen.name, seen.user, op, module, [value], result, own)
        run.set(result, made)
    except Unknown:
        return False
    return True


def _axis_of(seen: Seen, default: int) -> int:
    """The axis that a function is told."""
    axis = seen.args[1] if len(seen.args) > 1 else seen.kwargs.get("dim", default)
    axes: int = seen.args[0].dim()
    return int(axis) % axes


def _place(index: Any, axes: int) -> tuple[int, int | slice | None]:
    """The axis and the place, or the places, that an index names, if it names one axis."""
    entries = index if isinstance(index, tuple) else (index,)
    if Ellipsis in [e for e in entries if e is Ellipsis]:
        gap = entries.index(Ellipsis)
        full = (slice(None),) * (axes - len(entries) + 1)
        entries = (*entries[:gap], *full, *entries[gap + 1 :])
    places: list[tuple[int, int | slice]] = []
    for axis, entry in enumerate(entries):
        if isinstance(entry, slice):
            places += [] if entry == slice(None) else [(axis, entry)]
        elif (isinstance(entry, int) and not isinstance(entry, bool)) or (
            isinstance(entry, Tensor) and entry.numel() == 1 and entry.dtype == torch.int64
        ):
            places.append((axis, int(entry)))
        else:
            return 0, None
    return places[0] if len(places) == 1 else (0, None)
