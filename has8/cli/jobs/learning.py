"""The part of ``has8-map`` that learns on the chip, to count what it takes."""

from __future__ import annotations

from collections.abc import Mapping

from has8.cli.jobs.local import LOCAL
from has8.cli.jobs.networks import Network
from has8.colanet import Rule
from has8.errors import BadInput
from has8.models.colanet import CoLaNETClassifier
from hwsim.experiments.learning import OnChip, on_chip
from hwsim.price.learning import learning_costs
from mapping.targets.schema import Target

LEARNED = 50
"""Training samples that are learned to count what learning one takes."""
REFRESH = 10
"""Samples after which the host writes thresholds."""


def learner_of(network: Network, target: Target) -> OnChip:
    """The network as it goes on learning in the chip's registers.

    Raises:
        BadInput: if it is no colanet of ``has8 train``, its rule has no form for chips, or the
            target states no costs of learning.
    """
    learning_costs(target)
    rule = network.training.get(LOCAL)
    if not isinstance(network.model, CoLaNETClassifier) or not isinstance(rule, Mapping):
        raise BadInput(
            f"{network.file} is no {LOCAL} of has8 train, and nothing else learns on a chip: leave "
            "out --learn"
        )
    return on_chip(network.model, Rule(**rule), refresh=REFRESH)
