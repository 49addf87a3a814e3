"""What other tools count, by their own packages: the dependency group "oracles".

NeuroBench, SpikingJelly, fvcore and SANA-FE run here as they were published. ``uv sync --group
oracles`` installs them; SpikingJelly 2.0.0 asks for Python 3.11, and on 3.10, where its counters
run too, it comes with::

    uv pip install --no-deps --python-version 3.11 spikingjelly==2.0.0
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from has8.errors import BackendError
from mapping.chip.neurons import Lif
from mapping.chip.segment import ChipSegment, Population, Synapse
from mapping.chip.wiring import Ints, taps
from mapping.graph.ops import synapse_of
from mapping.mapped import Mapped

MODULES = {
    "neurobench": "neurobench.metrics.workload",
    "spikingjelly": "spikingjelly.activation_based.op_counter",
    "fvcore": "fvcore.nn",
    "sanafe": "sanafe",
}
"""The module of each package that counts."""


@dataclass(frozen=True, slots=True)
class SanaFe:
    """What SANA-FE 2.2.9 counted of one sample on one chip.

    Args:
        fired: spikes of each population in each step, ``int64[steps, *shape]`` by name.
        updated: updates of neurons that its costs are paid for, those of inputs left out.
        synaptic_events: synapses that packets reached.
        packets: between cores, from the inputs' core too.
        hops: routers that packets pass along x, and along y.
        energy_pj: picojoules by part: "synapse", "soma" and "network".
        time_us: microseconds of all steps, with their barriers.
        steps_us: of each step.
    """

    fired: Mapping[str, Ints]
    updated: int
    synaptic_events: int
    packets: int
    hops: tuple[int, int]
    energy_pj: Mapping[str, float]
    time_us: float
    steps_us: NDArray[np.float64]


def package(name: str) -> Any:
    """The module of a package that counts.

    Args:
        name: in :data:`MODULES`.

    Raises:
        BackendError: if it is not installed, or too old.
    """
    if reason := missing(name):
        raise BackendError(reason)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what they import
        return import_module(MODULES[name])


def missing(name: str) -> str | None:
    """Why a package does not count here, in one line; None if it does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = find_spec(MODULES[name])
    except ModuleNotFoundError:
        found = None
    if found is None:
        return (
            f"{name} is not installed, or too old to count: it comes with "
            f"'uv sync --group oracles', see CONTRIBUTING.md"
        )
    return None


def neurobench(net: nn.Module, x: Tensor, *, spiking: bool) -> dict[str, float]:
    """NeuroBench's synaptic operations of one sample and its sparsity of activations.

    Args:
        net: a module; of a spiking network one step, with snnTorch's hidden states.
        x: ``float32[B, ...]``, or of a spiking network ``float32[T, B, ...]``.
        spiking: whether it is run step by step.

    Returns:
        ``Effective_MACs``, ``Effective_ACs``, ``Dense`` and ``ActivationSparsity``.
    """
    metrics, models = package("neurobench"), import_module("neurobench.models")
    samples = x.transpose(0, 1).contiguous() if spiking else x
    loader = DataLoader(TensorDataset(samples, torch.zeros(len(samples))), len(samples))
    model = (models.SNNTorchModel if spiking else models.TorchModel)(net)
    wanted = [[], [metrics.SynapticOperations, metrics.ActivationSparsity]]
    benchmark = import_module("neurobench.benchmarks").Benchmark(model, loader, [], [], wanted)
    with torch.no_grad():
        found = benchmark.run(quiet=True)
    return {**found["SynapticOperations"], "ActivationSparsity": found["ActivationSparsity"]}


def spikingjelly(run: Callable[[], object]) -> dict[str, int]:
    """SpikingJelly's ``synops``, ``acs`` and ``macs`` of all that runs, without batch norm.

    Args:
        run: computes something with torch.
    """
    jelly = package("spikingjelly")
    rules = {"extra_ignore_modules": [nn.BatchNorm1d, nn.BatchNorm2d]}
    counters = {
        "synops": jelly.SynOpCounter(**rules),
        "acs": jelly.ACCounter(**rules),
        "macs": jelly.MACCounter(**rules),
    }
    with torch.no_grad(), jelly.DispatchCounterMode([*counters.values()]):
        run()
    return {name: int(counter.get_total()) for name, counter in counters.items()}


def fvcore(net: nn.Module, x: Tensor) -> dict[str, int]:
    """fvcore's counts by kind of operation, such as "conv" and "linear".

    Args:
        net: a module.
        x: its input.
    """
    analysis = package("fvcore").FlopCountAnalysis(net, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own trace
        return {kind: int(count) for kind, count in analysis.by_operator().items()}


def torch_flops(net: nn.Module, x: Tensor) -> int:
    """What torch's own flop counter gives: a multiplication and an addition are two.

    Args:
        net: a module.
        x: its input.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(x)
    return counter.get_total_flops()


def sana_fe(
    mapped: Mapped,
    inputs: Mapping[str, Tensor],
    cores_of: Mapping[str, Ints] | None = None,
    timing: str = "detailed",
) -> SanaFe:
    """One sample of a mapping in SANA-FE, each neuron on the core that has8 gave it.

    Without ports there is nothing to wait for: SANA-FE's first step is the first one of what
    drives itself, and all layers end with its last one, the segment's.

    Args:
        mapped: one chip segment on one chip, without delays, whose neurons keep no current, reset
            to zero and do not rest.
        inputs: spikes into each port, ``bool[T, *shape]``. The neurons that send them cost nothing
            and lie on the chip's last core.
        cores_of: SANA-FE's number of each neuron's core, ``int64[*shape]`` by population, in
            place of the mapping's.
        timing: SANA-FE's model of time: "simple", "detailed" or "cycle".
    """
    sanafe, (chip,) = package("sanafe"), mapped.chip_segments
    architecture = _loihi(sum(prod(port.shape) for port in chip.inputs))
    cores = architecture.cores()
    net = sanafe.Network()
    groups = {
        port.name: _inputs(net, port.name, inputs[port.name].flatten(1), cores[-1])
        for port in chip.inputs
    }
    for population in chip.populations:
        name = population.name
        numbers = _cores(mapped, population) if cores_of is None else cores_of[name]
        groups[name] = _neurons(net, mapped, population, [cores[n] for n in numbers.flat])
    for population in chip.populations:
        for synapse in population.synapses:
            senders, takers, weights = edges(synapse)
            pairs = list(zip(senders.tolist(), takers.tolist(), strict=True))
            groups[synapse.source].connect_neurons_sparse(
                groups[population.name], {"weight": weights.tolist()}, pairs
            )
    simulator = sanafe.SpikingChip(architecture)
    simulator.load(net)
    with redirect_stdout(io.StringIO()):
        late = max(chip.depths().values()) if chip.inputs else 0
        traces = dict.fromkeys(("spike_trace", "message_trace", "perf_trace"), True)
        found = simulator.sim(chip.steps + late, timing_model=timing, **traces)
    return _found(chip, inputs, found)


def _loihi(inputs: int) -> Any:
    """The chip as SANA-FE's authors describe it, with as many sources of spikes as it needs.

    There each of the cores has 1,024, most of the time that loading takes.
    """
    sanafe = package("sanafe")
    text = (files("sanafe.examples") / "loihi.yaml").read_text()
    every = "loihi_inputs[0..1023]"
    assert every in text
    with TemporaryDirectory() as folder:
        path = Path(folder) / "loihi.yaml"
        path.write_text(text.replace(every, f"loihi_inputs[0..{inputs}]"))
        return sanafe.load_arch(path)


def _inputs(net: Any, name: str, spikes: Tensor, core: Any) -> Any:
    """Neurons that send given spikes ``bool[T, N]``."""
    group = net.create_neuron_group(name, spikes.shape[1], soma_hw_name="loihi_inputs[0]")
    for n, train in enumerate(spikes.T.int().tolist()):
        unit = f"loihi_inputs[{n}]"
        group[n].set_attributes(soma_hw_name=unit, model_attributes={"spikes": train})
    group.map_to_core(core)
    return group


def _cores(mapped: Mapped, population: Population) -> Ints:
    """SANA-FE's number of the core that has8 gave to each neuron, ``int64[*shape]``.

    has8 counts cores along rows of routers, SANA-FE along columns.
    """
    placement, mesh = mapped.placement, mapped.target.chip
    found = np.empty(population.shape, np.int64)
    for tile in placement.tiles:
        if tile.population == population.name:
            core = placement.cores[tile.core]
            router, slot = core.x * mesh.mesh_height + core.y, core.index % mesh.cores_per_tile
            found[tuple(map(slice, tile.start, tile.stop))] = router * mesh.cores_per_tile + slot
    return found


def _neurons(net: Any, mapped: Mapped, population: Population, cores: Sequence[Any]) -> Any:
    """A population, each neuron on its core."""
    lif, registers = population.neuron, mapped.target.registers
    assert isinstance(lif, Lif) and lif.reset == "zero" and not lif.refractory
    full, unit = 1 << registers.decay_bits, 2.0**registers.threshold_shift
    assert (lif.du + registers.current_decay_offset == full).all()
    assert not any(s.delay for s in population.synapses)
    kinds = {synapse_of(mapped.graph[s.name]).price for s in population.synapses} or {"synop_dense"}
    (price,) = kinds
    group = net.create_neuron_group(
        population.name,
        population.size,
        soma_hw_name="loihi_lif",
        default_synapse_hw_name=f"loihi_{price.removeprefix('synop_')}_synapse",
        log_spikes=True,
    )
    constants = {
        "threshold": lif.threshold,
        "bias": lif.bias * 2.0**lif.bias_exp / unit,
        "leak_decay": 1 - (lif.dv + registers.membrane_decay_offset) / full,
    }
    each = {n: np.broadcast_to(x, population.shape).ravel() for n, x in constants.items()}
    for n, core in enumerate(cores):
        rules = {name: float(values[n]) for name, values in each.items()}
        group[n].set_attributes(model_attributes={**rules, "reset_mode": "hard"})
        group[n].map_to_core(core)
    return group


def edges(synapse: Synapse) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """The source, the neuron and the weight of each connection, weights of zero included."""
    wires = synapse.wiring
    rows, cols = taps(wires.rows), taps(wires.cols)
    (y, k), (x, m) = np.nonzero(rows >= 0), np.nonzero(cols >= 0)
    ins, outs = wires.channels_in // wires.groups, wires.channels_out // wires.groups
    out, c, r, s = np.indices((wires.channels_out, ins, len(y), len(x))).reshape(4, -1)
    senders = np.ravel_multi_index((out // outs * ins + c, y[r], x[s]), wires.in_shape)
    takers = np.ravel_multi_index((out, rows[y, k][r], cols[x, m][s]), wires.out_shape)
    return senders, takers, synapse.weight[out, c, k[r], m[s]] * 2.0**synapse.weight_exp


def _found(chip: ChipSegment, inputs: Mapping[str, Tensor], found: Any) -> SanaFe:
    steps = len(found["spike_trace"])
    fired = {p.name: np.zeros((steps, p.size), np.int64) for p in chip.populations}
    for step, spikes in enumerate(found["spike_trace"]):
        for name, neuron in (str(spike).rsplit(".", 1) for spike in spikes):
            fired[name][step, int(neuron)] += 1
    packets = [m for step in found["message_trace"] for m in step if not m["placeholder"]]
    along_x, along_y = (sum(abs(m[f"src_{a}"] - m[f"dest_{a}"]) for m in packets) for a in "xy")
    sent = sum(int(spikes.sum()) for spikes in inputs.values())
    return SanaFe(
        {p.name: fired[p.name].reshape(steps, *p.shape) for p in chip.populations},
        found["neurons_updated"] - sent,
        found["spikes"],
        found["packets_sent"],
        (along_x, along_y),
        {part: found["energy"][part] * 1e12 for part in ("synapse", "soma", "network")},
        found["sim_time"] * 1e6,
        np.array(found["perf_trace"]["sim_time"], float) * 1e6,
    )
