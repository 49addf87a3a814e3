"""name.h8: loads to what was saved, and the same mapping gives the same bytes."""

import contextlib
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from msgspec.structs import replace as replaced

from has8.errors import BadInput, CheckpointError
from mapping import load, map_model, save
from mapping.artifact import FORMAT, MANIFEST


@pytest.fixture(scope="module")
def mapped(vgg, digits):
    return map_model(vgg, calibration=digits[:64])


def test_load_of_save_is_the_mapping_and_saves_to_the_same_bytes(model, digits, tmp_path):
    mapped = map_model(model, calibration=digits[:64])
    first = save(mapped, tmp_path / "a.h8")
    again = load(first)
    assert again.partition == mapped.partition
    assert again.placement == mapped.placement
    assert again.target == mapped.target
    assert again.errors == mapped.errors
    assert again.provenance == mapped.provenance
    for node, other in zip(mapped.graph, again.graph, strict=True):
        assert (node.name, node.op, node.inputs, node.type) == (
            other.name, other.op, other.inputs, other.type,
        )  # fmt: skip
        assert dict(node.attrs) == dict(other.attrs)
        assert node.tensors.keys() == other.tensors.keys()
        assert all(torch.equal(t, other.tensors[k]) for k, t in node.tensors.items())
    for chip, other in zip(mapped.chips, again.chips, strict=True):
        assert (chip.name, chip.steps, chip.inputs, chip.outputs) == (
            other.name, other.steps, other.inputs, other.outputs,
        )  # fmt: skip
        for p, q in zip(chip.populations, other.populations, strict=True):
            assert np.array_equal(p.bias, q.bias)
            assert np.array_equal(p.threshold, q.threshold)
            assert (p.bias_exp, p.du, p.dv) == (q.bias_exp, q.du, q.dv)
            for s, t in zip(p.synapses, q.synapses, strict=True):
                assert np.array_equal(s.weight, t.weight)
                assert (s.weight_exp, dict(s.attrs)) == (t.weight_exp, dict(t.attrs))
    assert save(again, tmp_path / "b.h8").read_bytes() == first.read_bytes()


def test_mapping_twice_gives_the_same_bytes(vgg, mapped, digits, tmp_path):
    one = save(mapped, tmp_path / "1.h8").read_bytes()
    two = save(map_model(vgg, calibration=digits[:64]), tmp_path / "2.h8").read_bytes()
    assert one == two


def test_integers_can_be_read_with_numpy_alone(mapped, tmp_path):
    from safetensors.numpy import load as load_arrays

    with zipfile.ZipFile(save(mapped, tmp_path / "m.h8")) as archive:
        manifest = json.loads(archive.read(MANIFEST))
        arrays = load_arrays(archive.read("tensors.safetensors"))
    (population, *_) = manifest["chips"][0]["populations"]
    weight = arrays[f"chip/{population['name']}/0"]
    assert np.array_equal(weight, mapped.chips[0].populations[0].synapses[0].weight)


def test_mapping_leaves_the_model_alone(vgg, digits):
    before = {k: v.clone() for k, v in vgg.state_dict().items()}
    map_model(vgg, calibration=digits[:64])
    assert all(torch.equal(v, before[k]) for k, v in vgg.state_dict().items())


def test_wide_integers_survive(mapped, tmp_path):
    """A target of the user's may have biases of more than 16 bits."""
    (first, *rest) = mapped.chips
    (population, *others) = first.populations
    wide = replace(population, bias=population.bias + 100_000)
    chips = (replace(first, populations=(wide, *others)), *rest)
    registers = replaced(mapped.target.registers, bias_max=200_000)
    wider = replace(mapped, chips=chips, target=replaced(mapped.target, registers=registers))
    again = load(save(wider, tmp_path / "wide.h8"))
    assert np.array_equal(again.chips[0].populations[0].bias, wide.bias)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"threshold": np.array([300])}, "threshold of 'blocks.0.snn.neuron'"),
        ({"bias": np.array([1])}, "bias of 'blocks.0.snn.neuron'"),
        ({"du": 9999}, "decays of"),
        ({"dv": -5}, "decays of"),
        ({"bias_exp": -1}, "bias exponent of"),
        ({"neuron": "alif"}, "neuron model of"),
        ({"shape": (6, 8, 7)}, "shape or steps of"),
        ("steps", "shape or steps of"),
        ("weight", "weight of 'blocks.0.snn.synapses.0'"),
        ("kind", "kind or attributes of 'blocks.0.snn.synapses.0'"),
        ("missing", "chip segments are"),
    ],
)
def test_integers_that_are_not_the_graphs_are_refused(vgg, digits, tmp_path, change, wrong):
    """Or a simulator would read beyond what is there."""
    mapped = map_model(vgg, calibration=digits[:64])
    (first, *rest) = mapped.chips
    (layer,) = first.populations
    (synapse,) = layer.synapses
    if change == "weight":
        change = {"synapses": (replace(synapse, weight=synapse.weight[:, :, 1:]),)}
    elif change == "kind":
        change = {"synapses": (replace(synapse, kind="pool"),)}
    if isinstance(change, dict):
        first = replace(first, populations=(replace(layer, **change),))
    chips = {"steps": (replace(first, steps=3), *rest), "missing": tuple(rest)}
    changed = replace(mapped, chips=chips.get(str(change), (first, *rest)))
    with pytest.raises(CheckpointError, match=wrong):
        load(save(changed, tmp_path / "x.h8"))


def test_damaged_bytes_never_end_in_another_error(mapped, tmp_path):
    content = save(mapped, tmp_path / "good.h8").read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[generator.integers(len(content))] ^= 1 << generator.integers(8)
        (tmp_path / "bad.h8").write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            load(tmp_path / "bad.h8")


def test_files_that_are_no_artefact(mapped, tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        load(tmp_path / "missing.h8")
    (tmp_path / "text.h8").write_text("hello")
    with pytest.raises(CheckpointError, match="is no mapped model"):
        load(tmp_path / "text.h8")
    good = save(mapped, tmp_path / "good.h8")
    (tmp_path / "cut.h8").write_bytes(good.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is no mapped model"):
        load(tmp_path / "cut.h8")
    for entry in ({"format": FORMAT, "version": 99}, {"format": "zip"}):
        with zipfile.ZipFile(tmp_path / "other.h8", "w") as archive:
            archive.writestr(MANIFEST, json.dumps(entry))
            archive.writestr("tensors.safetensors", b"")
        with pytest.raises(CheckpointError, match="reads version"):
            load(tmp_path / "other.h8")
    with pytest.raises(BadInput, match="cannot write"):
        save(mapped, tmp_path / "text.h8" / "inside.h8")
    assert not list(tmp_path.glob(".*.tmp"))
