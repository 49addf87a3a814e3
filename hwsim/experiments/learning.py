"""CoLaNET's learning in the form that Loihi's learning engine holds, in the chip's integers.

The rule of :mod:`has8.colanet.plain` with what chips have in the place of what they have not:

==============================  ==================================================================
the full rule                   here
==============================  ==================================================================
resource W, also below 0        the weight alone: ``dw = dW ((w_max - w) / span)**2``, the slope of
                                the curve, as a product of factors; memory below w_min is lost
a synapse contributed, or not   the trace x1 at the neuron's last spike, kept in the tag t
anti-Hebb, dopamine             traces y1 and y2, which the neuron behind sends: all or nothing, and
                                2**-s is the chance of all, since small products would be lost
pays at its spike, and is       neither before the label is known, then only what is left of both:
rewarded for it later           the slope changes with the weight, so one would not undo the other
renormalisation                 none
threshold of positive weights   the host writes it after an object, as it clears traces before one
==============================  ==================================================================

Winners, gates, forcing, stability and noise are the neurons' own, which Loihi 2's microcode can do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from has8.colanet import Rule
from has8.encoders import encode_even
from has8.errors import BadInput
from has8.models.colanet import CoLaNETClassifier
from has8.values import whole
from hwsim.activity import LearningActivity
from hwsim.experiments.learning_engine import CompiledEngine
from mapping.chip.learning import (
    ACCUMULATOR_BITS,
    MANTISSA_BITS,
    WIDTHS,
    Factor,
    LearningRule,
    Product,
)

Ints = NDArray[np.int64]

LOWEST = 256
"""Magnitude of the lowest weight, in the register's units."""
IMPULSE = 127
DROPPED = 23
"""Bits that the engine drops of a product of four such factors."""
DECAY_BITS = 12
NEVER = -(10**6)


def learning_rule(rule: Rule) -> LearningRule:
    """The products of a rule; a factor is taken to 4 bits and a power of two.

    ``dw = (b y2 - a y1) t (w - C)**2``, multiplied out, each with half of what rounding down takes,
    and ``dt = y0 x1 - y0 t``.

    Raises:
        BadInput: if the rule's steps are beyond what the engine scales.
    """
    unit = -rule.lowest / LOWEST
    ceiling = round(rule.highest / unit)
    if ceiling > LOWEST - 1:
        raise BadInput("on a chip the highest weight must be below the magnitude of the lowest")
    span, room = (rule.highest - rule.lowest) / unit, Factor("w", -ceiling)
    products = []
    for change, sent in ((rule.anti_hebb, "y1"), (rule.dopamine, "y2")):
        scale = change / unit / span**2 * 2.0**DROPPED / (IMPULSE * most_sent(rule))
        exponent = math.ceil(math.log2(abs(scale) / 7.5))
        mantissa = round(scale / 2.0**exponent)
        factors = (Factor("t"), Factor(sent), room, room)
        products.append(Product("u", factors, mantissa, exponent))
        products.append(_half(exponent, sent, most_sent(rule)))
    marks = (Product("y0", (Factor("x1"),)), Product("y0", (Factor("t"),), -1))
    time_constant = 2.0 * rule.mark_steps
    return LearningRule({"w": products, "t": marks}, (IMPULSE, 0.0), (time_constant, 0.0))


def _half(exponent: int, sent: str, most: int) -> Product:
    """Half a step of the product of a marked synapse, which the engine always rounds down."""
    factors = (Factor(sent), Factor("t", sign=True))
    shift = MANTISSA_BITS + sum(WIDTHS[factor.variable] for factor in factors) - ACCUMULATOR_BITS
    error = {
        (mantissa, power): abs((most * mantissa >> shift) * 2.0**power - 2.0 ** (exponent - 1))
        for mantissa in range(1, 8)
        for power in range(-7, 9)
    }
    return Product("u", factors, *min(error, key=lambda one: error[one]))


def most_sent(rule: Rule) -> int:
    """The largest y1 or y2 with which all products stay within 32 bits."""
    span = LOWEST * (1 - rule.highest / rule.lowest)
    return min(int(2**31 / (IMPULSE * 8 * span**2)), IMPULSE)


class OnChip:
    """Copies of a CoLaNET that learn in the chip's registers.

    Args:
        inputs: N, values of a sample.
        classes: K.
        rule: constants; the lateral network of three layers.
        copies: networks whose counts are merged.
        seed: of noise and rounding.
        refresh: the host reads the weights of all neurons that have fired since, and writes their
            thresholds, after so many samples.

    Attributes:
        engines: the synapses of each copy.
        front: what makes the N values of a sample, on the host.
        excitability: constant current in inference, in the rule's units.

    Raises:
        BadInput: for an argument of another type or range.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        rule: Rule,
        *,
        copies: int = 5,
        seed: int = 0,
        refresh: int = 1,
    ) -> None:
        if not rule.lateral:
            raise BadInput("the form for chips is that of the network with lateral=True")
        self.rule, self.inputs, self.classes = rule, whole(inputs, "inputs", 1), classes
        self.unit = -rule.lowest / LOWEST
        self._kept = round((1 - 1 / rule.membrane_steps) * 2**DECAY_BITS)
        self._most_sent = most_sent(rule)
        neurons = whole(classes, "classes", 2) * rule.columns
        zeros, products = np.zeros((neurons, inputs), np.int64), learning_rule(rule)
        numbers = range(seed * 1000, seed * 1000 + whole(copies, "copies", 1))
        self.engines = [CompiledEngine(products, zeros, seed=number) for number in numbers]
        self.draws = [np.random.default_rng([number, 1]) for number in numbers]
        self.stability = [np.zeros(neurons) for _ in numbers]
        self.thresholds = [np.full(neurons, round(rule.threshold / self.unit)) for _ in numbers]
        self.excitability = 0.9 * rule.noise
        self.front: nn.Module = nn.Identity()
        self.refresh, self.shown = whole(refresh, "refresh", 1), 0
        self._stale = np.zeros((len(self.engines), neurons), bool)
        self._step_number, self._updates = 0, list[tuple[int, int, int]]()

    def learn(self, x: Tensor, labels: Tensor) -> LearningActivity:
        """Learn from samples ``[B, ...]`` in [0, 1], each once, in their order; what it took."""
        self._updates, written, exchanges = [], 0, 0
        more = self.rule.reward_delay + 1
        for number, (sample, label) in enumerate(
            zip(self._spikes(x), labels.tolist(), strict=True)
        ):
            for copy in range(len(self.engines)):
                self._step_number = number * (self.rule.steps + more)
                self._show(copy, sample, label)
            self.shown += 1
            if self.shown % self.refresh == 0:
                written, exchanges = written + self._write_thresholds(), exchanges + 1
        updates = np.array(self._updates, np.int64).reshape(-1, 3)
        return LearningActivity(len(x), more, updates, written, exchanges, self.inputs)

    def counts(self, x: Tensor) -> Tensor:
        """The number of spikes of each class in inference, over all copies: ``int64[B, K]``."""
        spikes, rule = self._spikes(x), self.rule
        total = np.zeros((len(spikes), self.classes), np.int64)
        drive = math.floor(self.excitability / self.unit)
        for copy, engine in enumerate(self.engines):
            weights = engine.variables["w"].T.astype(np.float32)  # sums of them are exact
            state = self._at_rest(len(spikes))
            for step in range(rule.steps):
                current = (spikes[:, step].astype(np.float32) @ weights).astype(np.int64) + drive
                fired = self._advance(copy, step, current, *state)
                total += fired.reshape(len(spikes), self.classes, -1).sum(2)
        return torch.from_numpy(total)

    def _spikes(self, x: Tensor) -> Any:
        """``bool[B, T, N]``."""
        with torch.no_grad():
            coded = encode_even(self.front(x).flatten(1), self.rule.steps).bool()
        return coded.transpose(0, 1).numpy()

    def _at_rest(self, samples: int) -> tuple[Ints, Ints]:
        """Potentials, and the step from which each neuron is open: ``int64[B, neurons]``."""
        shape = samples, self.thresholds[0].size
        return np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def _advance(self, copy: int, step: int, current: Ints, v: Ints, open_from: Ints) -> Any:
        """A step of the neurons, ``[B, neurons]``, whose state changes: who fires.

        In each column that is the neuron furthest above its threshold, if any is there; it closes
        the others.
        """
        kept = v * self._kept >> DECAY_BITS
        np.maximum(kept + np.where(step < open_from, 0, current), 0, out=v)
        above = (v - self.thresholds[copy]).reshape(len(v), self.classes, -1)
        best = above.argmax(2)[..., None]
        fired = np.zeros(above.shape, bool)
        np.put_along_axis(fired, best, np.take_along_axis(above, best, 2) >= 0, 2)
        others = (fired.any(2, keepdims=True) & ~fired).reshape(v.shape)
        open_from[others] = step + 1 + self.rule.closed_steps
        fired = fired.reshape(v.shape)
        v[fired] = 0
        return fired

    def _show(self, copy: int, spikes: Any, label: int) -> None:
        """Show a sample to a copy, which learns."""
        rule, engine, draws = self.rule, self.engines[copy], self.draws[copy]
        v, open_from = self._at_rest(1)
        last, began = np.full((2, v.size), NEVER)
        fired_ever = np.zeros(v.size, bool)
        engine.traces[:] = 0
        for step, now in enumerate(spikes):
            noise = np.floor(rule.noise * draws.random(v.size) / self.unit).astype(np.int64)
            current = engine.variables["w"][:, now].sum(1) + noise
            winners = np.flatnonzero(self._advance(copy, step, current[None], v, open_from))
            new = winners[step - last[winners] >= rule.sequence_steps]
            began[new], last[winners], fired_ever[winners] = step, step, True
            self._step(copy, now, winners)
        silent = not fired_ever.reshape(self.classes, -1)[label].any()
        self._learn(copy, label, v[0] * self._kept >> DECAY_BITS, silent, last, began)

    def _learn(self, copy: int, label: int, v: Ints, silent: bool, last: Ints, began: Ints) -> None:
        """The label, the spike that it may force, and the reward."""
        rule, step = self.rule, self.rule.steps
        end, forced = step + rule.reward_delay, NEVER
        quiet = np.zeros(self.inputs, bool)
        column = slice(label * rule.columns, (label + 1) * rule.columns)
        if silent:
            above = v - self.thresholds[copy] + round(rule.forcing / self.unit)
            best = column.start + int(above[column].argmax())
            if above[best] >= 0:
                forced, last[best] = best, step
                self._step(copy, quiet, np.array([best]))
        mine = np.arange(column.start, column.stop)
        rewarded = mine[end - last[mine] <= rule.reward_steps]
        owed = np.where(began > NEVER, rule.anti_hebb, 0.0)
        owed[rewarded] += rule.dopamine
        self._step(copy, quiet, np.zeros(0, np.int64), owed)
        by, gap = rule.stability_ratio * rule.dopamine, rule.sequence_steps
        for neuron in rewarded:
            timely = max(2 - abs(end - began[neuron] - gap) / gap, -1)
            more = -by if neuron == forced else by * timely
            self.stability[copy][neuron] = max(self.stability[copy][neuron] + more, 0)
        self._stale[copy] |= last > NEVER

    def _write_thresholds(self) -> int:
        """Those of all neurons that have fired since; how many."""
        rule, written = self.rule, int(self._stale.sum())
        for copy, stale in enumerate(self._stale):
            positive = np.maximum(self.engines[copy].variables["w"][stale], 0).sum(1)
            raised = rule.threshold / self.unit + rule.threshold_share * positive
            self.thresholds[copy][stale] = np.rint(raised).astype(np.int64)
        self._stale[:] = False
        return written

    def _step(self, copy: int, pre: Any, firing: Ints, owed: Any = None) -> None:
        """A step of the synapses.

        Who owes a part of the whole anti-Hebb or dopamine sends all of it with the chance of that
        part times ``2**-s``.
        """
        neurons = len(self.thresholds[copy])
        sent, post = np.zeros((3, neurons), np.int64), np.zeros(neurons, bool)
        post[firing] = True
        if owed is not None:
            chance = 2.0 ** -self.stability[copy]
            for place, whole_change in enumerate((self.rule.anti_hebb, self.rule.dopamine)):
                part = np.maximum(owed / whole_change, 0)
                sent[place] = self._most_sent * (self.draws[copy].random(neurons) < part * chance)
        engine = self.engines[copy]
        engine.step(pre, post, sent)
        marked = int((engine.traces[0] > 0).sum())
        rows = np.flatnonzero(post | sent.any(0)) + copy * neurons
        self._updates += [(self._step_number, int(row), marked) for row in rows]
        self._step_number += 1


def on_chip(model: CoLaNETClassifier, rule: Rule, *, seed: int = 0, refresh: int = 1) -> OnChip:
    """A network that goes on learning on a chip from where a model stands.

    How settled its neurons were is not in a model: they learn as fast as they did at first.

    Args:
        model: that :func:`has8.training.local.classifier` has made.
        rule: what it learned by.
        seed: of noise and rounding.
        refresh: see :class:`OnChip`.

    Raises:
        BadInput: if the rule has no form for chips.
    """
    copies, classes, columns = model.by_class
    weights = model.drive.weight.detach().double().view(copies, classes * columns, -1).numpy()
    rule = replace(rule, columns=columns)
    net = OnChip(weights.shape[2], classes, rule, copies=copies, seed=seed, refresh=refresh)
    highest = round(rule.highest / net.unit)
    thresholds = model.lif.threshold.detach().double().view(copies, -1).numpy()
    for copy, engine in enumerate(net.engines):
        engine.variables["w"][:] = np.rint(weights[copy] / net.unit).clip(-LOWEST, highest)
        net.thresholds[copy] = np.rint(thresholds[copy] / net.unit).astype(np.int64)
    net.front = model.front
    net.excitability = float(model.state_dict()["drive.bias"][0])
    return net
