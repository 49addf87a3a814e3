"""What options ask of a mapping: its limits and its scales."""

from __future__ import annotations

from typing import Any

from has8 import Checkpoint
from hwsim.exploration import Limits
from mapping.finetune import quantization_of
from mapping.integers.methods import Method
from mapping.integers.rounding import Scales


def limits_of(options: dict[str, Any]) -> Limits:
    """What the options of a choice limit; they are taken out of the others."""
    return Limits(
        cores=options.pop("max_cores"),
        chips=options.pop("max_chips"),
        latency_us=options.pop("max_latency_us"),
        energy_uj=options.pop("max_energy_uj"),
        accuracy=options.pop("min_accuracy"),
    )


def scales_for(
    checkpoint: Checkpoint | None,
    chip: str,
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
) -> tuple[int | None, Method | Scales]:
    """Bits and scales: as told, else as the model was fine-tuned for this chip, else the usual."""
    tuned = None if checkpoint is None else quantization_of(checkpoint.provenance)
    told = weight_bits is not None or scales is not None or per_channel
    if tuned is not None and tuned.target == chip and not told:
        return tuned.weight_bits, tuned.scales
    method: Method = "search" if per_channel else "round"
    return weight_bits, scales or method
