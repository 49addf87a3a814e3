"""Names that users type for a run, and a default: torch-free, so that help texts come at once."""

from __future__ import annotations

from typing import Literal

BACKEND_NAMES = ("fast", "lava", "reference")
"""Simulators, sorted; :data:`hwsim.backends.registry.BACKENDS` has them."""

RECORDS = ("spikes", "membranes")
"""What a run can keep."""

RunMode = Literal["gated", "pipeline", "reset"]
RUN_MODES: dict[RunMode, str] = {
    "gated": "the host starts the cores of a chip segment and stops them again, all others rest",
    "pipeline": "all layers on the chip run at once, as long as no host layer is between them",
    "reset": "all cores take part in every step, and the chip is reset for each chip segment",
}
"""How chip segments take turns on one chip, and what that means."""

DEFAULT_RUN_MODE: RunMode = "gated"

Timing = Literal["mean", "events"]
TIMINGS: dict[Timing, str] = {
    "mean": "a step lasts as long as its busiest core",
    "events": "every message of a few samples is followed, from core to core, through queues",
}
"""How long a chip step is, and what that means."""

DEFAULT_TIMING: Timing = "mean"

APART = 8
"""Samples that a command also runs one by one, since a mean hides how the busiest core changes."""

FAULT_NAMES = ("weight-bitflips", "dead-neurons", "dropped-spikes")
"""What can break; :class:`hwsim.experiments.faults.Faults` has a rate for each."""

RAY_TIMEOUT_S = 3600.0
"""Seconds in which a Ray cluster must finish a shard, unless the caller says otherwise."""

Objective = Literal["energy", "latency", "edp", "cores", "accuracy"]
OBJECTIVES: dict[Objective, str] = {
    "energy": "the least energy of the whole board",
    "latency": "the least time of a sample",
    "edp": "the least energy times time",
    "cores": "the fewest cores, and of equals the least energy",
    "accuracy": "the most right answers, of partitions that are best in something else",
}
"""What a partition can be chosen by."""
