"""Networks that Lava-DL exported: read, mapped and run as the integers that they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from netx_files import NEURON, small, written

from has8.cli.jobs.networks import open_network
from has8.data import load_data
from has8.errors import BadInput, CheckpointError
from hwsim import compare, simulate
from hwsim.backends.fast.sums import compile_sums
from hwsim.backends.reference import weighted_sum
from hwsim.program import Program
from mapping import load, load_model, map_model, read_netx, save, save_model
from mapping.cores.columns import columns

FOLDER = Path(os.environ.get("HAS8_DATA", "~/.cache/has8/data")).expanduser() / "networks"
DATA = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no networks in {FOLDER} (HAS8_DATA)")


def test_a_file_is_mapped_as_the_integers_that_it_holds(tmp_path: Path) -> None:
    layers = small()
    graph = read_netx(written(tmp_path / "some.net", layers))
    mapped = map_model(graph, "loihi2")
    (chip,) = mapped.chip_segments
    assert chip.steps == 9  # the file's own
    weights = {synapse.name: synapse for _, synapse in chip.synapses()}
    for place, at in ((1, 1), (2, 3)):
        synapse = weights[f"layer.{place}.synapses"]
        assert (synapse.weight_exp, synapse.delay) == (0, 1)
        assert (synapse.weight.ravel() == layers[at]["weight"].ravel()).all()
    for population in chip.populations:
        assert int(population.neuron.threshold.max()) == 25
        assert (population.neuron.du, population.neuron.dv) == (4095, 1024)
    biases = chip.population("layer.1").neuron
    assert (biases.bias.ravel() << biases.bias_exp == layers[1]["bias"] * 64).all()
    assert max(error.weight + error.bias for error in mapped.errors.values()) < 1e-12
    x = torch.rand(3, 2, 7, 6, generator=torch.Generator().manual_seed(0))
    assert compare(mapped, x, "fast", "reference").equal
    save(mapped, tmp_path / "some.h8")
    again = simulate(load(tmp_path / "some.h8"), x).logits
    assert torch.equal(again, simulate(mapped, x).logits)


def test_neurons_that_are_cleared_within_a_sample(tmp_path: Path) -> None:
    """Each layer a step later than the one before it, in every backend and in float."""
    graph = read_netx(written(tmp_path / "some.net", small()), steps=11, clear_every=4)
    x = torch.rand(3, 2, 7, 6, generator=torch.Generator().manual_seed(1))
    mapped = map_model(graph, "loihi2")
    assert compare(mapped, x, "fast", "reference").equal
    run = Program(mapped, "reference").run(x, record=("spikes", "membranes"))
    (chip,) = mapped.chip_segments
    fed, spikes = run.inputs[chip.name], run.spikes[chip.name]
    for place in range(3):
        v = torch.zeros(3, *mapped.graph[f"layer.{place}"].type.shape, dtype=torch.int64)
        for step in range(11):
            if step % 4 == place:
                v = torch.zeros_like(v)
            if place == 0:
                exponent = int(chip.populations[0].neuron.bias_exp)
                drive = fed["layer.0.biases"] << exponent
            else:
                population, before = chip.populations[place], spikes[f"layer.{place - 1}"]
                now = before[step - 1] if step else torch.zeros_like(before[0])
                sums = weighted_sum(population.synapses[0], now.long().numpy())
                bias = torch.from_numpy(population.neuron.bias << population.neuron.bias_exp)
                drive = (torch.from_numpy(sums).view_as(v) << 6) + bias
            v = v.sign() * (v.abs() * 3072 >> 12) + drive
            fired = v > 1600
            assert torch.equal(fired, spikes[f"layer.{place}"][step])
            v = v * ~fired
    cleared = simulate(map_model(read_netx(tmp_path / "some.net", steps=11), "loihi2"), x)
    assert not torch.equal(cleared.logits, run.logits)


def test_a_saved_network_keeps_its_integers(tmp_path: Path) -> None:
    graph = read_netx(written(tmp_path / "some.net", small()), clear_every=4)
    save_model(graph, torch.rand(2, 2, 7, 6), tmp_path / "some.pt")
    again = load_model(tmp_path / "some.pt")
    one, two = (map_model(g, "loihi").chip_segments[0] for g in (graph, again))
    for a, b in zip(one.populations, two.populations, strict=True):
        assert (a.neuron.threshold == b.neuron.threshold).all()
        assert (a.neuron.clear_every, a.neuron.clear_at) == (
            b.neuron.clear_every,
            b.neuron.clear_at,
        )


def changed(at: int, **entries: Any) -> list[dict[str, Any]]:
    layers = small()
    neuron = {**NEURON, **entries.pop("neuron", {})}
    layers[at] = {**layers[at], **({"neuron": neuron} if "neuron" in layers[at] else {}), **entries}
    return layers


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (changed(1, type=[b"pool"]), "layer 1 is of type 'pool'"),
        (changed(1, neuron={"type": "SDNN"}), "neurons of type 'SDNN'"),
        (changed(3, neuron={"gradedSpike": True}), "layer 2 has graded spikes"),
        (changed(1, shape=(3, 3, 5)), "layer 1 makes 54 neurons, and says 45"),
        (changed(3, weight=np.full((4, 54), 0.5)), "weights are not whole numbers"),
        (changed(1, neuron={"iDecay": 410}), "currents last"),
        (changed(1, delay=np.zeros(3)), "delays of its own"),
        (changed(3, neuron={"refDelay": 2}), "refDelay"),
        (small()[1:], "'conv', does not say what it takes"),
        ([], "it has no layer"),
    ],
)
def test_what_a_file_holds_that_cannot_be_read(
    tmp_path: Path, layers: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_netx(written(tmp_path / "some.net", layers))


def test_files_that_are_none(tmp_path: Path) -> None:
    path = written(tmp_path / "some.net", small())
    whole = path.read_bytes()
    for content in (b"", b"nothing", whole[: len(whole) // 2]):
        (tmp_path / "broken.net").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"broken\.net is no network of Lava-DL"):
            read_netx(tmp_path / "broken.net")
    with pytest.raises(CheckpointError, match="there is no file"):
        read_netx(tmp_path / "absent.net")
    with h5py.File(path, "a") as file:
        file["layer/0"].create_dataset("more", (1 << 40,), "f4", chunks=(9,))  # empty
    with pytest.raises(CheckpointError, match=r"is damaged \(ValueError\)"):
        read_netx(path)
    with h5py.File(path, "a") as file:
        del file["simulation"], file["layer/0/more"]
    with pytest.raises(BadInput, match="how many steps"):
        read_netx(path)
    with pytest.raises(CheckpointError, match="count the spikes"):
        read_netx(path, steps=3, readout="membrane_last")


def test_integers_that_a_target_lacks_are_refused(tmp_path: Path) -> None:
    odd = changed(3, weight=np.where(np.arange(216) % 2, 3.0, -5.0).reshape(4, 54))
    graph = read_netx(written(tmp_path / "some.net", odd))
    with pytest.raises(BadInput, match=r"integers of layer 'layer\.2' are not all on"):
        map_model(graph, "loihi2")
    with pytest.raises(BadInput, match="integers of its own"):
        map_model(graph, "loihi2", scales="search", calibration=torch.rand(4, 2, 7, 6))


@pytest.fixture(scope="module")
def trace() -> dict[str, Any]:
    """What Intel's test demands of a Loihi 2: arrays (C, H, W, T) or (N, T)."""
    with np.load(FOLDER / "pilotnet_lif" / "trace.npz") as file:
        raw = dict(file)
    found: dict[str, Any] = {"image": raw["image"].transpose(2, 1, 0)}
    for name in ("input", *(f"conv-{k}" for k in range(5)), *(f"fc-{k}" for k in range(3))):
        shape = raw[f"{name}.shape"]
        bits = np.unpackbits(raw[f"{name}.spikes"], count=int(np.prod(shape)))
        order = (2, 1, 0, 3) if len(shape) == 4 else (0, 1)
        found[name] = bits.reshape(shape).astype(bool).transpose(order)
        for register in ("u", "v"):
            if f"{name}.{register}" in raw:
                found[f"{name}.{register}"] = raw[f"{name}.{register}"].transpose(order)
    return found


@DATA
def test_pilotnet_is_a_loihi_2_bit_for_bit(trace: dict[str, Any]) -> None:
    """158,509 neurons, 24 steps, from the image alone: all spikes, and all u and v on record."""
    path = FOLDER / "pilotnet_lif" / "network.net"
    mapped = map_model(read_netx(path, steps=24, clear_every=17), "loihi2")
    (chip,) = mapped.chip_segments
    x = torch.from_numpy((trace["image"][None] + 4) / 80).float()  # as mantissas 80 x - 4
    names = [name for name in trace if "." not in name and name != "image"]
    runs = [
        Program(mapped, backend).run(x, record=("spikes", "membranes"))
        for backend in ("fast", "reference")
    ]
    fast, reference = runs
    assert torch.equal(fast.logits, reference.logits)
    held = 0
    for place, name in enumerate(names):
        population = chip.population(f"layer.{place}")
        fired = torch.from_numpy(trace[name]).movedim(-1, 0)
        for run in runs:
            assert torch.equal(run.spikes[chip.name][population.name][:, 0], fired)
        if f"{name}.v" not in trace:
            continue
        u, v = (torch.from_numpy(trace[f"{name}.{r}"]).movedim(-1, 0) for r in ("u", "v"))
        for run in runs:  # where the silicon fires it reads 128 in place of 0
            membranes = run.membranes[chip.name][population.name][:, 0]
            assert torch.equal(membranes.masked_fill(fired, 128), v)
        # a current of one step is the sum of weights, by each backend's own sums
        before = torch.from_numpy(trace[names[place - 1]]).movedim(-1, 0)
        late = torch.cat([torch.zeros_like(before[:1]), before[:-1]])
        sums = weighted_sum(population.synapses[0], late.long().numpy()) << 6
        assert (sums.reshape(u.shape) == u.numpy()).all()
        (fast_sums,), unit = compile_sums(chip, population, torch.device("cpu"))
        quick = fast_sums(late.movedim(1, -1).contiguous()).long() << (unit + 6)
        quick = quick.reshape(len(u), -1)
        assert torch.equal(quick, u.movedim(1, -1).reshape(len(u), -1).long())
        held += u.numel()
    assert held == 1_029_024
    cores = [sum(t.population == f"layer.{k}" for t in mapped.placement.tiles) for k in range(10)]
    intel = (13, 25, 13, 3, 3, 2, 12, 1, 1, 1)  # layer by layer, 74 in all
    assert all(own <= theirs for own, theirs in zip(cores, intel, strict=True))
    assert mapped.placement.cores_used == 23
    tiles = columns(mapped.chip_segments, mapped.target)
    assert [sum(t.population == f"layer.{k}" for t in tiles) for k in range(10)] == list(intel)


@DATA
def test_pilotnet_s_answer_is_cleared_as_lava_counts_steps() -> None:
    """The record of the last layer has 25 steps of a run of its own, cleared every 16."""
    folder = FOLDER / "pilotnet_lif"
    with np.load(folder / "trace.npz") as file:
        image, u, v = (file[name] for name in ("image", "fc-3.u", "fc-3.v"))
    graph = read_netx(folder / "network.net", steps=25, clear_every=16, clear_at=15)
    mapped = map_model(graph, "loihi2")
    (chip,) = mapped.chip_segments
    x = torch.from_numpy((image.transpose(2, 1, 0)[None] + 4) / 80).float()
    run = Program(mapped, "fast").run(x, record=("spikes", "membranes"))
    assert run.membranes[chip.name]["layer.9"].flatten().tolist() == v.flatten().tolist()
    fired = run.spikes[chip.name]["layer.8"][:, 0].long().numpy()
    late = np.concatenate([np.zeros_like(fired[:1]), fired[:-1]])
    sums = weighted_sum(chip.population("layer.9").synapses[0], late) << 6
    assert sums.flatten().tolist() == u.flatten().tolist()


@DATA
def test_tinynet_from_its_biases() -> None:
    """Lava-DL's own record has all layers in one step, and begins a step late."""
    folder = FOLDER / "lava_dl"
    names = ("input", "layer1", "output", "current")
    record = {
        name: torch.from_numpy(np.load(folder / "tinynet" / f"{name}.npy")[0, ..., 1:])
        for name in names
    }
    mapped = map_model(read_netx(folder / "tiny.net", steps=15, delay=0), "loihi2")
    (chip,) = mapped.chip_segments
    mantissas = np.load(folder / "tinynet" / "input_bias.npy").transpose(2, 1, 0)
    x = torch.from_numpy((mantissas[None] + 2) / 72).float()  # as 72 x - 2
    for backend in ("fast", "reference"):
        run = Program(mapped, backend).run(x, record=("spikes",))
        for place, name in enumerate(names[:3]):
            fired = run.spikes[chip.name][f"layer.{place}"][:, 0].movedim(0, -1)
            assert torch.equal(fired, record[name].bool())
    sent = record["input"].movedim(-1, 0).long().numpy()
    sums = weighted_sum(chip.populations[1].synapses[0], sent)
    assert (sums == record["current"].movedim(-1, 0).numpy()).all()


@DATA
def test_digits_by_currents_that_last() -> None:
    path = FOLDER / "lava_dl" / "trained_mnist_network.net"
    images, labels = load_data("mnist", root=FOLDER.parent).test.tensors(200)
    images = images.flatten(1)
    mapped = map_model(read_netx(path, steps=32, coding="rate"), "loihi2")
    run = simulate(mapped, images)
    assert int((run.logits.argmax(1) == labels).sum()) == 185  # of 10,000 it gets 9,488 right
    assert run.activity.overflows["layer.0"].v_clips > 0  # its registers do leave their range
    few = map_model(read_netx(path, steps=6, coding="rate"), "loihi2")
    assert compare(few, images[:1], "fast", "lava").equal


def test_the_command_line_reads_it_as_it_is_told(tmp_path: Path) -> None:
    path = str(written(tmp_path / "some.net", small()))
    network = open_network(path, args='{"clear_every": 4}')
    assert (network.shape, network.inputs, network.name) == ((2, 7, 6), "values", "some")
    read = {"steps": 9, "delay": 1, "clear_every": 4, "clear_at": 0, "coding": "spikes", "seed": 0}
    assert network.facts == {"read": {**read, "readout": "count"}}
    with pytest.raises(BadInput, match="clear_at must be below clear_every, 4, and is 4"):
        open_network(path, args='{"clear_every": 4, "clear_at": 4}')
    with pytest.raises(BadInput, match="--args of a network of Lava-DL are steps, delay"):
        open_network(path, args='{"dt": 1}')
