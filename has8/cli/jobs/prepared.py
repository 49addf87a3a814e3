"""Between a network that was opened and its mapping: its data, its steps, its scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from has8 import Checkpoint
from has8.cli.inputs import find_data
from has8.cli.jobs.networks import Network, check_steps, steps_axis_of
from has8.cli.options import DEFAULT_BITS
from has8.cli.preparation import Preparation, laid_out
from has8.data import Data
from has8.steps import Readout
from hwsim.exploration import Limits
from mapping.finetune import quantization_of
from mapping.integers.methods import Method
from mapping.integers.rounding import Scales


def data_for(
    network: Network,
    how: Preparation,
    data: str | None,
    data_root: Path | None,
    readout: Readout | None,
) -> tuple[Preparation, Data]:
    """How the data of a network are prepared, and the data; the errors are those of find_data."""
    source = find_data(
        data,
        data_root,
        training=network.training,
        input_shape=network.shape,
        class_names=network.class_names,
        preparation=how,
    )
    how = how.for_data(source.name)
    check_steps(how.inputs, how, readout)
    return how, source


def in_steps(network: Network, how: Preparation, source: Data) -> tuple[Preparation, Data]:
    """The same, with the axis of the steps where the network takes them."""
    if how.steps_axis:
        return how, source
    axis = steps_axis_of(network, how.inputs, source.train.tensors(2)[0])
    return replace(how, steps_axis=axis), laid_out(source, axis)


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
) -> tuple[int, Method | Scales]:
    """Bits and scales: as told, else as the model was fine-tuned for this chip, else the usual."""
    tuned = None if checkpoint is None else quantization_of(checkpoint.provenance)
    told = weight_bits is not None or scales is not None or per_channel
    if tuned is not None and tuned.target == chip and not told:
        return tuned.weight_bits, tuned.scales
    method: Method = "search" if per_channel else "round"
    return DEFAULT_BITS if weight_bits is None else weight_bits, scales or method
