"""CoLaNET compiled: what :mod:`has8.colanet.plain` defines, bit for bit, in C."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from has8.colanet.rule import Rule
from has8.colanet.state import State
from has8.kernels import build


@cache
def library() -> ctypes.CDLL | None:
    """The compiled rule, or None where there is no compiler or kernels are switched off."""
    source = Path(__file__).with_name("colanet.c")
    return build.load([source], {"colanet": "nnnnnnnppppnpppp"})


def _numbers(rule: Rule, excitability: float) -> Tensor:
    """The constants in the order of ``struct rule``."""
    values = (
        1 - 1 / rule.membrane_steps, rule.threshold, rule.threshold_share, rule.noise, rule.forcing,
        rule.lowest, rule.highest, rule.anti_hebb, rule.dopamine, rule.stability_ratio,
        rule.silent_synapses, rule.mark_steps, rule.sequence_steps, rule.reward_steps,
        rule.reward_delay, rule.closed_steps, rule.lateral, excitability,
    )  # fmt: skip
    return torch.tensor(values, dtype=torch.float64)


def run(
    state: State,
    rule: Rule,
    spikes: Tensor,
    labels: Tensor | None,
    *,
    first: int,
    excitability: float = 0.0,
) -> Tensor:
    """As :func:`has8.colanet.plain.run`, with torch's number of threads over the copies."""
    objects, steps, inputs = spikes.shape
    copies, neurons, _ = state.resource.shape
    classes = neurons // rule.columns
    answers = torch.full((objects,), -1) if labels is None else labels
    counts = torch.zeros(copies, objects, classes, dtype=torch.int32)
    build.call(
        library(), "colanet", copies, objects, steps, inputs, classes, rule.columns,
        _numbers(rule, excitability), spikes.contiguous(), answers.long().contiguous(), state.seeds,
        first, state.resource, state.stability, state.unspent, counts,
    )  # fmt: skip
    return counts
