"""Several mappings side by side: what each computes, what it costs, and which takes the least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from has8 import given
from has8.errors import BadInput
from has8.markup import block
from has8.units import percent
from hwsim.experiments.fidelity import answers_of
from hwsim.names import APART, DEFAULT_RUN_MODE, DEFAULT_TIMING, RunMode, Timing
from hwsim.price.cost import CostReport, estimate
from hwsim.program import OnProgress, Run, simulate
from mapping.hosts.schema import DEFAULT_HOST, Host
from mapping.mapped import Mapped
from mapping.targets.figures import Figure


@dataclass(frozen=True, slots=True)
class Alternative:
    """One mapping that ran and was priced.

    Args:
        name: what a person calls it.
        accuracy: share of samples that it gets right, 0..1; None without labels.
        cost: of one sample.
    """

    name: str
    accuracy: float | None
    cost: CostReport

    @property
    def board_uj(self) -> Figure:
        """Microjoules of a sample, the whole board with its host."""
        return self.cost.energy_uj.total

    @property
    def messages(self) -> float:
        """Spikes, writes and reads between host and chip, of one sample."""
        return self.cost.messages

    def _repr_html_(self) -> str:
        """Its name, accuracy and price, for notebooks."""
        right = "" if self.accuracy is None else f", accuracy {percent(self.accuracy, 2)}"
        return block(f"{self.name}{right}", self.cost._repr_html_())


def alternative(
    name: str,
    mapped: Mapped,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    host: str | Path | Host = DEFAULT_HOST,
    run_mode: RunMode = DEFAULT_RUN_MODE,
    timing: Timing = DEFAULT_TIMING,
    batch_size: int = 128,
    on_progress: OnProgress | None = None,
) -> Alternative:
    """Run and price a mapping, to be held against others.

    Args:
        name: what a person calls it.
        mapped: from :func:`mapping.map_model`.
        x: its input, as :func:`hwsim.simulate` takes it; the same for all that are compared.
        labels: ``int64[N]``, the right classes.
        host: as :func:`hwsim.estimate` takes it.
        run_mode: as :func:`hwsim.estimate` takes it.
        timing: as :func:`hwsim.estimate` takes it.
        batch_size: samples at a time.
        on_progress: called after each batch with (samples done, samples in all).

    Raises:
        BadInput: if the samples do not fit the mapping, or it cannot run in this mode.
        UnknownName, TargetError: if there is no such mode or timing, or the host profile cannot be
            read.
    """
    given.instance(name, str, "a name")
    run = simulate(mapped, x, batch_size=batch_size, apart=APART, on_progress=on_progress)
    return judged(name, mapped, run, labels, host=host, run_mode=run_mode, timing=timing)


def judged(
    name: str,
    mapped: Mapped,
    run: Run,
    labels: Tensor | None = None,
    *,
    host: str | Path | Host = DEFAULT_HOST,
    run_mode: RunMode = DEFAULT_RUN_MODE,
    timing: Timing = DEFAULT_TIMING,
) -> Alternative:
    """Price a mapping that ran; the arguments and the errors are those of :func:`alternative`."""
    answers, accuracy = answers_of(mapped.graph, run.logits), None
    if labels is not None:
        classes = mapped.graph.output.type.shape[-1]
        right = answers == given.labels(labels, len(answers), classes)
        accuracy = float(right.double().mean())
    return Alternative(name, accuracy, estimate(mapped, run, host, run_mode, timing))


def least(alternatives: Sequence[Alternative]) -> tuple[Alternative, float]:
    """The mapping that takes the least energy by the best figures, and how likely that is.

    The share of draws in which no other takes less, 0..1. One draw has the same powers and times
    for all, so that what is common to them does not blur their difference.

    Raises:
        BadInput: if there is none, or they ran different numbers of samples.
    """
    if not isinstance(alternatives, Sequence) or not alternatives:
        raise BadInput("there is nothing to compare: give a list of what hwsim.alternative makes")
    for one in alternatives:
        given.instance(one, Alternative, "an alternative from hwsim.alternative")
    samples = sorted({one.cost.samples for one in alternatives})
    if len(samples) > 1:
        raise BadInput(f"some ran {samples[0]:,} samples and some {samples[-1]:,}: run the same")
    best = min(alternatives, key=lambda one: one.board_uj.value)
    lowest = np.min([one.cost.draws["total"] for one in alternatives], axis=0)
    return best, float((best.cost.draws["total"] <= lowest).mean())
