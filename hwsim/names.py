"""Names that users type for a run, and a default: torch-free, so that help texts come at once."""

from __future__ import annotations

BACKEND_NAMES = ("fast", "lava", "reference")
"""Simulators, sorted; :data:`hwsim.backends.registry.BACKENDS` has them."""

RECORDS = ("spikes", "membranes")
"""What a run can keep."""

FAULT_NAMES = ("weight-bitflips", "dead-neurons", "dropped-spikes")
"""What can break; :class:`hwsim.experiments.faults.Faults` has a rate for each."""

RAY_TIMEOUT_S = 3600.0
"""Seconds in which a Ray cluster must finish a shard, unless the caller says otherwise."""
