"""What a CoLaNET has learned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from has8.colanet.rule import Rule


@dataclass(frozen=True, slots=True)
class State:
    """The resources of all copies, in float64; weights and thresholds follow from them.

    Args:
        resource: W of each synapse, ``[copies, K * M, N]``, class by class.
        stability: s of each neuron, ``[copies, K * M]``.
        unspent: of each neuron, ``[copies, K * M]``; see :class:`has8.colanet.plain.Neuron`.
        seeds: of each copy's noise, ``int64[copies]``.
    """

    resource: Tensor
    stability: Tensor
    unspent: Tensor
    seeds: Tensor

    @classmethod
    def new(cls, rule: Rule, inputs: int, classes: int, copies: int, seed: int) -> State:
        """Copies that have learned nothing; their noise alone tells them apart."""
        neurons = classes * rule.columns
        zeros = torch.zeros(copies, neurons, dtype=torch.float64)
        resource = zeros.new_full((copies, neurons, inputs), rule.first_resource)
        seeds = torch.randint(2**62, (copies,), generator=torch.Generator().manual_seed(seed))
        return cls(resource, zeros, zeros.clone(), seeds)

    def weights(self, rule: Rule) -> Tensor:
        """``float64[copies, K * M, N]``; see :func:`has8.colanet.plain.weight`."""
        span, positive = rule.highest - rule.lowest, self.resource.clamp(min=0.0)
        return rule.lowest + span * positive / (span + positive)

    def thresholds(self, rule: Rule) -> Tensor:
        """``float64[copies, K * M]``, up to the order of summation."""
        total = self.weights(rule).clamp(min=0.0).sum(2)
        return rule.threshold + rule.threshold_share * total
