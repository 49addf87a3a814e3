"""Every public function refuses, in one sentence, an argument of another type."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from netx_files import small, written
from nir_files import small as small_nir
from torch import nn

import has8
import hwsim
import mapping
from has8.data import ArrayImages, ImageDataset
from has8.errors import BadInput, Has8Error
from has8.models.pretrained import Encoder
from has8.training.hardware import Hardware
from hwsim.backends.fast.backend import Fast
from hwsim.backends.lava.backend import Lava

UNFIT: dict[str, Any] = {
    "None": None,
    "True": True,
    "a negative number": -7,
    "a fraction": 2.5,
    "NaN": float("nan"),
    "text": "no such thing",
    "bytes": b"x",
    "an object": object(),
    "a class": dict,
    "an empty list": [],
    "a list of objects": [object()],
    "nested lists": [[1], [1, 2]],
    "a dictionary": {"x": object()},
    "a function": lambda: None,
    "a number of NumPy": np.float32("nan"),
    "an array of text": np.array(["x"]),
    "a tensor": torch.zeros(2, 2),
    "a module": nn.Identity(),
}
"""Values of many types; none is what a function can work with, but where FIT says so."""

FIT: dict[str, set[str]] = {
    "resume": {"True"},
    "remeasure": {"True"},
    "compile": {"True"},
    "on_progress": {"None", "a function", "a class", "a module"},
    "on_stage": {"None", "a function", "a class", "a module"},
    "limits": {"None"},
    "cores": {"None"},
    "chips": {"None"},
    "latency_us": {"None", "a fraction"},
    "energy_uj": {"None", "a fraction"},
    "accuracy": {"None"},
    "provenance": {"None"},
    "hardware": {"None"},
    "out": {"None", "text"},
    "keep": {"None", "text"},
    "path": {"text"},
    "weights": {"None"},
    "model": {"a module"},
    "net": {"a module"},
    "x of calibrate": {"None"},
    "root": {"None", "text"},
    "image_size": {"None"},
    "steps of load_data": {"None"},
    "steps of read_netx": {"None"},
    "readout of read_netx": {"None"},
    "steps of read_nir": {"None"},
    "dt of read_nir": {"None", "a fraction"},
    "reset of read_nir": {"None"},
    "readout of read_nir": {"None"},
    "segment": {"None"},
    "dt of write_nir": {"a fraction"},
    "window_us": {"None"},
    "steps of Data": {"None"},
    "clip_norm": {"None", "a fraction"},
    "lr": {"a fraction"},
    "weight_decay": {"a fraction"},
    "subset": {"None"},
    "devices": {"None"},
    "num_nodes": {"None"},
    "name of Data": {"text"},
    "name of alternative": {"text"},
    "class_names": {"an array of text"},
    "class_names of Data": {"an array of text", "an empty list"},
    "head": {"an empty list"},
    "partition": {"an empty list"},
    "pins": {"None"},
    "calibration": {"None"},
    "input_shape of map_model": {"None"},
    "input_shape of check_model": {"None"},
    "labels": {"None"},
    "weight_bits": {"None"},
    "recording": {"None"},
    "record": {"an empty list"},
    "address": {"None", "text"},
    "timeout_s": {"a fraction"},
    "device": {"None"},
    "seconds": {"a fraction"},
}
"""Of each argument, by its name, what it may be all the same."""

RESULTS = {
    *(
        "Activity",
        "Agreement",
        "Alternative",
        "Checkpoint",
        "Comparison",
        "CostReport",
        "Exploration",
        "History",
        "Mapped",
    ),
    *("Has8Error", "Overview", "Run"),
}
"""What functions give and nobody makes."""
READ = {"Target"}
"""Made of files, whose tests are test_target's."""


def options() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"num_classes": 3, "in_channels": 1, "base": 2, "depth": 1, "head": [4]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """For each public name, what to call and arguments with which it works."""
    folder = tmp_path_factory.mktemp("doors")
    images = torch.rand(4, 1, 8, 8, generator=torch.manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0])
    rows = mapping.map_model(mapping.read_nir(small_nir(folder / "some.nir"), steps=4))
    part = ArrayImages((images * 255).byte(), labels)
    data = has8.Data("some", part, part, (1, 8, 8), ("a", "b", "c"))
    model = has8.calibrate(has8.create_model("has8_vgg", **options()), images)
    encoder = Encoder("test_efficientnet")
    torch.save(encoder.body.state_dict(), folder / "encoder.pth")
    pixels = ArrayImages(torch.zeros(1, 3, 160, 160, dtype=torch.uint8), [0])
    photographs = has8.Data("some", pixels, pixels, (3, 160, 160), ("a", "b"))
    mapped = mapping.map_model(model, calibration=images)
    run = hwsim.simulate(mapped, images)
    step = nn.Sequential(nn.Linear(4, 3), snn.Leaky(0.5, init_hidden=True))
    mapping.save(mapped, folder / "m.h8")
    mapping.save_model(model, images, folder / "saved.pt")
    saved = {"input_shape": (1, 8, 8), "class_names": ("a", "b", "c")}
    has8.save_checkpoint(folder / "m.pt", model, **saved)
    config = has8.TrainConfig(epochs=1, batch_size=2)
    ran = {"mapped": mapped, "x": images}
    step = nn.Sequential(nn.Linear(64, 3), snn.Leaky(beta=0.5, init_hidden=True))
    calls: dict[str, dict[str, Any]] = {
        "TrainConfig": defaults(has8.TrainConfig),
        "Hardware": defaults(Hardware),
        "Data": {f.name: getattr(data, f.name) for f in fields(data)},
        "calibrate": {"model": model, "x": images, "remeasure": True, "batch_size": 2},
        "create_model": {"name": "has8_vgg", **options()},
        "evaluate": {"model": model, "dataset": part, "batch_size": 2, "hardware": None},
        "fit": {
            **{"model": model, "data": data, "config": config, "hardware": None},
            **{"out": folder / "run", "resume": False, "on_progress": None, "provenance": {}},
        },
        "load_checkpoint": {"path": folder / "m.pt"},
        "load_data": {
            **{"name": "digits", "root": None, "image_size": 8, "preprocess": "crop"},
            **{"steps": None, "binning": "time", "window_us": None},
        },
        "embed": {"data": photographs, "encoder": encoder, "on_progress": None},
        "pretrained": {"name": "test_efficientnet", "weights": folder / "encoder.pth"},
        "model_names": {},
        "model_options": {"name": "has8_vgg"},
        "save_checkpoint": {
            "path": folder / "n.pt",
            "model": model,
            **saved,
            "provenance": {},
        },
        "check_model": {
            **{"model": model, "target": "loihi", "calibration": images},
            **{"input_shape": (1, 8, 8), "inputs": "values", "output": 0},
        },
        "load": {"path": folder / "m.h8"},
        "load_model": {"path": folder / "saved.pt"},
        "load_target": {"name_or_path": "loihi"},
        "map_model": {
            **{"model": model, "target": "loihi", "partition": "all", "calibration": images},
            **{"pins": {"head.snn": "host"}, "input_shape": (1, 8, 8), "weight_bits": 8},
            **{
                "scales": "round",
                "per_channel": False,
                "inputs": "values",
                "output": 0,
                "reset": "trained",
                "allocation": "latency",
                "placement": "descent",
                "placement_seed": 0,
                "coding": "binary",
                "on_progress": None,
                "provenance": {},
            },
        },
        "read_netx": {
            **{"path": written(folder / "some.net", small()), "steps": 4, "delay": 1},
            **{"clear_every": 2, "clear_at": 1, "coding": "spikes", "seed": 0, "readout": "count"},
        },
        "read_nir": {
            **{"path": folder / "some.nir", "steps": 4, "dt": 1e-4, "decay": "euler"},
            **{"reset": "zero", "coding": "spikes", "seed": 0, "readout": "count"},
        },
        "over_time": {"net": step, "steps": 2, "readout": "count", "input": "rate", "seed": 0},
        "save": {"mapped": mapped, "path": folder / "n.h8"},
        "save_model": {
            **{"model": model, "example": images, "path": folder / "n.pt"},
            **{"inputs": "values", "output": 0, "provenance": {}},
        },
        "target_names": {},
        "write_netx": {"mapped": rows, "path": folder / "n.net", "segment": "chip"},
        "write_nir": {"mapped": rows, "path": folder / "n.nir", "segment": "chip", "dt": 1.0},
        "Faults": defaults(hwsim.Faults),
        "Faulty": {"inner": Fast(), "faults": hwsim.Faults()},
        "Lava": {"timeout_s": 600.0},
        "Recording": {"mapped": mapped, "samples": 4, "record": ["spikes"], "first": 0},
        "agreement": {
            **{**ran, "backend": "fast", "labels": labels, "batch_size": 2, "first": 0},
            **{"recording": None, "on_progress": None},
        },
        "alternative": {
            **{"name": "all", **ran, "labels": labels, "host": "jetson-orin-nano"},
            **{"run_mode": "reset", "timing": "mean", "batch_size": 2, "on_progress": None},
        },
        "least": {"alternatives": [hwsim.alternative("all", mapped, images)]},
        "compare": {**ran, "left": "fast", "right": "fast"},
        "estimate": {
            **{"mapped": mapped, "run": run, "host": "jetson-orin-nano", "run_mode": "reset"},
            "timing": "mean",
        },
        "measure_host": {**{**ran, "host": "jetson-orin-nano", "device": "cpu", "seconds": 0.01}},
        "fault_sweep": {
            **{**ran, "labels": labels, "faults": hwsim.Faults(), "severities": (1.0,)},
            **{"backend": "fast", "batch_size": 2, "first": 0, "on_progress": None},
        },
        "Limits": defaults(hwsim.Limits),
        "explore": {
            **{**ran, "labels": labels, "host": "jetson-orin-nano", "objective": "energy"},
            **{
                "limits": None,
                "pins": {},
                "most": 1,
                "batch_size": 2,
                "keep": None,
                "on_stage": None,
            },
        },
        "simulate": {
            **{**ran, "backend": "fast", "batch_size": 2, "record": ["spikes"], "first": 0},
            **{"apart": 2, "on_progress": None},
        },
        "simulate_on_ray": {
            **{**ran, "backend": "fast", "address": "nobody:1", "batch_size": 2, "record": []},
            **{"on_progress": None, "retries": 0, "timeout_s": 1.0},
        },
    }
    return SimpleNamespace(calls=calls)


def defaults(kind: type) -> dict[str, Any]:
    return {f.name: f.default for f in fields(kind)}


HOMES = (has8, mapping, hwsim)
PUBLIC: dict[str, Callable[..., Any]] = {
    name: getattr(home, name)
    for home in HOMES
    for name in home.__all__
    if name not in RESULTS | READ
} | {"Hardware": Hardware, "Lava": Lava}


@pytest.mark.parametrize("name", PUBLIC)
def test_an_argument_of_another_type_is_refused_in_one_sentence(name, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = world.calls[name]
    ray = name == "simulate_on_ray"  # whose arguments are refused before a cluster is looked for
    if not ray:
        PUBLIC[name](**usual)
    faults = []
    for argument in usual:
        fit = FIT.get(f"{argument} of {name}", FIT.get(argument, set()))
        for what in UNFIT.keys() - fit:
            try:
                PUBLIC[name](**{**usual, argument: UNFIT[what]})
                said = "it was taken"
            except Has8Error as error:
                late = len(str(error)) > 400 or (ray and "Ray" in str(error))
                said = str(error) if late else ""
            except Exception as error:
                said = repr(error)
            if said:
                faults.append(f"{argument}={what}: {said[:90]}")
    assert not faults, "\n".join([f"{name}: {len(faults)}", *faults])


def test_every_public_name_and_argument_is_tried(world):
    assert world.calls.keys() == PUBLIC.keys()
    for name, arguments in world.calls.items():
        known = inspect.signature(PUBLIC[name]).parameters
        named = {n for n, p in known.items() if p.kind is not p.VAR_KEYWORD}
        assert named <= arguments.keys(), name


@pytest.mark.parametrize("kind", [has8.TrainConfig, Hardware, hwsim.Faults])
def test_what_settings_keep_are_plain_values(kind):
    """Whatever numbers of NumPy they are made of, so that files can hold them."""
    usual = defaults(kind) | ({"subset": 9} if kind is has8.TrainConfig else {})
    made = kind(**{name: np.asarray(x)[()] if x is not None else x for name, x in usual.items()})
    assert made == kind(**usual)
    for name, value in usual.items():
        assert type(getattr(made, name)) is type(value)


def test_a_list_is_a_tuple_where_one_is_kept():
    part = ArrayImages(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), [0, 1])
    data = has8.Data("some", part, part, torch.ones(1, 8, 8).shape, ["a", "b"])
    assert (data.input_shape, data.class_names) == ((1, 8, 8), ("a", "b"))
    assert type(data.input_shape) is tuple


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("epochs", "3", "epochs must be a whole number of at least 1, not '3'"),
        ("lr", float("nan"), "lr must be a number above 0, not nan"),
        ("lr", 10**400, "lr must be a number above 0, not a number of 1,329 bits"),
        ("clip_norm", "1", "clip_norm must be a number above 0, or None, not '1'"),
        ("seed", torch.tensor(1), r"seed must be .* below 2\*\*64, not a tensor int64\[\]"),
    ],
    ids=["text", "NaN", "too large", "text or None", "tensor"],
)
def test_a_setting_that_is_none_is_named_with_what_it_must_be(field, value, words):
    with pytest.raises(BadInput, match=f"^{words}$"):
        has8.TrainConfig(**{field: value})


def test_a_calibration_that_is_refused_leaves_the_ranges_as_they_were():
    model = has8.create_model("has8_vgg", **options())
    has8.calibrate(model, torch.rand(4, 1, 8, 8))
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with pytest.raises(BadInput, match="the model cannot take images of 3x8x8"):
        has8.calibrate(model, torch.rand(4, 3, 8, 8), remeasure=True)
    assert all(values.equal(before[name]) for name, values in model.state_dict().items())


class Loader(ImageDataset):
    """Images of a user's own, whose labels turn out to be odd at the second batch."""

    flip = False

    def __init__(self, later) -> None:
        self.later, self.served = later, 0

    def __len__(self) -> int:
        return 8

    def read(self, chunks):
        for chunk in chunks:
            self.served += len(chunk)
            labels = torch.arange(len(chunk)) % 3
            yield torch.rand(len(chunk), 1, 8, 8), self.later(labels) if self.served > 4 else labels


ODD_LABELS = {
    "from 1": (lambda y: y + 1, "labels must be from 0 to 2, one for each output .* from 1 to 3$"),
    "negative": (lambda y: y - 1, "labels must be from 0 to 2, .* from -1 to 1$"),
    "fractions": (lambda y: y / 2, r"labels must be \d whole numbers, .*, not an array float32"),
    "one hot": (nn.functional.one_hot, r"labels must be \d whole numbers, .*, not an array int64"),
    "too few": (lambda y: y[1:], r"labels must be \d whole numbers, one for each image"),
    "words": (lambda y: ["cat"] * len(y), r"labels must be \d whole numbers, one for each image"),
    "of a type that NumPy has not": (lambda y: y.bfloat16(), "whole .* not a tensor bfloat16"),
}


@pytest.mark.parametrize("odd", ODD_LABELS)
def test_odd_labels_of_a_loader_are_told_in_the_middle_of_an_epoch(odd):
    later, words = ODD_LABELS[odd]
    model = has8.create_model("has8_vgg", **options())
    fine = Loader(lambda labels: labels)
    data = has8.Data("odd", Loader(later), fine, (1, 8, 8), ("a", "b", "c"))
    config = has8.TrainConfig(epochs=1, batch_size=4)
    with pytest.raises(BadInput, match=words):
        has8.fit(model, data, config)
    assert data.train.served == 8
    with pytest.raises(BadInput, match=words):
        has8.evaluate(model, Loader(later), batch_size=4)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: (x, x), "not a tuple"),
        (lambda x: x.flatten(1)[:, 0], r"not a tensor float32\[\d\]"),
        (lambda x: x, r"not a tensor float32\[\d, 1, 8, 8\]"),
        (lambda _: None, "not None"),
    ],
)
def test_a_model_that_answers_with_no_logits_is_told_so(answer, words):
    class Model(nn.Identity):
        def forward(self, x):
            return answer(x)

    fine = Loader(lambda labels: labels)
    data = has8.Data("some", fine, fine, (1, 8, 8), ("a", "b", "c"))
    for take in (
        lambda: has8.fit(Model(), data, has8.TrainConfig(epochs=1, batch_size=4)),
        lambda: has8.evaluate(Model(), fine),
    ):
        with pytest.raises(BadInput, match=f"one tensor of logits .*{words}"):
            take()
