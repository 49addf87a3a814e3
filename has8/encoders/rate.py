"""Rate coding: a value is the probability of a spike in each step (Poisson coding)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from has8.encoders.ranges import check_unit
from has8.encoders.unit import UnitEncoder
from has8.errors import BadInput

DRAW_BITS = 24
"""Draws are multiples of ``2**-24``, which float32 holds exactly."""
BERNOULLI = (torch.bernoulli, Tensor.bernoulli)
MOST_SEED = (1 << 63) - 1

_NUMBERS: ContextVar[tuple[int, int]] = ContextVar("numbers of samples", default=(0, 1))


@contextmanager
def numbered(first: int, apart: int = 1) -> Iterator[None]:
    """A body in which sample i of each batch has the number ``first + i * apart`` in its data set.

    Draws of rate coding depend on it, so that a sample gets the same spikes in whatever batch, and
    on whatever simulator, it is run. Outside, the samples of each batch count from 0.
    """
    token = _NUMBERS.set((first, apart))
    try:
        yield
    finally:
        _NUMBERS.reset(token)


def check_seed(seed: int, coding: str) -> None:
    """Refuse a seed that :func:`rate_draws` does not take.

    Raises:
        BadInput: if it is out of range.
    """
    if not 0 <= seed <= MOST_SEED:
        raise BadInput(f"the seed of {coding} coding must be from 0 to {MOST_SEED:,}, not {seed}")


def rate_weights(steps: int) -> tuple[float, ...]:
    """``1 / T`` for each of T steps: decodes spikes to their mean (HAS-8 equation 19)."""
    return (1.0 / steps,) * steps


def rate_draws(steps: int, shape: Sequence[int], seed: int) -> Tensor:
    """The numbers that rate coding compares values with, by each sample's number and a seed.

    They are the bits of the counter-based generator Philox4x64 whose key is (seed, number): equal
    on all machines, whatever the order in which samples are run.

    Args:
        steps: T.
        shape: of the values, ``(B, ...)``; see :func:`numbered` for the numbers of the samples.
        seed: from 0 to ``2**63 - 1``.

    Returns:
        ``float32[T, B, ...]`` in [0, 1), multiples of ``2**-24``, on the CPU.
    """
    samples, size = shape[0], steps * prod(shape[1:])
    first, apart = _NUMBERS.get()
    draws = np.empty((samples, size), np.float32)
    for place in range(samples):
        key = np.array([seed, first + place * apart], np.uint64)
        raw = np.random.Philox(key=key).random_raw(-(-size // 2))
        halves = raw.astype("<u8", copy=False).view("<u4")  # the lower half first
        draws[place] = halves[:size] >> np.uint32(32 - DRAW_BITS)
    draws *= np.float32(2.0**-DRAW_BITS)
    by_sample = torch.from_numpy(draws).view(samples, steps, *shape[1:])
    return by_sample.transpose(0, 1)


def encode_rate(x: Tensor, steps: int, seed: int | None = None) -> Tensor:
    """``s[t] = 1 if u[t] <= x else 0``, u uniform on [0, 1), drawn for every value and step.

    The draws are multiples of 2**-24 and ``<=`` counts the end, so a value fires with at most
    2**-24 more than its probability: 0 fires once in 2**24 steps, 1 always.

    Args:
        x: probabilities ``[B, ...]`` in [0, 1].
        steps: T.
        seed: draws are :func:`rate_draws`; None takes them from torch's global generator.

    Returns:
        ``[T, B, ...]`` of 0.0 and 1.0 in the dtype of ``x``.

    Raises:
        BadInput: if a value lies outside [0, 1] or is not a number.
    """
    check_unit(x, RateEncoder.coding)
    if seed is None:
        draws = torch.rand(steps, *x.shape, dtype=torch.float32, device=x.device)
    else:
        draws = rate_draws(steps, x.shape, seed).to(x.device)
    return (draws <= x).to(x.dtype)


def draw_spikes(p: Tensor, seed: int) -> Tensor:
    """Spikes by their probabilities, as :func:`torch.bernoulli` draws them, but from known draws.

    Args:
        p: probabilities ``[T, B, ...]`` in [0, 1]; 0 never fires, 1 always.
        seed: of :func:`rate_draws`.

    Returns:
        ``[T, B, ...]`` of 0.0 and 1.0 in the dtype of ``p``.
    """
    draws = rate_draws(len(p), p.shape[1:], seed).to(p.device)
    return (draws < p).to(p.dtype)


def step_draws(shape: Sequence[int], seed: int) -> Tensor:
    """The draws of one step, ``[B, ...]``, each step of which has a seed of its own."""
    return rate_draws(1, shape, seed)[0]


class SeededBernoulli(TorchFunctionMode):
    """A body in which torch.bernoulli, and snntorch.spikegen.rate, draw what a mapping draws.

    The first call in the body has seed 0, the next one 1, and so on, those of torch.rand and
    torch.rand_like among them; samples are numbered as :func:`numbered` says. So one forward of a
    model that codes its input by chance in such a body is what its mapping is held against.

    Args:
        each: the calls that draw for a single step, ``[B, ...]``.
    """

    def __init__(self, each: Container[int] = ()) -> None:
        super().__init__()
        self.calls, self.each = 0, each

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Draw, or leave another function as it is."""
        uniform = func in (torch.rand, torch.rand_like)
        if not uniform and (func not in BERNOULLI or len(args) != 1 or kwargs):
            return func(*args, **(kwargs or {}))
        seed, self.calls = self.calls, self.calls + 1
        given = func(*args, **(kwargs or {})) if uniform else args[0]
        if seed not in self.each:
            return given if uniform else draw_spikes(given, seed)
        draws = step_draws(given.shape, seed).to(given)
        return draws if uniform else (draws < given).to(given.dtype)


class RateEncoder(UnitEncoder):
    """Rate coding; see :func:`encode_rate`.

    In training its draws come from torch's global generator, new ones in every epoch. In
    evaluation a sample's draws follow from its number (:func:`numbered`) and the seed, so that
    the model, its graph and every simulator see the same spikes. Decode with
    :func:`rate_weights`; the expected result is the value.

    Args:
        steps: T, at least 1.
        seed: of the draws in evaluation; two encoders of one model should have different ones.

    Raises:
        BadInput: if there are no steps, or the seed is out of range.
    """

    coding = "rate"

    def __init__(self, steps: int, seed: int = 0) -> None:
        super().__init__(steps)
        check_seed(seed, self.coding)
        self.seed = seed

    def encode(self, x: Tensor) -> Tensor:
        """``[B, ...]`` in [0, 1] to ``[T, B, ...]`` of 0.0 and 1.0."""
        return encode_rate(x, self.steps, None if self.training else self.seed)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"{super().extra_repr()}, seed={self.seed}"
