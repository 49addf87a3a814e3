"""CoLaNET step by step: the definition, which the compiled form equals spike for spike.

A column stands for a class; it holds microcolumns, of each of which the neuron that learns is
modelled. The layers around them have no state that outlasts an object, so they are rules here: the
one that gates (WTA), the one that answers (OUT) and the one that forces (BIASGATE).

Sources: A. Larionov, M. Kiselev et al., arXiv 2409.01230, 2506.17169 and 2606.20151; formulas and
constants as their public code has them (KasperskyLab/knp and configurations of ArNI-X). Left open
there and decided here: an object begins with all potentials, marks and gates cleared; nothing fires
in the silent steps between objects; of the neurons of a column at threshold, the furthest above it
wins, the first of equals; a column that must be forced forces one neuron.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from has8.colanet.rule import Rule
from has8.colanet.state import State

NEVER = -(10**6)
"""A step long before any."""
_MASK = 2**64 - 1


def draw(seed: int, number: int, step: int, neuron: int) -> float:
    """A number in [0, 1) that depends on all four: one output of splitmix64.

    Source: Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195.
    """
    x = (seed + ((((number << 8) + step) << 20) + neuron)) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    x ^= x >> 31
    return (x >> 11) * 2.0**-53


def weight(rule: Rule, resource: float) -> float:
    """``w = w_min + span * W+ / (span + W+)``, ``span = w_max - w_min``, ``W+ = max(W, 0)``.

    So a weight nears its bounds and never leaves them, and the nearer it is the less it moves; the
    resource W may go below 0, which is the synapse's memory that it was wrong often.
    """
    span, positive = rule.highest - rule.lowest, max(resource, 0.0)
    return rule.lowest + span * positive / (span + positive)


class Neuron:
    """The neuron of one microcolumn: a leaky integrator, its synapses and what it remembers.

    Args:
        rule: constants.
        resource: W of each synapse.
        stability: s, at least 0.
        unspent: what it has paid less what it got, of resource, since the last renormalisation.
    """

    def __init__(self, rule: Rule, resource: list[float], stability: float, unspent: float) -> None:
        self.rule, self.resource = rule, resource
        self.stability, self.unspent = stability, unspent
        self.weight = [weight(rule, one) for one in resource]
        self.threshold = self.threshold_now()
        self.begin()

    def begin(self) -> None:
        """Forget what belongs to one object."""
        self.v = 0.0
        self.open_from = 0
        self.last = self.won = self.began = NEVER
        self.marks: set[int] = set()
        self.fired = self.forced = False

    def threshold_now(self) -> float:
        """``theta + c * sum_i max(w_i, 0)``: a neuron that has learned much asks for more.

        Taken anew after each object in which it fired.
        """
        total = 0.0
        for one in self.weight:
            total += one if one > 0.0 else 0.0
        return self.rule.threshold + self.rule.threshold_share * total

    def integrate(self, step: int, current: float) -> None:
        """``v = max((1 - 1 / tau) v + I, 0)``; a gate that is closed lets no current in."""
        kept = self.v * (1 - 1 / self.rule.membrane_steps)
        self.v = max(kept + (0.0 if step < self.open_from else current), 0.0)

    def contribute(self, step: int, seen: Sequence[int], forced: bool) -> None:
        """A spike: mark the synapses that have contributed, and let them pay (anti-Hebb).

        A synapse has contributed if its last spike came within ``mark_steps``. Spikes closer than
        ``sequence_steps`` make a tight sequence, within which marks add up; another one begins
        without marks. A synapse pays ``d_H * min(1, 2^-s)`` once in a sequence, and not for a spike
        that was forced.
        """
        goes_on = self.fired and (forced or step - self.last < self.rule.sequence_steps)
        if not goes_on:
            self.marks, self.began = set(), step
        self.fired, self.forced, self.last = True, forced, step
        new = [
            number
            for number, when in enumerate(seen)
            if step - when < self.rule.mark_steps and number not in self.marks
        ]
        self.marks.update(new)
        if not forced:
            self.change(new, self.rule.anti_hebb)

    def reward(self, step: int) -> None:
        """Dopamine: marked synapses get ``D * min(1, 2^-s)``, and the neuron more or less stable.

        ``s += r D max(2 - |t - t_0 - ISI| / ISI, -1)``, with t_0 where the sequence began and ISI =
        ``sequence_steps``: most for a spike that came as early as can be. A neuron that had to be
        forced is wrong where it stands: ``s = max(0, s - r D)``.
        """
        rule = self.rule
        self.change(sorted(self.marks), rule.dopamine)
        by = rule.stability_ratio * rule.dopamine
        if self.forced:
            self.stability = max(self.stability - by, 0.0)
        else:
            gap = float(rule.sequence_steps)
            timely = 2.0 - abs(step - self.began - gap) / gap
            self.stability += by * max(timely, -1.0)

    def change(self, synapses: Sequence[int], by: float) -> None:
        """Add ``by * min(1, 2^-s)`` to some resources; the neuron's account has the opposite."""
        by *= min(math.pow(2.0, -self.stability), 1.0)
        for number in synapses:
            self.resource[number] += by
            self.weight[number] = weight(self.rule, self.resource[number])
        self.unspent -= len(synapses) * by

    def end(self) -> None:
        """Renormalise, ``W_i += unspent / (N + N_silent)`` for all, once ``|unspent| >= 1``.

        So the sum of a neuron's resources, with those of its silent synapses, stays what it was.
        """
        if abs(self.unspent) >= 1.0:
            by = self.unspent / (len(self.resource) + self.rule.silent_synapses)
            self.unspent = 0.0
            self.resource = [one + by for one in self.resource]
            self.weight = [weight(self.rule, one) for one in self.resource]
        self.threshold = self.threshold_now()


def winner(column: Sequence[Neuron], forcing: float = 0.0) -> Neuron | None:
    """The neuron furthest above its threshold, ``v + forcing >= theta``; None if all are below."""
    best, most = None, 0.0
    for neuron in column:
        above = neuron.v + forcing - neuron.threshold
        if above >= 0.0 and (best is None or above > most):
            best, most = neuron, above
    return best


class Network:
    """Columns of neurons, and an object at a time.

    Args:
        rule: constants.
        columns: for each class its neurons.
        seed: of the noise.
        excitability: constant current into each neuron that is open, in each step.
    """

    def __init__(
        self, rule: Rule, columns: list[list[Neuron]], seed: int, excitability: float
    ) -> None:
        self.rule, self.columns, self.seed = rule, columns, seed
        self.excitability = excitability

    def neurons(self) -> Iterator[Neuron]:
        """All neurons, class by class."""
        return (neuron for column in self.columns for neuron in column)

    def show(self, spikes: Sequence[Sequence[bool]], label: int | None, number: int) -> list[int]:
        """Show an object and, if its label is given, learn.

        Args:
            spikes: of each input in each step.
            label: the object's class; None in inference, where there is no noise either.
            number: of the object, which with the seed gives the noise.

        Returns:
            The number of spikes of each class.
        """
        for neuron in self.neurons():
            neuron.begin()
        seen = [NEVER] * len(spikes[0])
        counts = [0] * len(self.columns)
        for step, now in enumerate(spikes):
            for place, spike in enumerate(now):
                seen[place] = step if spike else seen[place]
            self._integrate(step, now, None if label is None else number)
            for place, column in enumerate(self.columns):
                counts[place] += self._answer(column, step, None if label is None else seen)
        if label is not None:
            self._learn(self.columns[label], counts[label] == 0, len(spikes), seen)
        return counts

    def _integrate(self, step: int, now: Sequence[bool], number: int | None) -> None:
        """The current of each neuron: weights of the inputs that fire, noise, excitability."""
        for place, neuron in enumerate(self.neurons()):
            current = 0.0
            for one, spike in zip(neuron.weight, now, strict=True):
                if spike:
                    current += one
            if number is not None:
                current += self.rule.noise * draw(self.seed, number, step, place)
            neuron.integrate(step, current + self.excitability)

    def _answer(self, column: Sequence[Neuron], step: int, seen: Sequence[int] | None) -> bool:
        """One step of a column: who fires, who is closed; whether OUT fires."""
        best = winner(column)
        if best is None:
            return False
        best.won = step
        firing = [best]
        if not self.rule.lateral:
            firing = [neuron for neuron in column if neuron.v >= neuron.threshold]
        for neuron in firing:
            neuron.v = 0.0
            if seen is not None:
                neuron.contribute(step, seen, forced=False)
        if self.rule.lateral:
            for neuron in column:
                if neuron is not best:
                    neuron.open_from = step + 1 + self.rule.closed_steps
        return True

    def _learn(
        self, column: Sequence[Neuron], silent: bool, step: int, seen: Sequence[int]
    ) -> None:
        """The label comes in the step after the last one shown; the reward some steps later.

        Its column's best neuron is forced where none has fired. Dopamine reaches those neurons
        whose last spike is at most ``reward_steps`` old; in the network of five layers, only where
        the neuron has won as recently.
        """
        rule, end = self.rule, step + self.rule.reward_delay
        if silent:
            for neuron in column:
                neuron.v *= 1 - 1 / rule.membrane_steps
            best = winner(column, rule.forcing)
            if best is not None:
                best.won = step
                best.contribute(step, seen, forced=True)
        for neuron in column:
            recent = end - neuron.last <= rule.reward_steps
            if recent and (rule.lateral or end - neuron.won <= rule.reward_steps):
                neuron.reward(end)
        for neuron in self.neurons():
            if neuron.fired:
                neuron.end()


def run(
    state: State,
    rule: Rule,
    spikes: Tensor,
    labels: Tensor | None,
    *,
    first: int,
    excitability: float = 0.0,
) -> Tensor:
    """Show objects to every copy, one after another.

    Args:
        state: of the copies; learning changes its tensors in place.
        rule: constants.
        spikes: ``bool[B, T, N]`` of B objects.
        labels: ``int64[B]`` to learn; None to infer.
        first: the number of the first object.
        excitability: see :class:`Network`.

    Returns:
        The number of spikes of each class, ``int32[copies, B, K]``.
    """
    objects, answers = spikes.tolist(), [None] * len(spikes) if labels is None else labels.tolist()
    counts = []
    for copy, seed in enumerate(state.seeds.tolist()):
        neurons = [
            Neuron(rule, resource, stability, unspent)
            for resource, stability, unspent in zip(
                state.resource[copy].tolist(),
                state.stability[copy].tolist(),
                state.unspent[copy].tolist(),
                strict=True,
            )
        ]
        columns = [neurons[n : n + rule.columns] for n in range(0, len(neurons), rule.columns)]
        network = Network(rule, columns, seed, excitability)
        shown = zip(objects, answers, strict=True)
        counts.append(
            [network.show(one, label, first + place) for place, (one, label) in enumerate(shown)]
        )
        for name in ("resource", "stability", "unspent"):
            values = torch.tensor([getattr(n, name) for n in neurons], dtype=torch.float64)
            getattr(state, name)[copy] = values
    return torch.tensor(counts, dtype=torch.int32)
