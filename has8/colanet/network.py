"""An ensemble of CoLaNETs that learns online and answers with its merged counts of spikes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from has8.colanet import compiled, plain
from has8.colanet.rule import RULES, Rule
from has8.colanet.state import State
from has8.encoders.even import LEVELS, encode_even, even_levels, even_phases
from has8.errors import BadInput
from has8.values import described, whole

CHUNK = 500
"""Objects that are coded at once."""
FACTORS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 2.0, 2.4)
"""Excitabilities that :meth:`CoLaNET.choose_excitability` tries, in parts of the noise."""


class CoLaNET:
    """Copies of one network, which differ in their noise; see :mod:`has8.colanet.plain`.

    Samples become spikes by even coding (:func:`has8.encoders.encode_even`). In learning the
    integrators keep what they hold from one sample to the next, so that a value is coded a little
    otherwise each time; in inference every sample is coded alike.

    Args:
        inputs: N, values of a sample.
        classes: K.
        rule: constants, or the name of a set of :data:`has8.colanet.RULES`.
        columns: microcolumns of each class; None for the rule's.
        copies: networks whose counts are merged.
        seed: of the noise.

    Attributes:
        excitability: constant current into each neuron in inference, where it takes the place of
            the noise: a bias on a chip. At first 0.9 times the noise's bound.
        shown: samples that it has learned.

    Raises:
        UnknownName: for an unknown rule.
        BadInput: for an argument of another type or out of range.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        rule: Rule | str = "mnist",
        *,
        columns: int | None = None,
        copies: int = 10,
        seed: int = 0,
    ) -> None:
        found = rule if isinstance(rule, Rule) else RULES.get(rule)
        self.rule = found if columns is None else replace(found, columns=columns)
        self.inputs, self.classes = whole(inputs, "inputs", 1), whole(classes, "classes", 2)
        copies, seed = whole(copies, "copies", 1), whole(seed, "seed", 0)
        self.state = State.new(self.rule, self.inputs, self.classes, copies, seed)
        self.phases = even_phases(self.inputs)
        self.excitability = 0.9 * self.rule.noise
        self.shown = 0

    def learn(
        self, x: Tensor, labels: Tensor, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Learn from samples, one after another in their order, each once.

        Called again, it goes on from where it stands. The order of a data set should be shuffled.

        Args:
            x: values ``[B, ...]`` in [0, 1], N a sample.
            labels: of the samples, ``[B]`` from 0 to K - 1.
            on_progress: called with the number of samples behind each few hundred.

        Raises:
            BadInput: for samples or labels of another shape or range.
        """
        x = self._samples(x)
        whole_numbers = isinstance(labels, Tensor) and not labels.is_floating_point()
        if not whole_numbers or labels.shape != x.shape[:1]:
            raise BadInput(f"labels must be {len(x)} whole numbers, not {described(labels)}")
        if len(labels) and not (0 <= int(labels.min()) <= int(labels.max()) < self.classes):
            raise BadInput(f"labels must be from 0 to {self.classes - 1}")
        for place in range(0, len(x), CHUNK):
            part = x[place : place + CHUNK]
            gained = even_levels(part).cumsum(0) * self.rule.steps
            phases = (self.phases + torch.cat([torch.zeros_like(gained[:1]), gained])) % LEVELS
            self._run(part, phases[:-1], labels[place : place + CHUNK])
            self.phases = phases[-1]
            self.shown += len(part)
            if on_progress is not None:
                on_progress(place + len(part))

    def counts(self, x: Tensor, *, merged: bool = True) -> Tensor:
        """The number of spikes of each class, in inference.

        Args:
            x: values ``[B, ...]`` in [0, 1], N a sample.
            merged: over the copies; False gives those of each copy.

        Returns:
            ``int32[B, K]``, or ``[copies, B, K]``. The largest is the answer; a sample without any
            spike has none.

        Raises:
            BadInput: for samples of another shape or range.
        """
        x = self._samples(x)
        parts = [self._run(part, None, None) for part in x.split(CHUNK)]
        counts = torch.cat(parts, 1)
        return counts.sum(0, dtype=torch.int32) if merged else counts

    def choose_excitability(self, x: Tensor, labels: Tensor) -> float:
        """Take an excitability that answers most of some samples right, and return it.

        It is the middle one of those within a standard error of the best, since among few samples
        the best is often so by chance (Breiman et al. 1984, section 3.4.3).

        Where a neuron would fire with it without any input, the largest takes its place with which
        none does: the leak settles at ``membrane_steps`` times the excitability, which must lie
        below the least threshold. Gates hide such spikes, and chips have none
        (:mod:`has8.models.colanet`). If none that is tried is so small, it is 0.99 times the least
        with which a neuron would fire.

        Args:
            x: values ``[B, ...]`` of samples that are neither learned nor tested, of at least one.
            labels: of the samples.
        """
        unit = self.rule.noise or 0.1 * self.rule.threshold
        right = {}
        for factor in FACTORS:
            self.excitability = factor * unit
            right[self.excitability] = int(answers(self.counts(x)).eq(labels).sum())
        best = max(right.values())
        error = math.sqrt(best * (1 - best / len(x)))
        as_good = [one for one, count in right.items() if count >= best - error]
        limit = float(self.state.thresholds(self.rule).min()) / self.rule.membrane_steps
        quiet = max((one for one in right if one < limit), default=0.99 * limit)
        self.excitability = min(as_good[(len(as_good) - 1) // 2], quiet)
        return self.excitability

    def to_dict(self) -> dict[str, Any]:
        """All that it takes to go on, as tensors and plain values."""
        return {
            "inputs": self.inputs,
            "classes": self.classes,
            "rule": asdict(self.rule),
            "shown": self.shown,
            "excitability": self.excitability,
            "phases": self.phases,
            **{name: getattr(self.state, name) for name in State.__slots__},
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> CoLaNET:
        """The network that :meth:`to_dict` has written.

        Raises:
            BadInput: if it is not one.
        """
        try:
            rule, copies = Rule(**saved["rule"]), len(saved["seeds"])
            made = cls(saved["inputs"], saved["classes"], rule, copies=copies)
            for name in State.__slots__:
                own, given = getattr(made.state, name), saved[name]
                if own.shape != given.shape or own.dtype != given.dtype:
                    raise BadInput(f"{name} is {described(given)}, not {described(own)}")
                own.copy_(given)
            made.phases, made.shown = saved["phases"], whole(saved["shown"], "shown", 0)
            made.excitability = float(saved["excitability"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"this is no saved CoLaNET: {error!r}") from error
        return made

    def _samples(self, x: Tensor) -> Tensor:
        """Samples as ``[B, N]``."""
        if not isinstance(x, Tensor) or x.dim() < 2 or x[0].numel() != self.inputs:
            raise BadInput(f"samples must be [B, {self.inputs}], not {described(x)}")
        return x.flatten(1)

    def _run(self, x: Tensor, phases: Tensor | None, labels: Tensor | None) -> Tensor:
        spikes = encode_even(x, self.rule.steps, phases).bool().transpose(0, 1)
        run = plain.run if compiled.library() is None else compiled.run
        excitability = self.excitability if labels is None else 0.0
        return run(
            self.state, self.rule, spikes, labels, first=self.shown, excitability=excitability
        )


def answers(counts: Tensor) -> Tensor:
    """The class with most spikes, the first of equals; -1 where no neuron has fired.

    Args:
        counts: ``[B, K]``, from :meth:`CoLaNET.counts`.
    """
    most, place = counts.max(1)
    return torch.where(most > 0, place, -1)
