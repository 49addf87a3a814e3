"""Spikes that a forward makes of values: by chance, or by one of snnTorch's codes."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Protocol

import torch
from torch import Tensor

from has8.encoders.rate import draw_spikes, step_draws
from has8.errors import TraceError
from mapping.graph.ir import Kind
from mapping.graph.ops.coding import SPIKEGEN
from mapping.graph.trace.values import Folded, One, Step, Value, Values, Whole
from mapping.graph.trace.watch import CODES, Seen

RANDOM = frozenset({"rand", "rand_like", "randn", "randn_like", "randint", "randint_like"})
"""Functions that draw numbers."""
BY_CHANCE = (
    "{user} takes random numbers, which are others in every run: for spikes by chance write "
    "spikegen.rate(x, num_steps=T) in front of the loop, or use has8.encoders.RateEncoder(T), and "
    "the draws are the same in every simulator"
)
"""Why a network that draws its own numbers is refused."""


class Run(Protocol):
    """What a code needs to know of a run."""

    known: Values
    batch: int
    draws: int
    random: dict[int, tuple[Tensor, int | None]]
    """Random numbers, and the seed of those that the graph draws."""

    def set(self, tensor: Tensor, value: Value) -> None:
        """Note what a tensor is from now on."""


def drawn(run: Run, seen: Seen, value: Value) -> Tensor:
    """Spikes by chance: those that the graph draws, in the place of torch's."""
    p = seen.args[0]
    one = run.known.one(value, seen.user)
    steps = one.steps if isinstance(one, Whole) else None
    if steps is None and p.shape[0] == run.batch and len(seen.args) == 1 and not seen.kwargs:
        run.draws += 1
        result: Tensor = (step_draws(p.shape, run.draws - 1) < p).to(p.dtype)
        _in_step(run, seen, one, run.draws - 1, result)
        return result
    each = steps == 1 and run.draws > 0  # spikes of one step, in each step of a loop
    if steps is None or each or len(seen.args) > 1 or seen.kwargs:
        raise TraceError(
            f"{seen.user} draws spikes of one step, or of no known number: draw those of all "
            f"steps at once in front of the loop, with spikegen.rate(x, num_steps=T)"
        )
    result = draw_spikes(p, run.draws)
    made = run.known.made(
        "bernoulli", seen.name, run.draws, ((one.made, 0),), attrs={"seed": run.draws},
        shape=one.made.shape, kind=Kind.SPIKE, timed=True, whole=True,
    )  # fmt: skip
    run.draws += 1
    run.set(result, Whole(made, steps))
    return result


def uniform(run: Run, seen: Seen) -> Tensor:
    """Random numbers; those of one step are what the graph draws, in the place of torch's."""
    result: Tensor = seen.func(*seen.args, **seen.kwargs)
    seed = None
    if seen.short in ("rand", "rand_like"):
        seed, run.draws = run.draws, run.draws + 1
        if result.dim() < 2 or len(result) != run.batch or result.dtype != torch.float32:
            seed = None
        else:
            result = step_draws(result.shape, seed)
    run.random[id(result)] = result, seed
    return result


def compared(run: Run, seen: Seen, values: Sequence[Value | None]) -> Tensor:
    """Spikes of one step by hand, ``torch.rand_like(x) < x``.

    Raises:
        TraceError: for any other use of random numbers.
    """
    places = {"lt": 0, "__lt__": 0, "less": 0, "gt": 1, "__gt__": 1, "greater": 1}
    place = places.get(seen.short)
    if place is not None and len(seen.args) == 2 and values[1 - place] is not None:
        draws, p = seen.args[place], seen.args[1 - place]
        _, seed = run.random.get(id(draws), (None, None))
        one = run.known.one(values[1 - place], seen.user)  # type: ignore[arg-type]
        if seed is not None and draws.shape == p.shape and not isinstance(one, Folded):
            result: Tensor = draws < p
            _in_step(run, seen, one, seed, result)
            return result
    raise TraceError(BY_CHANCE.format(user=seen.user))


def _in_step(run: Run, seen: Seen, one: One, seed: int, result: Tensor) -> None:
    """Note that spikes of one step are drawn, with a seed of its own."""
    made = run.known.made(
        "bernoulli", seen.name, "each", ((one.made, None if isinstance(one, Whole) else 0),),
        attrs={"seeds": []}, shape=one.made.shape, kind=Kind.SPIKE, timed=True, whole=True,
    )  # fmt: skip
    step = len(made.attrs["seeds"])
    if isinstance(one, Step) and one.step != step:
        raise TraceError(
            f"{seen.user} draws the spikes of step {one.step} in its step {step}: the steps are "
            f"taken in order, one by one"
        )
    made.attrs["seeds"].append(seed)
    run.set(result, Step(made, step))


def coded(run: Run, seen: Seen, value: Value) -> Tensor:
    """Spikes by :func:`snntorch.spikegen.latency` or :func:`snntorch.spikegen.delta`."""
    call = signature(seen.func).bind(*seen.args, **seen.kwargs)
    call.apply_defaults()
    attrs = dict(list(call.arguments.items())[1:])
    one, latency = run.known.one(value, seen.user), seen.func is CODES[0]
    if latency:
        attrs = {"coding": SPIKEGEN, "steps": attrs.pop("num_steps"), **attrs}
        plain = [attrs.pop(name) for name in ("on_target", "off_target", "interpolate")]
        if plain != [1, 0, False] or not attrs["steps"]:
            raise TraceError(
                f"{seen.user} makes no spikes of 0 and 1 in a known number of steps: give it "
                f"num_steps, and leave out on_target, off_target and interpolate"
            )
    if not isinstance(one, Whole) or (one.steps is None) != latency:
        given = "values without steps" if latency else "all steps, on the first axis,"
        how = "" if latency else ": pass inputs='steps' for x of shape [T, B, ...]"
        raise TraceError(f"{seen.user} must take {given} once, in front of the loop{how}")
    op, slot = ("encode", None) if latency else ("delta", 0)
    result: Tensor = seen.func(*seen.args, **seen.kwargs)
    made = run.known.made(
        op, seen.name, str(attrs), ((one.made, slot),), attrs=attrs, shape=one.made.shape,
        kind=Kind.VALUE if attrs.get("off_spike") else Kind.SPIKE, timed=True, whole=True,
    )  # fmt: skip
    run.set(result, Whole(made, len(result)))
    return result
