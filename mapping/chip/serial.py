"""A chip segment as plain data and arrays, and back: the one form in which it travels.

The artefact on disk, Lava's worker and Lava in another interpreter all read it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapping.chip.neurons import NEURONS, Neuron, constant_names, constants, settings
from mapping.chip.payload import Payload
from mapping.chip.segment import ChipSegment, Population, Port, Synapse
from mapping.chip.wiring import Axis, Wiring

Arrays = dict[str, NDArray[Any]]
Plain = dict[str, Any]

TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "i8")
"""Integers of NumPy, the narrowest first."""


def pack(segment: ChipSegment) -> tuple[Plain, Arrays]:
    """A segment as JSON-able data and integer arrays, each in the narrowest type that holds it.

    Arrays are called ``chip/SEGMENT/POPULATION/CONSTANT`` and
    ``chip/SEGMENT/POPULATION/weight/PLACE`` by the synapse's place.
    """
    arrays: Arrays = {}
    populations = []
    for population in segment.populations:
        prefix = f"chip/{segment.name}/{population.name}"
        for name, values in constants(population.neuron).items():
            arrays[f"{prefix}/{name}"] = narrow(values)
        synapses = []
        for place, synapse in enumerate(population.synapses):
            arrays[f"{prefix}/weight/{place}"] = narrow(synapse.weight)
            plain = {name: getattr(synapse, name) for name in _plain_fields(Synapse)}
            synapses.append({**plain, "wiring": asdict(synapse.wiring)})
        neuron: Plain = {"model": population.neuron.model, **settings(population.neuron)}
        populations.append(
            {
                "name": population.name,
                "shape": list(population.shape),
                "neuron": neuron,
                "synapses": synapses,
                "bias": population.bias,
            }
        )
    plain = {
        "name": segment.name,
        "steps": segment.steps,
        "inputs": [
            {
                "name": port.name,
                "shape": list(port.shape),
                "kind": port.kind,
                **({"payload": asdict(port.payload)} if port.payload.graded else {}),
            }
            for port in segment.inputs
        ],
        "populations": populations,
        "outputs": list(segment.outputs),
        "membranes": list(segment.membranes),
    }
    return plain, arrays


def unpack(plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> ChipSegment:
    """The segment that :func:`pack` made this of; hold it to :func:`check_segment` next.

    Args:
        plain: may be anything.
        arrays: by name; other arrays may be among them.

    Raises:
        ValueError, KeyError, TypeError: if something is missing or of another form.
    """
    populations = []
    for entry in plain["populations"]:
        prefix = f"chip/{plain['name']}/{entry['name']}"
        synapses = tuple(
            _synapse(item, _wide(arrays[f"{prefix}/weight/{place}"]))
            for place, item in enumerate(entry["synapses"])
        )
        neuron = _neuron(entry["neuron"], prefix, arrays)
        populations.append(
            Population(entry["name"], tuple(entry["shape"]), synapses, neuron, entry["bias"])
        )
    ports = tuple(
        Port(port["name"], tuple(port["shape"]), port["kind"], Payload(**port.get("payload", {})))
        for port in plain["inputs"]
    )
    return ChipSegment(
        plain["name"],
        plain["steps"],
        ports,
        tuple(populations),
        tuple(plain["outputs"]),
        tuple(plain["membranes"]),
    )


def narrow(integers: NDArray[np.int64]) -> NDArray[Any]:
    """Integers in the narrowest type that holds them all, an unsigned one where both would."""
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    ranges = ((kind, np.iinfo(kind)) for kind in TYPES)
    return integers.astype(
        next(kind for kind, held in ranges if held.min <= low and high <= held.max)
    )


def _wide(integers: NDArray[Any]) -> NDArray[np.int64]:
    if integers.dtype.kind not in "iu" or integers.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"expected integers that int64 holds, found {integers.dtype}")
    return integers.astype(np.int64)


def _synapse(item: Mapping[str, Any], weight: NDArray[np.int64]) -> Synapse:
    given = dict(item["wiring"])
    wiring = Wiring(**{**given, "rows": Axis(**given["rows"]), "cols": Axis(**given["cols"])})
    return Synapse(**{**item, "wiring": wiring, "weight": weight})


def _neuron(entry: Mapping[str, Any], prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Neuron:
    model = NEURONS[entry["model"]]
    words = {name: value for name, value in entry.items() if name != "model"}
    names = constant_names(model)
    neuron: Neuron = model(**words, **{name: _wide(arrays[f"{prefix}/{name}"]) for name in names})
    return neuron


def _plain_fields(kind: Any) -> list[str]:
    return [field.name for field in fields(kind) if field.name not in ("wiring", "weight")]
