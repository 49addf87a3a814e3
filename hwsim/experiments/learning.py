"""CoLaNET's learning in the form that Loihi's learning engine holds, in the chip's integers.

The rule of :mod:`has8.colanet.plain` with what chips have in the place of what they have not:

==============================  ==================================================================
the full rule                   here
==============================  ==================================================================
resource W, also below 0        the weight alone: ``dw = dW ((w_max - w) / span)**2``, the slope of
                                the curve, as a product of factors; memory below w_min is lost
a synapse contributed, or not   the trace x1 at the neuron's spike, kept in the tag t
pays once in a tight sequence   pays at the first spike of one
anti-Hebb, dopamine             traces y1 and y2, which the neuron behind sends; 2**-s is in them
renormalisation                 none
threshold of positive weights   the host writes it after an object, as it clears traces before one
==============================  ==================================================================

Winners, gates, forcing, stability and noise are the neurons' own, which Loihi 2's microcode can do.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from has8.colanet import Rule
from has8.encoders import encode_even
from has8.errors import BadInput
from has8.values import whole
from mapping.chip.learning import Factor, LearningEngine, LearningRule, Product

Ints = NDArray[np.int64]

LOWEST = 256
"""Magnitude of the lowest weight, in the register's units."""
IMPULSE = 127
MOST_SENT = 8
"""The largest y1 or y2: products with it stay within 32 bits."""
DECAY_BITS = 12
NEVER = -(10**6)


def learning_rule(rule: Rule) -> LearningRule:
    """The products of a rule; a factor is taken to 4 bits and a power of two.

    ``dw = -a y0 x1 y1 (w - C)**2 + b t y2 (w - C)**2`` and ``dt = y0 x1 - y0 t``.

    Raises:
        BadInput: if the rule's steps are beyond what the engine scales.
    """
    unit = -rule.lowest / LOWEST
    ceiling = round(rule.highest / unit)
    if ceiling > LOWEST - 1:
        raise BadInput("on a chip the highest weight must be below the magnitude of the lowest")
    span, room = (rule.highest - rule.lowest) / unit, Factor("w", -ceiling)
    products = []
    for change, bits, mark, sent, dependency in (
        (rule.anti_hebb, 21, "x1", "y1", "y0"),
        (rule.dopamine, 23, "t", "y2", "u"),
    ):
        scale = change / unit / span**2 * 2.0**bits / (IMPULSE * MOST_SENT)
        exponent = math.ceil(math.log2(abs(scale) / 7.5))
        mantissa = round(scale / 2.0**exponent)
        factors = (Factor(mark), Factor(sent), room, room)
        products.append(Product(dependency, factors, mantissa, exponent))  # type: ignore[arg-type]
    marks = (Product("y0", (Factor("x1"),)), Product("y0", (Factor("t"),), -1))
    time_constant = 2.0 * rule.mark_steps
    return LearningRule({"w": products, "t": marks}, (IMPULSE, 0.0), (time_constant, 0.0))


class OnChip:
    """Copies of a CoLaNET that learn in the chip's registers.

    Args:
        inputs: N, values of a sample.
        classes: K.
        rule: constants; the lateral network of three layers.
        copies: networks whose counts are merged.
        seed: of noise and rounding.

    Attributes:
        engines: the synapses of each copy.
        excitability: constant current in inference, in the rule's units.

    Raises:
        BadInput: for an argument of another type or range.
    """

    def __init__(
        self, inputs: int, classes: int, rule: Rule, *, copies: int = 5, seed: int = 0
    ) -> None:
        if not rule.lateral:
            raise BadInput("the form for chips is that of the network with lateral=True")
        self.rule, self.inputs, self.classes = rule, whole(inputs, "inputs", 1), classes
        self.unit = -rule.lowest / LOWEST
        neurons = whole(classes, "classes", 2) * rule.columns
        zeros, products = np.zeros((neurons, inputs), np.int64), learning_rule(rule)
        numbers = range(seed * 1000, seed * 1000 + whole(copies, "copies", 1))
        self.engines = [LearningEngine(products, zeros, seed=number) for number in numbers]
        self.draws = [np.random.default_rng([number, 1]) for number in numbers]
        self.stability = [np.zeros(neurons) for _ in numbers]
        self.thresholds = [np.full(neurons, round(rule.threshold / self.unit)) for _ in numbers]
        self.excitability = 0.9 * rule.noise

    def learn(self, x: Tensor, labels: Tensor) -> None:
        """Learn from samples ``[B, ...]`` in [0, 1], each once, in their order."""
        for sample, label in zip(self._spikes(x), labels.tolist(), strict=True):
            for copy in range(len(self.engines)):
                self._show(copy, sample, label)

    def counts(self, x: Tensor) -> Tensor:
        """The number of spikes of each class in inference, over all copies: ``int64[B, K]``."""
        spikes = self._spikes(x)
        total = [
            sum(self._show(copy, sample, None) for copy in range(len(self.engines)))
            for sample in spikes
        ]
        return torch.from_numpy(np.stack(total))

    def _spikes(self, x: Tensor) -> Any:
        """``bool[B, T, N]``."""
        coded = encode_even(x.flatten(1), self.rule.steps).bool()
        return coded.transpose(0, 1).numpy()

    def _show(self, copy: int, spikes: Any, label: int | None) -> Ints:
        """Show a sample to a copy, which learns if the label is given; spikes of each class."""
        rule, engine, draws = self.rule, self.engines[copy], self.draws[copy]
        threshold, neurons = self.thresholds[copy], len(self.thresholds[copy])
        kept = round((1 - 1 / rule.membrane_steps) * 2**DECAY_BITS)
        v, last, began = np.zeros(neurons, np.int64), *np.full((2, neurons), NEVER)
        open_from, counts = np.zeros(neurons, np.int64), np.zeros(self.classes, np.int64)
        engine.traces[:] = 0
        for step, now in enumerate(spikes):
            current = engine.variables["w"][:, now].sum(1)
            drive = self.excitability if label is None else rule.noise * draws.random(neurons)
            current += np.floor(np.asarray(drive) / self.unit).astype(np.int64)
            v = np.maximum((v * kept >> DECAY_BITS) + np.where(step < open_from, 0, current), 0)
            winners = self._winners(v - threshold)
            counts[winners // rule.columns] += 1
            for neuron in winners:
                first, mine = neuron - neuron % rule.columns, open_from[neuron]
                open_from[first : first + rule.columns] = step + 1 + rule.closed_steps
                open_from[neuron] = mine
            v[winners] = 0
            if label is not None:
                new = winners[step - last[winners] >= rule.sequence_steps]
                began[new], last[winners] = step, step
                self._step(copy, now, winners, pay=new)
        if label is not None:
            self._learn(copy, label, v * kept >> DECAY_BITS, counts[label] == 0, last, began)
        return counts

    def _winners(self, above: Ints) -> Ints:
        """In each column the neuron furthest above its threshold, if any is there."""
        columns = above.reshape(self.classes, -1)
        best = columns.argmax(1)
        firing = columns[np.arange(self.classes), best] >= 0
        found: Ints = (np.arange(self.classes) * columns.shape[1] + best)[firing]
        return found

    def _learn(self, copy: int, label: int, v: Ints, silent: bool, last: Ints, began: Ints) -> None:
        """The label, the spike that it may force, and the reward."""
        rule, step = self.rule, self.rule.steps
        end, forced = step + rule.reward_delay, NEVER
        nobody, quiet = np.zeros(0, np.int64), np.zeros(self.inputs, bool)
        column = slice(label * rule.columns, (label + 1) * rule.columns)
        if silent:
            above = v - self.thresholds[copy] + round(rule.forcing / self.unit)
            best = column.start + int(above[column].argmax())
            if above[best] >= 0:
                forced, last[best] = best, step
                self._step(copy, quiet, np.array([best]), pay=nobody)
        mine = np.arange(column.start, column.stop)
        rewarded = mine[end - last[mine] <= rule.reward_steps]
        self._step(copy, quiet, nobody, pay=nobody, earn=rewarded)
        by, gap = rule.stability_ratio * rule.dopamine, rule.sequence_steps
        for neuron in rewarded:
            timely = max(2 - abs(end - began[neuron] - gap) / gap, -1)
            more = -by if neuron == forced else by * timely
            self.stability[copy][neuron] = max(self.stability[copy][neuron] + more, 0)
        fired = np.flatnonzero(last > NEVER)
        positive = np.maximum(self.engines[copy].variables["w"][fired], 0).sum(1)
        raised = rule.threshold / self.unit + rule.threshold_share * positive
        self.thresholds[copy][fired] = np.rint(raised).astype(np.int64)

    def _step(
        self, copy: int, pre: Any, firing: Ints, *, pay: Ints, earn: Ints | None = None
    ) -> None:
        """A step of the synapses; who pays or earns sends ``8 * 2**-s``, rounded by chance."""
        neurons = len(self.thresholds[copy])
        sent, post = np.zeros((3, neurons), np.int64), np.zeros(neurons, bool)
        post[firing] = True
        for place, who in enumerate((pay, earn)):
            if who is not None and len(who):
                rate = MOST_SENT * 2.0 ** -self.stability[copy][who]
                sent[place, who] = np.floor(rate + self.draws[copy].random(len(who))).clip(
                    max=MOST_SENT
                )
        self.engines[copy].step(pre, post, sent)
