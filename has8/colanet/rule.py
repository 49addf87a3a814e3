"""The constants of CoLaNET's neurons and of the rule that they learn by, in named sets."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from has8.registry import Registry
from has8.values import Rules, check_fields

MOST_STEPS = 255
"""Most steps of an object."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Constants of a CoLaNET; :mod:`has8.colanet.plain` says what each of them does.

    Lengths are in steps, potentials and weights in the neuron's own unit, in which an untrained
    neuron fires at ``threshold``.

    Args:
        columns: M, microcolumns of each class: neurons that learn.
        steps: T, steps for which an object is shown.
        membrane_steps: tau; a potential keeps ``1 - 1 / tau`` of itself in a step.
        threshold: theta, of a neuron without positive weights.
        threshold_share: c; the threshold grows by this much of the sum of the positive weights.
        noise: eta; in learning each step adds a draw from [0, eta) to a potential.
        forcing: current into the neurons of a column that has kept silent about its own object.
        lowest, highest: of weights.
        resource: of a synapse at first; None for that of a weight of 0.
        anti_hebb: below 0, what a synapse pays when it has contributed to a spike.
        dopamine: above 0, what it gets where the spike was right.
        mark_steps: a synapse contributes whose last spike came within so many steps.
        sequence_steps: spikes closer than this are one tight sequence, which pays once.
        reward_steps: a reward reaches the neurons that fired within so many steps.
        reward_delay: steps from the label to the reward.
        closed_steps: for so many steps a neuron's spike closes the others of its column.
        stability_ratio: r, how fast a neuron becomes stable.
        silent_synapses: take their share in renormalisation, and are not there.
        lateral: True for the network of three layers, in which the first neuron of a column to fire
            closes the others. False for the one of five: all neurons at threshold fire and pay, one
            winner passes its spike on and is rewarded.
        active: inputs that fire in a step, for which weights and their steps are meant; see
            :meth:`for_active`.

    Raises:
        BadInput: for a field of another type or out of range.
    """

    columns: int
    membrane_steps: float
    threshold_share: float
    noise: float
    lowest: float
    highest: float
    anti_hebb: float
    dopamine: float
    stability_ratio: float
    silent_synapses: int
    steps: int = 10
    threshold: float = 8.531
    forcing: float = 10.0
    resource: float | None = None
    mark_steps: int = 10
    sequence_steps: int = 10
    reward_steps: int = 10
    reward_delay: int = 3
    closed_steps: int = 10
    lateral: bool = True
    active: float = 100.0

    def __post_init__(self) -> None:
        least_1 = (lambda count: count >= 1, "a whole number of at least 1")
        least_0 = (lambda number: 0 <= number < float("inf"), "at least 0")
        above = (lambda number: 0 < number < float("inf"), "above 0")
        below = (lambda number: -float("inf") < number < 0, "below 0")
        special = {
            "membrane_steps": (lambda tau: 1 <= tau < float("inf"), "at least 1"),
            "steps": (lambda steps: 1 <= steps <= MOST_STEPS, f"from 1 to {MOST_STEPS}"),
            "lowest": below,
            "anti_hebb": below,
            "highest": above,
            "dopamine": above,
            "threshold": above,
            "active": above,
            "resource": (lambda number: abs(number) < float("inf"), "a number, or None"),
            "lateral": (lambda _: True, "True or False"),
        }
        whole = {field.name: least_1 for field in fields(self) if field.type == "int"}
        for name in ("silent_synapses", "reward_delay", "closed_steps"):
            whole[name] = least_0
        named: Rules = {field.name: least_0 for field in fields(self)} | whole | special
        check_fields(self, named)

    @property
    def first_resource(self) -> float:
        """Of a synapse that has not learned."""
        if self.resource is not None:
            return self.resource
        span = self.highest - self.lowest
        return -self.lowest * span / self.highest

    def for_active(self, active: float) -> Rule:
        """The rule for samples of which another number of inputs fire in a step.

        Weights, and all that changes them, are multiplied by the power of two that is nearest to
        ``self.active / active``. A network with k times the weights does what one does in which
        each input is there k times.

        Args:
            active: sum of a sample's values in [0, 1], on average; above 0.

        Raises:
            BadInput: if it is not.
        """
        measured = replace(self, active=active)
        factor = 2.0 ** round(math.log2(self.active / measured.active))
        return replace(
            self,
            lowest=factor * self.lowest,
            highest=factor * self.highest,
            resource=None if self.resource is None else factor * self.resource,
            anti_hebb=factor * self.anti_hebb,
            dopamine=factor * self.dopamine,
            stability_ratio=self.stability_ratio / factor,
            silent_synapses=round(self.silent_synapses / factor),
            active=self.active / factor,
        )


RULES: Registry[Rule] = Registry("rule")
"""Parameter sets by name. They were found by their authors' search over random parameters; where
the sources of a set leave something out, it has the default."""
RULES.register("mnist")(
    Rule(
        columns=20,
        membrane_steps=3,
        threshold_share=0.217654,
        noise=2.212,
        lowest=-0.253122,
        highest=0.0923957,
        anti_hebb=-0.17653,
        dopamine=0.179376,
        stability_ratio=0.0497573,
        silent_synapses=27,
    )
)
RULES.register("mnist_tuned")(
    # Chosen here, on 2,000 of MNIST's training images: larger steps at first, smaller ones later.
    replace(RULES.get("mnist"), anti_hebb=-0.7, dopamine=0.71, stability_ratio=0.015)
)
RULES.register("embedding")(
    # Chosen here, on 400 training images of Caltech-101 as EfficientNet-lite0 embeds them: weights
    # that a few photographs of a class can fill.
    replace(RULES.get("mnist"), columns=1, lowest=-1.5, highest=0.6, anti_hebb=-0.15, dopamine=0.15)
)
RULES.register("embedding_noisier")(
    # Half as much noise again, chosen on three parts of Caltech-101's training photographs that
    # were held back: copies that are less alike, of which many are worth more together.
    replace(RULES.get("embedding"), noise=3.3)
)
RULES.register("mnist_leakier")(
    # The membrane that did best of those tried; how fast it settles lies between two that were.
    replace(RULES.get("mnist_tuned"), membrane_steps=2, stability_ratio=0.025)
)
RULES.register("mnist_m3")(
    Rule(
        columns=3,
        membrane_steps=6,
        threshold_share=0.0274326,
        noise=0.0,
        lowest=-1.02827,
        highest=0.327,  # drawn from [0.282, 0.372] for each synapse
        anti_hebb=-0.277539,
        dopamine=0.835402,
        stability_ratio=24.5291,
        silent_synapses=2,
        mark_steps=16,  # 2.72 * 6
    )
)
RULES.register("cifar10_smooth")(
    Rule(
        columns=7,
        membrane_steps=5,
        threshold_share=0.00106761,
        noise=0.625726,
        lowest=-1.63411,
        highest=1.71388,
        anti_hebb=-0.114314,
        dopamine=0.226537,
        stability_ratio=0.158816,
        silent_synapses=9,
        resource=3.192,
        reward_steps=15,
    )
)
RULES.register("cifar10_linearized")(
    Rule(
        columns=13,
        membrane_steps=5,
        threshold_share=0.00936311,
        noise=0.115462,
        lowest=-1.63411,
        highest=2.08763,
        anti_hebb=-0.412192,
        dopamine=0.906114,
        stability_ratio=0.00656263,
        silent_synapses=2,
        resource=3.192,
        reward_steps=15,
    )
)
