"""CoLaNET: columns of spiking neurons that learn to classify by local rules, in one pass."""

from has8.colanet.network import CoLaNET, answers
from has8.colanet.rule import RULES, Rule

__all__ = ["RULES", "CoLaNET", "Rule", "answers"]
