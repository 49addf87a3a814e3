"""Between a network that was opened and its mapping: its data and its steps."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from has8.cli.inputs import find_data
from has8.cli.jobs.networks import Network, check_steps, steps_axis_of
from has8.cli.preparation import Preparation, laid_out
from has8.data import Data
from has8.steps import Readout


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
