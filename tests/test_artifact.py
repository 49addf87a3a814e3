"""name.h8: loads to what was saved, the same mapping gives the same bytes, nothing else gets in.

Laws about files: whatever happens to one, loading it ends in an equal mapping, in one that is as
sound as any, or in a CheckpointError.
"""

import io
import json
import math
import os
import re
import zipfile
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import IMAGE, everything, memory_below, times_laws, with_constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replaced
from torch import nn

from has8.blocks import OverTime
from has8.encoders import DuplicateEncoder
from has8.errors import BackendError, BadInput, CheckpointError
from has8.neurons import Leaky
from hwsim import estimate, simulate
from mapping import load, load_target, map_model, save
from mapping.chip import archive
from mapping.chip.archive import DIGEST, FORMAT, MANIFEST, SUFFIX, VERSION
from mapping.finetune import prepare
from mapping.integers.rounding import Scale
from mapping.verify import check_mapped

TARGET = load_target("loihi")


@pytest.fixture(scope="module")
def mapped(vgg, digits):
    return map_model(vgg, calibration=digits[:64])


def target(**registers):
    """Loihi with other registers."""
    return replaced(TARGET, registers=replaced(TARGET.registers, **registers))


def bytes_of(mapped, folder):
    return save(mapped, folder / "bytes.h8").read_bytes()


# ------------------------------------------------------------------- what is saved is loaded


def assert_equal(mapped, again):
    """Everything that a mapping holds, part by part."""
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
    for chip, other in zip(mapped.chip_segments, again.chip_segments, strict=True):
        assert (chip.name, chip.steps, chip.inputs, chip.outputs) == (
            other.name, other.steps, other.inputs, other.outputs,
        )  # fmt: skip
        for p, q in zip(chip.populations, other.populations, strict=True):
            assert (p.name, p.shape, p.neuron.reset) == (q.name, q.shape, q.neuron.reset)
            for constant in ("du", "dv", "threshold", "bias", "bias_exp"):
                one, two = (getattr(x.neuron, constant) for x in (p, q))
                assert np.array_equal(one, two) and one.shape == two.shape
                assert one.dtype == two.dtype == np.int64
            for s, t in zip(p.synapses, q.synapses, strict=True):
                assert np.array_equal(s.weight, t.weight) and s.weight.dtype == t.weight.dtype
                assert (
                    replace(s, weight=None).__reduce_ex__(4)[2]
                    == (replace(t, weight=None).__reduce_ex__(4)[2])
                )


def test_load_of_save_is_the_mapping_and_saves_to_the_same_bytes(model, digits, tmp_path):
    mapped = map_model(model, calibration=digits[:64])
    first = save(mapped, tmp_path / "a.h8")
    again = load(first)
    assert_equal(mapped, again)
    assert save(again, tmp_path / "b.h8").read_bytes() == first.read_bytes()


def spikes_out():
    """Values repeated over steps, and spikes as the output."""
    torch.manual_seed(0)
    layers = [OverTime(nn.Linear(64, 9)), Leaky(threshold=0.2), OverTime(nn.Linear(9, 4)), Leaky()]
    return nn.Sequential(nn.Flatten(), DuplicateEncoder(5), *layers)


NETS = {
    "everything": everything,
    "spikes out": spikes_out,
    "no layer for the chip": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)),
}
OPTIONS = [
    {},
    {"partition": "none"},
    {"partition": ["first"]},
    {"weight_bits": 2},
    {"weight_bits": 1, "scales": "search"},
    {"weight_bits": 4, "scales": "search", "per_channel": True},
    {"target": target(weight_bits=(1, 8), neurons=("lif",), sign_modes=("mixed",))},
    {"target": target(bias_max=10**6, bias_min=-(10**6), bias_exp_max=0)},
    {"target": target(state_bits=32, threshold_max=2**24)},
    {"provenance": {"data": "digits", "none": None, "list": [1, 0.5, {"ä": "ß"}]}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ",".join(map(str, o)) or "default")
@pytest.mark.parametrize("net", NETS)
def test_whatever_maps_is_loaded_equal(net, options, tmp_path):
    model, images = NETS[net](), torch.rand(16, *IMAGE)
    options = dict(options)
    if options.get("partition") == ["first"]:
        names = [segment.name for segment in map_model(model, calibration=images).partition.on_chip]
        options["partition"] = names[:1]
    mapped = map_model(model, calibration=images, **options)
    again = load(save(mapped, tmp_path / "a.h8"))
    assert_equal(mapped, again)
    assert bytes_of(again, tmp_path) == (tmp_path / "a.h8").read_bytes()
    assert torch.equal(simulate(again, images[:4]).logits, simulate(mapped, images[:4]).logits)


def test_mapping_twice_gives_the_same_bytes(vgg, mapped, digits, tmp_path):
    one = save(mapped, tmp_path / "1.h8").read_bytes()
    two = save(map_model(vgg, calibration=digits[:64]), tmp_path / "2.h8").read_bytes()
    assert one == two


def test_integers_can_be_read_with_numpy_alone(mapped, tmp_path):
    path = save(mapped, tmp_path / "m.h8")
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read(MANIFEST))
    (chip, *_) = manifest["chip_segments"]
    (population, *_) = chip["populations"]
    with np.load(path) as arrays:
        weight = arrays[f"chip/{chip['name']}/{population['name']}/weight/0"]
    assert np.array_equal(weight, mapped.chip_segments[0].populations[0].synapses[0].weight)
    assert weight.dtype.itemsize <= 2


def test_mapping_leaves_the_model_alone(vgg, digits):
    before = {k: v.clone() for k, v in vgg.state_dict().items()}
    map_model(vgg, calibration=digits[:64])
    assert all(torch.equal(v, before[k]) for k, v in vgg.state_dict().items())


def test_wide_integers_survive(mapped, tmp_path):
    """A target of the user's may have biases of more than 16 bits."""
    (first, *rest) = mapped.chip_segments
    (population, *others) = first.populations
    wide = with_constants(population, bias=population.neuron.bias + 100_000)
    chips = (replace(first, populations=(wide, *others)), *rest)
    wider = replace(mapped, chip_segments=chips, target=target(bias_max=200_000))
    again = load(save(wider, tmp_path / "wide.h8"))
    assert np.array_equal(again.chip_segments[0].populations[0].neuron.bias, wide.neuron.bias)


def test_what_is_shown_of_a_mapping_and_of_a_run_is_short_and_says_what_it_is(tmp_path):
    mapped = map_model(everything(), input_shape=IMAGE)
    run = simulate(mapped, torch.rand(3, *IMAGE), record=("spikes", "membranes"))
    shown = {repr(thing): thing for thing in (mapped, run, run.activity)}
    for text in shown:
        assert len(text) < 1000
    one, two, three = shown
    assert one.startswith("Mapped(Everything on loihi") and "chip#2" in one
    assert two.startswith("Run(3 samples on fast") and "spikes, membranes" in two
    assert three.startswith("Activity(3 samples")


# ---------------------------------------------------------------------- what is refused, how


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"threshold": np.array(131_072)}, "'blocks.0.snn.neuron' .* its threshold must be from"),
        ({"threshold": np.array([[300]])}, "'blocks.0.snn.neuron' .* its threshold of shape"),
        ({"bias": np.array([1])}, "'blocks.0.snn.neuron' .* its bias of shape"),
        ({"bias": np.array(1.5)}, "'blocks.0.snn.neuron' .* its bias must be int64 arrays"),
        ({"du": np.array(9999)}, "its current decay must be from 0 to 4,095, not 9,999"),
        ({"dv": np.array(-5)}, "its membrane decay must be from 0 to 4,095, not -5"),
        ({"bias_exp": np.array(-1)}, "its bias exponent must be from"),
        ({"reset": "none"}, "its membrane resets by 'none'"),
        ({"reset": "subtract"}, "steps of 'blocks.0.snn.neuron' are .'subtract', 0., and the"),
        ({"refractory": 1}, "steps of 'blocks.0.snn.neuron' are .'zero', 1., and the graph has"),
        ({"shape": (6, 8, 7)}, "it wires .* not"),
        ("neuron", "its neuron model 'alif' is unknown"),
        ("steps", "shape and steps of"),
        ("weight", r"its weights must be int64 of shape \(6, 1, 3, 3\)"),
        ("wiring", "'blocks.0.snn.synapses.0' .* it wires"),
        ("stride", "source, delay and wiring of 'blocks.0.snn.synapses.0' are"),
        ("missing", "there are integers for the segments"),
    ],
)
def test_integers_that_are_not_the_graphs_are_refused(mapped, tmp_path, change, wrong):
    """When they are saved, and when they are loaded; or a simulator would read beyond the end."""
    (first, *rest) = mapped.chip_segments
    (layer,) = first.populations
    (synapse,) = layer.synapses
    wires = synapse.wiring
    if change == "weight":
        layer = replace(layer, synapses=(replace(synapse, weight=synapse.weight[:, :, 1:]),))
    elif change in ("wiring", "stride"):
        other = {
            "wiring": replace(wires.rows, kernel=5),
            "stride": replace(wires.rows, stride=8, padding=28),  # as many rows, others
        }
        other["stride"] = replace(wires.rows, dilation=2, padding=2)
        changed = replace(wires, rows=other[change])
        layer = replace(layer, synapses=(replace(synapse, wiring=changed),))
    elif change == "neuron":
        layer = replace(layer, neuron=Alif(**{k: getattr(layer.neuron, k) for k in CONSTANTS}))
    elif isinstance(change, dict) and "shape" in change:
        layer = replace(layer, **change)
    elif isinstance(change, dict):
        layer = with_constants(layer, **change)
    first = replace(first, populations=(layer,))
    chips = {"steps": (replace(first, steps=3), *rest), "missing": tuple(rest)}
    changed = replace(mapped, chip_segments=chips.get(str(change), (first, *rest)))
    with pytest.raises(BadInput, match=wrong):
        check_mapped(changed)
    with pytest.raises(BadInput, match=wrong):
        save(changed, tmp_path / "x.h8")
    assert not (tmp_path / "x.h8").exists()


CONSTANTS = ("du", "dv", "threshold", "bias", "bias_exp")


@dataclass(frozen=True, eq=False)
class Alif:
    """A neuron model that no target has."""

    du: np.ndarray
    dv: np.ndarray
    threshold: np.ndarray
    bias: np.ndarray
    bias_exp: np.ndarray
    model = "alif"


def test_files_that_are_no_artefact(mapped, tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        load(tmp_path / "missing.h8")
    with pytest.raises(CheckpointError, match="cannot read"):
        load(tmp_path)
    (tmp_path / "text.h8").write_text("hello")
    with pytest.raises(CheckpointError, match="is no mapped model"):
        load(tmp_path / "text.h8")
    good = save(mapped, tmp_path / "good.h8")
    (tmp_path / "cut.h8").write_bytes(good.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is no mapped model"):
        load(tmp_path / "cut.h8")
    for entry in ({"format": FORMAT, "version": 99}, {"format": "zip"}):
        with zipfile.ZipFile(tmp_path / "other.h8", "w") as file:
            file.writestr(MANIFEST, json.dumps(entry))
            file.writestr("tensors.safetensors", b"")
        with pytest.raises(CheckpointError, match="reads version"):
            load(tmp_path / "other.h8")
    with pytest.raises(BadInput, match="cannot write"):
        save(mapped, tmp_path / "text.h8" / "inside.h8")
    assert not list(tmp_path.glob(".*.tmp"))


def packed(folder):
    """A few kilobytes that unpack to 256 MiB."""
    file = zipfile.ZipFile(folder / "bad.h8", "w", zipfile.ZIP_DEFLATED)
    with file, file.open(MANIFEST, "w") as entry:
        for _ in range(256):
            entry.write(bytes(1 << 20))


def overlapping(folder):
    """One megabyte that a thousand entries share."""
    with zipfile.ZipFile(folder / "bad.h8", "w") as file:
        file.writestr(MANIFEST, bytes(1 << 20))
        whole = file.filelist[0]
        file.filelist.extend(copy(whole) for _ in range(1000))
        for number, entry in enumerate(file.filelist):
            entry.filename = f"{number}.npy"


def nested(folder):
    """JSON of a depth that no parser follows."""
    entries = {MANIFEST: b"[" * 200_000}
    with zipfile.ZipFile(folder / "bad.h8", "w") as file:
        for name, content in {**entries, DIGEST: archive.digest(entries).encode()}.items():
            file.writestr(name, content)


@pytest.mark.parametrize("bad", [packed, overlapping, nested])
def test_files_that_would_take_more_than_they_hold_are_refused(bad, tmp_path):
    bad(tmp_path)
    with memory_below(50 << 20):
        assert loaded(tmp_path / "bad.h8") is None


@pytest.mark.parametrize("value", [-1, None, [], "x"])
def test_parts_of_another_form_are_refused_without_words_of_python(entries, value, tmp_path):
    for place in (("inputs", 0), ("populations", 0), ("populations", 0, "synapses", 0)):
        forged = Entries(deepcopy(entries.manifest), entries.arrays)
        (*parents, last) = ("chip_segments", 0, *place)
        at(forged.manifest, parents)[last] = value
        with pytest.raises(CheckpointError, match="in another form than has8 writes"):
            load(forged.write(tmp_path / "forged.h8"))


def test_a_delay_that_the_target_lacks_is_refused(entries, tmp_path):
    forged = Entries(deepcopy(entries.manifest), entries.arrays)
    place = ("chip_segments", 0, "populations", 0, "synapses", 0)
    at(forged.manifest, place)["delay"] = 63
    with pytest.raises(CheckpointError, match="its delay must be from 0 to 62 steps, not 63"):
        load(forged.write(tmp_path / "forged.h8"))


def test_a_file_of_the_version_before_gets_one_sentence(tmp_path):
    """Version 2 had a manifest beside one file of safetensors."""
    with zipfile.ZipFile(tmp_path / "old.h8", "w") as file:
        manifest = {
            "format": FORMAT,
            "version": 2,
            "provenance": {},
            "nodes": [],
            "chip_segments": [],
        }
        file.writestr(MANIFEST, json.dumps(manifest))
        file.writestr("tensors.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError) as refused:
        load(tmp_path / "old.h8")
    (sentence,) = str(refused.value).splitlines()
    assert f"version 2, and this has8 reads version {VERSION}" in sentence
    assert sentence.endswith("write it with has8-map")


# ------------------------------------------------------- scales that do not fit, while mapping


@pytest.fixture(scope="module")
def scales(mapped):
    """The scales that rounding finds, by population."""
    return {
        layer.name: Scale(
            tuple(np.broadcast_to(layer.neuron.threshold.ravel(), layer.shape[:1]).tolist()),
            tuple(synapse.weight_exp for synapse in layer.synapses),
            tuple(synapse.sign_mode for synapse in layer.synapses),
        )
        for chip in mapped.chip_segments
        for layer in chip.populations
    }


NAME = "blocks.1.snn.neuron"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exponents": (9,)}, "a weight exponent must be from -7 to 7, not 9"),
        ({"exponents": (10**6,)}, "a weight exponent must be from -7 to 7, not 1000000"),
        ({"exponents": (0.5,)}, "a weight exponent must be from -7 to 7, not 0.5"),
        ({"thresholds": 10**9}, "a threshold must be from 1 to 131,071, not 1000000000"),
        ({"thresholds": -300}, "a threshold must be from 1 to 131,071, not -300"),
        ({"thresholds": 0}, "a threshold must be from 1 to 131,071, not 0"),
        ({"thresholds": 0.5}, "a threshold must be from 1 to 131,071, not 0.5"),
        ({"sign_modes": ("both",)}, "a sign mode must be .*, not 'both'"),
        ({"sign_modes": ()}, "another model or another partition"),
        ({"exponents": (0, 0)}, "another model or another partition"),
    ],
    ids=str,
)
def test_given_scales_that_do_not_fit_are_refused_while_mapping(vgg, digits, scales, change, words):
    change = dict(change)
    if "thresholds" in change:
        channels = len(scales[NAME].thresholds)
        change["thresholds"] = (300,) * (channels - 1) + (change["thresholds"],)
    given_scales = {**scales, NAME: replace(scales[NAME], **change)}
    with pytest.raises(BadInput, match=rf"layer '{NAME}'.* {words}") as refused:
        map_model(vgg, calibration=digits[:8], scales=given_scales)
    assert len(str(refused.value).splitlines()) == 1


def test_given_scales_of_all_layers_map_as_they_did(vgg, mapped, digits, scales, tmp_path):
    again = map_model(vgg, calibration=digits[:64], scales=scales)
    for chip, other in zip(mapped.chip_segments, again.chip_segments, strict=True):
        for one, two in zip(chip.populations, other.populations, strict=True):
            assert (one.neuron.threshold == two.neuron.threshold).all()
            assert (one.synapses[0].weight == two.synapses[0].weight).all()


@pytest.mark.parametrize(
    ("registers", "words"),
    [
        ({"threshold_max": 100}, "a threshold must be from 1 to 100, not"),
        ({"weight_exp_max": -1}, "a weight exponent must be from -7 to -1, not"),
        ({"sign_modes": ("excitatory",)}, "a sign mode must be excitatory, not 'mixed'"),
        ({"bias_min": -3, "bias_max": 3, "bias_exp_max": 0}, None),
        ({"weight_bits": (1, 2, 4)}, "weights of 8 bits cannot be stored; choose from 1 to 4"),
    ],
    ids=str,
)
def test_what_was_tuned_for_another_target_is_refused_while_mapping(vgg, digits, registers, words):
    """Or is legal there: biases are clipped, and the errors say so."""
    tuned = prepare(deepcopy(vgg), TARGET, calibration=digits[:16], scales="round")
    options = {"calibration": digits[:16], "weight_bits": 8, "scales": tuned.scales}
    if words is None:
        mapped = map_model(vgg, target(**registers), **options)
        assert sum(error.clipped for error in mapped.errors.values()) > 0
        return
    layer = "" if "weight_bits" in registers else r"layer 'blocks\.0\.snn\.neuron'.* "
    with pytest.raises(BadInput, match=layer + words) as refused:
        map_model(vgg, target(**registers), **options)
    assert len(str(refused.value).splitlines()) == 1


# --------------------------------------------------------------------------- files that changed


@dataclass
class Entries:
    """An artefact taken apart."""

    manifest: dict
    arrays: dict

    def write(self, path: Path) -> Path:
        """Put it together again, with the digest of what it now is."""
        with path.open("wb") as file:
            archive.write(file, json.dumps(self.manifest).encode(), self.arrays)
        return path


@pytest.fixture(scope="module", params=["everything", "spikes out"])
def artefact(request, tmp_path_factory):
    """A small artefact, and what simulates it."""
    mapped = map_model(NETS[request.param](), input_shape=IMAGE)
    return save(mapped, tmp_path_factory.mktemp("artefact") / "good.h8")


@pytest.fixture(scope="module")
def entries(artefact):
    manifest, arrays = archive.read(artefact)
    return Entries(json.loads(manifest), arrays)


def loaded(path):
    """The mapping; None where a CheckpointError of one sentence says why there is none."""
    try:
        return load(path)
    except CheckpointError as error:
        (sentence,) = str(error).splitlines()
        assert repr(str(path)) in sentence
        return None


slow = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = st.sampled_from(
    [None, True, False, -(2**40), -1, 0, 1, 2, 3, 5, 8, 9, 100, 2**31, 2**40, 2**64, -0.5, 0.5,
     1.0, 1e30, "", "x", "lif", "mixed", "chip", "host", "value", "spike", "lsb", [], {}, [1], "é"]
)  # fmt: skip


def places(value, path=()):
    """The path of everything in some JSON, containers before what they hold."""
    yield path
    if isinstance(value, dict | list):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from places(value[key], (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


@st.composite
def changed_manifests(draw, manifest):
    """A manifest with up to three entries changed, removed, doubled, or put in others' places."""
    manifest = json.loads(json.dumps(manifest))  # a copy, in a tenth of deepcopy's time
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        part = draw(st.sampled_from([*manifest] or [None]))
        if part is None:
            break
        every = [(part, *path) for path in places(manifest[part])]
        path = draw(st.sampled_from(every))
        holder, key = at(manifest, path[:-1]), path[-1]
        action = draw(st.sampled_from(["replace", "replace", "nudge", "remove", "double", "move"]))
        if action == "remove":
            del holder[key]
        elif action == "double" and isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]))
        elif action == "move":
            holder[key] = deepcopy(at(manifest, draw(st.sampled_from(every))))
        elif action == "nudge" and type(holder[key]) in (int, float):
            holder[key] += draw(st.sampled_from([-1, 1, -0.25, 8, 4096]))
        else:
            holder[key] = deepcopy(draw(SCALARS))  # or the next example would find it changed
    return manifest


@st.composite
def changed_arrays(draw, original):
    """Arrays of which up to two are edited, dropped, retyped, reshaped or swapped."""
    arrays = dict(original)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        array, action = arrays[name], draw(st.sampled_from(["edit", "edit", *ARRAY_ACTIONS]))
        if action == "drop":
            del arrays[name]
        elif action == "swap":
            other = draw(st.sampled_from(sorted(arrays)))
            arrays[name], arrays[other] = arrays[other], array
        elif action == "edit" and array.size and array.dtype.kind in "iuf":
            array = arrays[name] = array.copy()
            kind = np.iinfo if array.dtype.kind in "iu" else np.finfo
            edges = [0, 1, kind(array.dtype).min, kind(array.dtype).max]
            edges += [] if kind is np.iinfo else [np.nan, np.inf, -1e30]
            edge = edges[draw(st.integers(0, len(edges) - 1))]
            array.flat[draw(st.integers(0, array.size - 1))] = edge
        elif action == "retype":
            kind = draw(st.sampled_from(["f4", ">f4", "f8", "i1", "i8", "u8", "?", "c8", "U3"]))
            with np.errstate(all="ignore"):
                arrays[name] = original[name].astype(kind)
        elif action == "reshape":
            arrays[name] = RESHAPED[draw(st.integers(0, len(RESHAPED) - 1))](array)
        else:
            arrays[name] = np.full(array.shape, 2**63 + 5, np.uint64)
    return arrays


ARRAY_ACTIONS = ["drop", "swap", "retype", "reshape", "huge"]
RESHAPED = [
    np.ravel,
    np.transpose,
    lambda array: array[None],
    lambda array: array[..., None],
    lambda array: array.ravel()[:0],
    lambda array: array.ravel()[-1:],
    lambda array: np.repeat(array.ravel(), 2),
]


@slow
@given(data=st.data())
def test_damaged_bytes_end_in_an_equal_mapping_or_in_a_checkpoint_error(artefact, data, tmp_path):
    good = artefact.read_bytes()
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["flip", "flip", "set", "cut", "insert"]))
        if action == "flip":
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif action == "set":
            content[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF]))
        elif action == "cut":
            del content[place : place + data.draw(st.integers(1, 100))]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
        if not content:
            break
    (tmp_path / "bad.h8").write_bytes(content)
    again = loaded(tmp_path / "bad.h8")
    assert again is None or bytes_of(again, tmp_path) == good


@slow
@given(data=st.data())
def test_entries_that_changed_behind_the_digest_are_refused(artefact, entries, data, tmp_path):
    """Whatever the zip says: what its entries hold is what was written, or it is not read."""
    good = artefact.read_bytes()
    with zipfile.ZipFile(artefact) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    what = data.draw(st.sampled_from(["manifest", "arrays", "digest", "extra", "twice"]))
    if what == "manifest":
        manifest = data.draw(changed_manifests(entries.manifest))
        parts[MANIFEST] = json.dumps(manifest, separators=(",", ":"), ensure_ascii=False).encode()
    elif what == "arrays":
        changed = data.draw(changed_arrays(entries.arrays))
        parts = {n: d for n, d in parts.items() if not n.endswith(SUFFIX)}
        for name, array in changed.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            parts[f"{name}{SUFFIX}"] = content.getvalue()
    elif what == "digest":
        parts[DIGEST] = data.draw(st.sampled_from([b"", b"0" * 64, b"\xff", parts[DIGEST].upper()]))
        if data.draw(st.booleans()):
            del parts[DIGEST]
    elif what == "extra":
        parts[data.draw(st.sampled_from(["x", "x.npy", "chip/x.npy", "../x"]))] = b"x"
    with zipfile.ZipFile(tmp_path / "bad.h8", "w") as file:
        for name, content in parts.items():
            file.writestr(zipfile.ZipInfo(name), content)
        if what == "twice":
            with pytest.warns(UserWarning, match="Duplicate name"):
                file.writestr(zipfile.ZipInfo(MANIFEST), parts[MANIFEST][:-1])
    again = loaded(tmp_path / "bad.h8")
    assert again is None or bytes_of(again, tmp_path) == good
    assert what in ("manifest", "arrays") or again is None


def assert_sound(mapped, folder):
    """It checks, saves, runs and is priced like any other; a backend may say that it cannot."""
    check_mapped(mapped)
    again = load(save(mapped, folder / "again.h8"))
    assert bytes_of(again, folder) == (folder / "again.h8").read_bytes()
    images = torch.rand(2, *mapped.graph.input.type.shape, generator=torch.manual_seed(0))
    try:
        run = simulate(mapped, images, "reference", record=("spikes",))
    except BadInput as error:  # other weights make values that an encoder does not take
        assert "coding takes" in str(error)
        with pytest.raises(BadInput, match=re.escape(str(error))):
            simulate(mapped, images)
        return
    try:
        fast = simulate(mapped, images, record=("spikes",))
    except BackendError:  # what only the reference does: shifts of sums to the right, for one
        fast = run
    for segment, spikes in run.spikes.items():
        for name, tensor in spikes.items():
            assert torch.equal(fast.spikes[segment][name], tensor)
    assert torch.equal(fast.logits.nan_to_num(7), run.logits.nan_to_num(7))
    report = estimate(mapped, run)
    for price in report.prices.values():
        for figure in price.figures:
            assert all(map(math.isfinite, (figure.low, figure.value, figure.high)))
    assert len(repr(mapped)) < 10_000


@settings(slow, max_examples=times_laws(120))
@given(data=st.data())
def test_forged_manifests_are_refused_or_are_sound(entries, data, tmp_path):
    changed = Entries(data.draw(changed_manifests(entries.manifest)), entries.arrays)
    mapped = loaded(changed.write(tmp_path / "forged.h8"))
    if mapped is not None:
        assert_sound(mapped, tmp_path)


@settings(slow, max_examples=times_laws(60))
@given(data=st.data())
def test_forged_arrays_are_refused_or_are_sound(entries, data, tmp_path):
    changed = Entries(entries.manifest, data.draw(changed_arrays(entries.arrays)))
    mapped = loaded(changed.write(tmp_path / "forged.h8"))
    if mapped is not None:
        assert_sound(mapped, tmp_path)


def node(name, **changes):
    """A forgery: entries of a node, and of its attributes, replaced; None removes."""

    def forge(manifest, arrays):
        (entry,) = (entry for entry in manifest["nodes"] if entry["name"] == name)
        for key, value in changes.items():
            holder = entry if key in entry else entry["attrs"]
            holder[key] = value
            if value is None:
                del holder[key]

    return forge


def signal(name, **changes):
    """A forgery of what a node says of its output."""

    def forge(manifest, arrays):
        (entry,) = (entry for entry in manifest["nodes"] if entry["name"] == name)
        entry["type"].update(changes)

    return forge


def array(name, change):
    """A forgery of an array."""

    def forge(manifest, arrays):
        arrays[name] = change(arrays[name])

    return forge


def second_input(manifest, arrays):
    manifest["nodes"].insert(1, {**manifest["nodes"][0], "name": "y"})


def no_pixel(manifest, arrays):
    manifest["nodes"][0]["type"]["shape"] = [1, 0, 8]


def float_channels(manifest, arrays):
    manifest["chip_segments"][0]["populations"][0]["synapses"][0]["wiring"]["channels_in"] = 2.0


def wide_registers(manifest, arrays):
    manifest["target"]["registers"]["synapse_shift"] = 45


def other_reset(manifest, arrays):
    manifest["chip_segments"][0]["populations"][0]["neuron"]["reset"] = "subtract"


def unlikely(manifest, arrays):
    next(iter(manifest["errors"].values()))["mismatch"] = 1.5


FORGED = {
    "two inputs": (second_input, "it must have one input, not 2"),
    "no pixel": (no_pixel, "'x' .* is wrong: it says value"),
    "input of spikes": (signal("x", kind="spike"), "'x' .* is wrong: it says spike"),
    "graded input": (signal("x", bits=3), "'x' .* is wrong: it says 3-bit value"),
    "stride 0": (node("conv.0", stride=[0, 1]), "'conv.0' .*>= 1"),
    "no padding": (node("conv.0", padding=None), "'conv.0' .*required field `padding`"),
    "a word for groups": (node("conv.0", groups="x"), "'conv.0' .*Expected `int`"),
    "groups": (node("up.0", groups=2), "'up.0' .* 2 groups do not divide 3 channels"),
    "more attributes": (node("front.1", attrs={"negative_slope": 0.1, "x": 1}), "unknown field"),
    "output padding": (node("up.0", output_padding=[2, 0]), "must be smaller than stride"),
    "two sources": (node("conv.0", inputs=["encode", "encode"]), "it takes 1 inputs, not 2"),
    "one summand": (node("add", inputs=["up.0"]), "'add' .* it takes 2 inputs, not 1"),
    "leak": (node("one", beta=1.5), "'one' .*<= 1"),
    "no threshold": (node("one", threshold=0), "'one' .*> 0"),
    "odd reset": (node("one", reset="soft"), "'one' .*'soft'"),
    "a reset that its integers do not have": (
        node("one", reset="subtract"),
        "steps of 'one' are .'zero', 0., and the graph has .'subtract', 0.",
    ),
    "refractory steps that its integers do not have": (
        node("one", refractory=1),
        "steps of 'one' are .'zero', 0., and the graph has .'zero', 1.",
    ),
    "a reset that its node does not have": (
        other_reset,
        "steps of 'one' are .'subtract', 0., and the graph has .'zero', 0.",
    ),
    "empty range": (node("encode", lo=3.0, hi=3.0), "'encode' .*lo must be below hi"),
    "odd order": (node("encode", order="x"), "'encode' .*'x'"),
    "odd coding": (node("encode", coding="x"), "'encode' .*'x'"),
    "latency without a function": (node("again", coding="latency"), "'again' .*`function`"),
    "too large": (node("front.1", negative_slope=1e39), "'front.1' .*<= 3.4"),
    "variance": (
        array("graph/front.3/running_var", lambda x: x * 0 - 1),
        "variance and eps must be more than 0",
    ),
    "channels of a norm": (array("graph/front.3/bias", lambda x: x[:1]), "of all channels"),
    "bias": (array("graph/conv.0/bias", lambda x: x[:2]), "2 values for 3 outputs"),
    "no number": (array("graph/classify/weight", lambda x: x * np.nan), "weight must be finite"),
    "doubles": (array("graph/classify/weight", lambda x: x.astype("f8")), "be of float32"),
    "axes": (array("graph/decode/weights", lambda x: x[:, None]), "with 1 axes"),
    "no tensor": (node("classify", tensors=["bias"]), r"needs the tensors \['weight'\]"),
    "tensors for nothing": (node("front.1", tensors=["x"]), "is no mapped model"),
    "channels that are no int": (float_channels, "whole numbers"),
    "numbers beyond int64": (wide_registers, "'one' .* could have .* bits"),
    "more than all spikes differ": (unlikely, "mismatch of .* must be from 0 to 1, not 1.5"),
    "integers beyond int64": (
        array("chip/chip/one/bias", lambda x: np.full(x.shape, 2**63 + 5, np.uint64)),
        "integers that int64 holds",
    ),
}


@pytest.mark.parametrize("artefact", ["everything"], indirect=True)
def test_what_is_put_together_again_unchanged_is_loaded(entries, tmp_path):
    assert loaded(entries.write(tmp_path / "same.h8")) is not None


@pytest.mark.parametrize("artefact", ["everything"], indirect=True)
@pytest.mark.parametrize("what", FORGED)
def test_forgeries_are_refused_with_what_is_wrong(entries, what, tmp_path):
    change, words = FORGED[what]
    forged = Entries(deepcopy(entries.manifest), dict(entries.arrays))
    change(forged.manifest, forged.arrays)
    with pytest.raises(CheckpointError, match=words):
        load(forged.write(tmp_path / "forged.h8"))


def test_only_regular_files_that_hold_what_they_say_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.h8")
    for path in (tmp_path / "pipe.h8", "/dev/zero"):
        with pytest.raises(CheckpointError, match="no regular file"):
            load(path)
    with zipfile.ZipFile(tmp_path / "bomb.h8", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", bytes(2**22))
    with pytest.raises(CheckpointError, match="more than the file does"):
        load(tmp_path / "bomb.h8")


@pytest.mark.parametrize("fact", [float("nan"), float("inf"), object(), {1: 2}])
def test_facts_that_would_not_come_back_are_not_saved(mapped, tmp_path, fact):
    odd = replace(mapped, provenance={"fact": fact})
    with pytest.raises(BadInput, match=r"provenance\.fact"):
        save(odd, tmp_path / "odd.h8")
    assert not list(tmp_path.iterdir())
