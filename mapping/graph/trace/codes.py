"""Spikes that a forward makes of values: by chance, or by one of snnTorch's codes."""

from __future__ import annotations

from inspect import signature
from typing import Protocol

from torch import Tensor

from has8.encoders.rate import draw_spikes
from has8.errors import TraceError
from mapping.graph.ir import Kind
from mapping.graph.ops.coding import SPIKEGEN
from mapping.graph.trace.values import Value, Values, Whole
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
    draws: int

    def set(self, tensor: Tensor, value: Value) -> None:
        """Note what a tensor is from now on."""


def drawn(run: Run, seen: Seen, value: Value) -> Tensor:
    """Spikes by chance: those that the graph draws, in the place of torch's."""
    p = seen.args[0]
    one = run.known.one(value, seen.user)
    steps = one.steps if isinstance(one, Whole) else None
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
        raise TraceError(f"{seen.user} must take {given} once, in front of the loop")
    op, slot = ("encode", None) if latency else ("delta", 0)
    result: Tensor = seen.func(*seen.args, **seen.kwargs)
    made = run.known.made(
        op, seen.name, str(attrs), ((one.made, slot),), attrs=attrs, shape=one.made.shape,
        kind=Kind.VALUE if attrs.get("off_spike") else Kind.SPIKE, timed=True, whole=True,
    )  # fmt: skip
    run.set(result, Whole(made, len(result)))
    return result
