"""The learning engine compiled: what :mod:`mapping.chip.learning` defines, number for number."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from has8.kernels import build
from mapping.chip.learning import (
    ACCUMULATOR_BITS,
    IMPULSE_FRACTION,
    MANTISSA_BITS,
    SENT_KEPT,
    VARIABLES,
    WIDTHS,
    Ints,
    LearningEngine,
    LearningRule,
)

_SOURCES = ("C", "x1", "x2", "y1", "y2", "y3", "w", "d", "t")
_DEPENDENCIES = ("u", "x0", "y0")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled engine, or None where there is no compiler or kernels are switched off."""
    source = Path(__file__).with_name("learning_engine.c")
    return build.load([source], {"learn": "nnnnpnprpppppppp"})


class CompiledEngine(LearningEngine):
    """As :class:`mapping.chip.learning.LearningEngine`, whose plain form it is without a compiler.

    Args:
        rule: of all synapses.
        weights: ``int64[post, pre]`` from -256 to 255.
        seed: of the draws that round traces.
    """

    def __init__(self, rule: LearningRule, weights: Ints, seed: int = 0) -> None:
        super().__init__(rule, weights, seed)
        self._words = _words(rule)
        numbers = []
        for tau, rise in zip(rule.time_constants, rule.impulses, strict=True):
            whole = int(np.floor(rise))
            kept = float(np.exp(-1 / tau)) if tau else 0.0
            numbers += [kept, float(whole), float(round((rise - whole) * IMPULSE_FRACTION))]
        self._numbers = torch.tensor(numbers, dtype=torch.float64)

    def step(self, pre: Any, post: Any, sent: Any) -> None:
        """See :meth:`mapping.chip.learning.LearningEngine.step`."""
        if library() is None:
            super().step(pre, post, sent)
        else:
            self.run(*(np.asarray(part)[None] for part in (pre, post, sent)))

    def run(self, pre: Any, post: Any, sent: Any) -> None:
        """See :meth:`mapping.chip.learning.LearningEngine.run`."""
        if library() is None:
            super().run(pre, post, sent)
            return
        spikes = (np.ascontiguousarray(part, np.uint8) for part in (pre, post))
        before, behind = (torch.from_numpy(part) for part in spikes)
        traces = torch.from_numpy(np.ascontiguousarray(sent, np.int64))
        draws = torch.from_numpy(self.draws(len(before)))
        build.call(
            library(), "learn", *before.shape, behind.shape[1], self._words, self.waits,
            self._numbers, SENT_KEPT, draws, before, behind, traces,
            *map(torch.from_numpy, (self.traces, *(self.variables[name] for name in "wdt"))),
        )  # fmt: skip


def _words(rule: LearningRule) -> torch.Tensor:
    """The rule as the C source reads it."""
    words = [sum(map(len, rule.changes.values()))]
    for variable, products in rule.changes.items():
        for product in products:
            width = MANTISSA_BITS + sum(WIDTHS[factor.variable] for factor in product.factors)
            words += [
                list(VARIABLES).index(variable), _DEPENDENCIES.index(product.dependency),
                product.mantissa, max(0, width - ACCUMULATOR_BITS), product.exponent + 7,
                len(product.factors),
            ]  # fmt: skip
            for factor in product.factors:
                most = 2 ** WIDTHS[factor.variable]
                source = _SOURCES.index(factor.variable)
                words += [source, factor.constant, int(factor.sign), most]
    return torch.tensor(words, dtype=torch.int32)
