"""Networks of the user's own on the command line: a file of theirs, a saved network, their data."""

import json
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from netx_files import small, written
from torch import nn

from has8 import over_time
from has8.cli import main
from has8.cli.jobs.networks import load_weights
from has8.cli.options import READOUTS
from has8.cli.preparation import Preparation, Prepared
from has8.data import ArrayImages
from has8.errors import BadInput, CheckpointError, Has8Error
from has8.steps import Readout
from hwsim import simulate
from mapping import load, map_model, read_netx, save_model
from mapping.graph.ir import Kind, Signal

CODE = """
import snntorch as snn
import torch
from torch import nn

print("this file was run")


class Net(nn.Module):
    def __init__(self, beta=0.9):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 9, stride=5)
        self.lif1 = snn.Leaky(beta=beta, reset_mechanism="zero")
        self.fc = nn.Linear(108, 10)
        self.lif2 = snn.Leaky(beta=beta, reset_mechanism="zero")

    def forward(self, x):
        one, two, spikes = self.lif1.init_leaky(), self.lif2.init_leaky(), []
        for step in range(x.size(0)):
            now, one = self.lif1(self.conv(x[step]), one)
            now, two = self.lif2(self.fc(now.flatten(1)), two)
            spikes.append(now)
        return torch.stack(spikes)


def one_step(beta=0.8):
    torch.manual_seed(0)
    options = {"beta": beta, "init_hidden": True, "reset_mechanism": "zero", "threshold": 0.3}
    layers = [nn.Linear(64, 20), snn.Leaky(**options), nn.Linear(20, 10)]
    return nn.Sequential(*layers, snn.Leaky(**options, output=True))


def nothing():
    return 1 / 0


def alone():
    return nn.Sequential(nn.Linear(64, 10), snn.Leaky(0.9, init_hidden=True))


def text():
    return "no network"


class SamplesFirst(Net):
    def forward(self, x):
        return super().forward(x.transpose(0, 1))


class Fixed(Net):
    def forward(self, x):
        return super().forward(torch.stack([x[..., t] for t in range(6)]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The user's file, weights, events and saved networks."""
    made = tmp_path_factory.mktemp("own")
    (made / "mynet.py").write_text(CODE)
    (made / "broken.py").write_text("x = 1\nclass Net(:\n")
    names = {}
    exec(CODE, names)
    torch.manual_seed(0)
    net = names["Net"]()
    prefixed = {f"module._orig_mod.{name}": tensor for name, tensor in net.state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": prefixed}, made / "state.pt")
    torch.save({"fc.weight": torch.ones(2, 2)}, made / "odd.pt")
    save_model(over_time(names["one_step"](), 4), torch.rand(4, 64), made / "net.pt")
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 6), ("test", 4)):
        arrays |= {f"{part}_{name}": draw.integers(0, 34, 50 * count) for name in "xy"}
        arrays[f"{part}_p"] = draw.integers(0, 2, 50 * count)
        arrays[f"{part}_dt"] = draw.integers(0, 900, 50 * count)
        arrays[f"{part}_offsets"] = np.arange(0, 50 * count + 1, 50)
        arrays[f"{part}_labels"] = np.arange(count)
    np.savez(made / "nmnist_small.npz", **arrays)
    return made


@pytest.fixture
def here(monkeypatch, capfd, folder, tmp_path):
    """``has8`` in this process, among the user's files; what it writes goes elsewhere."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HAS8_DATA", str(folder))
    monkeypatch.chdir(folder)

    def call(verb, *arguments):
        out = ["--out", str(tmp_path), "--verify", "none", "--quiet"] if verb == "map" else []
        monkeypatch.setattr("sys.argv", ["has8", verb, *map(str, arguments), *out])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return call


EVENTS = ("--data", "nmnist", "--steps", 6)


def test_a_network_of_the_users_file_maps_on_events_and_is_simulated_on_the_same(
    here, folder, tmp_path
):
    code, out, err = here("map", "mynet.py:Net", "--weights", "state.pt", *EVENTS, "--json")
    assert code == 0, err
    assert "this file was run" in err and json.loads(out)["model"] == "Net"
    mapped = load(tmp_path / "Net.h8")
    names = {}
    exec(CODE, names)
    net = names["Net"]()
    load_weights(net, folder / "state.pt")
    for name in ("conv", "fc"):
        assert mapped.graph[name].tensors["weight"].equal(getattr(net, name).weight)
    data = Preparation(steps=6).load("nmnist", folder, "crop")
    again = map_model(net, calibration=data.train.tensors()[0], inputs="spikes")
    assert [n.name for n in again.graph] == [n.name for n in mapped.graph]
    code, out, err = here("simulate", tmp_path / "Net.h8", "--json", "--quiet")
    assert code == 0, err
    assert json.loads(out)["samples"] == 4
    assert json.loads(out)["data"] == "nmnist"


@pytest.mark.parametrize(("name", "axis"), [("SamplesFirst", 1), ("Fixed", 4)])
def test_the_axis_of_the_steps_is_seen_in_the_forward(here, folder, tmp_path, name, axis):
    code, out, err = here("map", "mynet.py:Net", "--weights", "state.pt", *EVENTS, "--json")
    expected = json.loads(out)
    code, out, err = here("map", f"mynet.py:{name}", "--weights", "state.pt", *EVENTS, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["accuracy"] == expected["accuracy"] and report["samples"] == 4
    shape = [2, 34, 34]
    shape.insert(axis - 1, 6)
    mapped = load(tmp_path / f"{name}.h8")
    assert mapped.graph.input.type == Signal(tuple(shape), Kind.SPIKE)
    code, out, err = here("simulate", tmp_path / f"{name}.h8", "--json", "--quiet")
    assert code == 0, err
    assert json.loads(out)["samples"] == 4
    code, out, err = here("check", f"mynet.py:{name}", *EVENTS, "--json")
    assert code == 0 and json.loads(out)["neuron_layers"] == {"chip": 2, "all": 2}
    options = ["--inputs", "spikes", "--steps", 6, "--input-shape", "2,34,34", "--json"]
    code, out, err = here("check", f"mynet.py:{name}", *options)
    assert code == 0 and json.loads(out)["neuron_layers"] == {"chip": 2, "all": 2}
    names = {}
    exec(CODE, names)
    events = (torch.rand(2, *shape) < 0.2).float()
    saved = save_model(names[name](), events, tmp_path / "saved.pt", inputs="spikes")
    code, out, err = here("map", saved, *EVENTS, "--json")
    assert code == 0 and json.loads(out)["samples"] == 4, err


def test_a_loop_outside_and_prepared_images(here, tmp_path):
    options = ["--data", "digits", "--flatten", "--mean", "0.3", "--std", "0.4", "--samples", 9]
    loop = ["--steps", 5, "--readout", "count"]
    code, out, err = here("map", "mynet.py:one_step", *options, *loop, "--json")
    assert code == 0, err
    report = json.loads(out)
    signal = load(tmp_path / "one_step.h8").graph.input.type
    assert (signal.shape, signal.steps, report["samples"]) == ((64,), None, 9)
    code, out, _ = here("simulate", tmp_path / "one_step.h8", "--samples", 9, "--json", "--quiet")
    told = json.loads(out)
    assert code == 0 and told["accuracy"] == report["accuracy"]


def test_values_are_coded_by_rate_with_a_seed(here, tmp_path):
    options = ["--data", "digits", "--flatten", "--samples", 9, "--steps", 5, "--readout", "count"]
    code, _, err = here("map", "mynet.py:one_step", *options, "--coding", "rate", "--seed", 7)
    assert code == 0, err
    graph = load(tmp_path / "one_step.h8").graph
    (encoder,) = (node for node in graph if node.attrs.get("coding") == "rate")
    assert encoder.attrs["seed"] == 7
    code, _, err = here("map", "mynet.py:one_step", *options, "--coding", "latency", "--overwrite")
    assert code == 0, err
    codes = [node.attrs.get("coding") for node in load(tmp_path / "one_step.h8").graph]
    assert "latency" in codes
    assert here("simulate", tmp_path / "one_step.h8", "--samples", 3, "--quiet")[0] == 0


def test_a_saved_network_maps_without_its_code_and_is_known_by_its_content(here, folder, tmp_path):
    (folder / "net.anything").write_bytes((folder / "net.pt").read_bytes())
    for name in ("net.pt", "net.anything"):
        code, _, err = here("map", name, "--data", "digits", "--samples", 5, "--overwrite")
        assert code == 0, err
        assert "this file was run" not in err
    assert load(tmp_path / "net.h8").provenance["model"] == {"name": "StepLoop"}


def test_an_argument_of_the_users_class(here, tmp_path):
    options = [*EVENTS, "--samples", 1, "--args", '{"beta": 0.5}']
    assert here("map", "mynet.py:Net", *options)[0] == 0
    assert load(tmp_path / "Net.h8").graph["lif1"].attrs["beta"] == pytest.approx(0.5)


# What can go where


def test_check_says_what_can_go_where(here):
    code, out, err = here("check", "mynet.py:Net", *EVENTS)
    assert code == 0, err
    assert "2 of 2 neuron layers can go to loihi, with 100 %" in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = here("check", "net.pt", "--json")
    told = json.loads(out)
    assert code == 0 and told["neuron_layers"] == {"chip": 2, "all": 2}
    assert all(layer["reason"] for layer in told["layers"])


def test_check_fails_where_nothing_can_go_to_the_chip(here):
    loop = ["--steps", 5, "--readout", "count", "--inputs", "steps"]
    code, out, err = here("check", "mynet.py:alone", "--input-shape", 64, *loop)
    assert code == 1 and "error: nothing of alone can go to loihi" in err
    assert "can go to loihi, with 0 %" in out and "a chip takes only spikes" in out


# Preparation


@given(st.sampled_from([1, 3]), st.sampled_from([None, 1, 3]), st.booleans(), st.integers(1, 4))
def test_prepared_images_are_what_the_options_say(channels, made, flatten, steps):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, channels, 4, 3), dtype=torch.uint8)
    source = ArrayImages(images, torch.arange(5))
    how = Preparation("steps", None, made, (0.5,), (0.25,), flatten, steps)
    x, labels = Prepared(source, how).tensors()
    count = made or channels
    shape = (count * 12,) if flatten else (count, 4, 3)
    assert x.shape == (steps, 5, *shape) and labels.equal(torch.arange(5))
    assert all(now.equal(x[0]) for now in x)
    before = (x[0].view(5, count, 4, 3) * 0.25 + 0.5) * 255
    if count == channels:
        assert torch.allclose(before, images.float(), atol=1e-3)
    elif count == 3:
        assert torch.allclose(before, images.float().expand(-1, 3, -1, -1), atol=1e-3)
    else:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        assert torch.allclose(before, (images * weights).sum(1, keepdim=True), atol=1e-3)


def test_the_options_name_every_readout():
    assert get_args(Readout) == READOUTS


# Weights


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "net."])
def test_weights_are_found_whatever_is_around_them(wrapper, prefix, tmp_path):
    torch.manual_seed(0)
    one, two = nn.Linear(3, 2), nn.Linear(3, 2)
    state = {f"{prefix}{name}": tensor for name, tensor in one.state_dict().items()}
    torch.save(state if wrapper is None else {"epoch": 1, wrapper: state}, tmp_path / "s.pt")
    load_weights(two, tmp_path / "s.pt")
    assert two.weight.equal(one.weight) and two.bias.equal(one.bias)


@pytest.mark.parametrize("prefix", ["module.", "net."])
def test_a_prefix_that_is_the_network_s_own_stays(prefix, tmp_path):
    torch.manual_seed(0)
    one, two = (nn.ModuleDict({prefix[:-1]: nn.Linear(3, 2)}) for _ in range(2))
    torch.save(one.state_dict(), tmp_path / "s.pt")
    load_weights(two, tmp_path / "s.pt")
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"weight": torch.ones(2, 3)}, "it lacks 'bias'$"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)}, "takes 'x'$"),
        ({"weight": torch.ones(2, 4), "bias": torch.ones(2)}, r"'weight' is of shape \(2, 4\)"),
        ({"epoch": 3}, "holds no state dictionary"),
        (nn.Linear(3, 2), "without running code"),
    ],
)
def test_weights_that_do_not_fit_are_told(content, words, tmp_path):
    torch.save(content, tmp_path / "s.pt")
    net = nn.Linear(3, 2)
    before = net.weight.clone()
    with pytest.raises(CheckpointError, match=words):
        load_weights(net, tmp_path / "s.pt")
    assert net.weight.equal(before)


# Refusals

BAD = {
    "no name": (["map", "mynet.py"], "name the network in mynet.py"),
    "no file": (["map", "absent.py:Net"], "there is no file absent.py"),
    "unknown name": (["map", "mynet.py:Nat", *EVENTS], "has no 'Nat'"),
    "no network": (["map", "mynet.py:text", *EVENTS], "not a str"),
    "a file that fails": (["map", "mynet.py:nothing", *EVENTS], "in line 34: ZeroDivisionError"),
    "a file that is no Python": (["map", "broken.py:Net", *EVENTS], "fails in line 2: SyntaxError"),
    "odd arguments": (["map", "mynet.py:Net", "--args", "{beta}"], "--args takes a JSON object"),
    "unknown argument": (["map", "mynet.py:Net", "--args", '{"x": 1}'], "argument 'x'"),
    "other weights": (["map", "mynet.py:Net", "--weights", "odd.pt", *EVENTS], "it lacks 'conv.b"),
    "weights alone": (["map", "odd.pt"], "FILE.py:NAME --weights odd.pt"),
    "weights of a saved one": (["map", "net.pt", "--weights", "odd.pt"], "network of your own"),
    "no data": (["map", "net.pt"], "--data NAME"),
    "no steps": (["map", "mynet.py:Net", "--data", "nmnist"], "say how many with --steps"),
    "other inputs": (
        ["map", "mynet.py:Net", *EVENTS, "--inputs", "values"],
        "holds events, which are spikes, and the network takes values",
    ),
    "steps of values": (
        ["map", "mynet.py:one_step", "--data", "digits", "--steps", 3],
        "--steps of values are for --readout",
    ),
    "steps of values to check": (
        ["check", "mynet.py:one_step", "--input-shape", 64, "--steps", 3],
        "--steps of values are for --readout",
    ),
    "spikes of images": (
        ["map", "mynet.py:Net", "--data", "digits", "--inputs", "spikes", "--steps", 2],
        "which are no spikes",
    ),
    "images of another shape": (
        ["map", "mynet.py:Net", "--data", "digits"],
        "on 1x8x8 of digits, which --flatten",
    ),
    "a forward without a loop": (
        ["map", "mynet.py:one_step", *EVENTS],
        "a forward that takes one step needs --readout",
    ),
    "mean alone": (["map", "net.pt", "--data", "digits", "--mean", "1"], "belong together"),
    "odd mean": (["map", "net.pt", "--data", "digits", "--mean", "a"], "not numbers"),
    "std of 0": (["map", "net.pt", "--data", "digits", "--mean", 0, "--std", 0], "above 0"),
    "a readout twice": (
        ["map", "net.pt", "--data", "digits", "--readout", "count", "--steps", 2],
        "has its readout already",
    ),
    "a loop of no length": (
        ["map", "mynet.py:one_step", "--data", "digits", "--readout", "count"],
        "--readout loops over the steps",
    ),
    "a coding of events": (
        ["map", "mynet.py:Net", *EVENTS, "--readout", "count", "--coding", "rate"],
        "--coding is of values",
    ),
    "a coding of no loop": (
        ["map", "mynet.py:Net", "--data", "digits", "--coding", "rate"],
        "--coding is of a loop that is added",
    ),
    "check of no input": (["check", "mynet.py:Net"], "say what the network takes"),
    "check of an odd shape": (["check", "mynet.py:Net", "--input-shape", "1,x"], "is not sides"),
    "check of another target": (["check", "net.pt", "--target", "lohi"], "did you mean 'loihi'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_and_exit_code_1(kind, here, tmp_path):
    arguments, words = BAD[kind]
    code, out, err = here(*arguments)
    lines = [line for line in err.splitlines() if line != "this file was run"]
    assert (code, out, len(lines)) == (1, "", 1)
    assert lines[0].startswith("error: ") and words in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "name", "words"),
    [
        ({"mean": (0.5,), "std": (1.0,), "steps": 3}, "nmnist", "are for images"),
        ({"binning": "count"}, "digits", "are for events"),
        ({"inputs": "steps"}, "digits", "say how many with --steps"),
        ({"mean": (0.5, 0.5), "std": (1.0,)}, "digits", "one for each of 1 channels"),
        ({"inputs": "values", "steps": 3}, "nmnist", "holds events, which are spikes"),
    ],
)
def test_options_that_do_not_fit_the_data_are_told(options, name, words, folder):
    with pytest.raises(BadInput, match=words):
        Preparation(**options).load(name, folder, "crop")


def test_errors_are_the_packages_own():
    assert issubclass(CheckpointError, Has8Error)


def test_images_in_a_file_without_labels(here, folder, tmp_path):
    """Nothing is said to be right; the mapping is simulated on the same file."""
    network = written(tmp_path / "some.net", small())
    x = np.random.default_rng(0).random((3, 2, 7, 6), np.float32)
    np.save(tmp_path / "x.npy", x)
    data = ("--data", tmp_path / "x.npy")
    told = ("--steps", 11, "--args", '{"clear_every": 4}')
    code, out, err = here("map", network, "--target", "loihi2", *data, *told, "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == {"float": None, "mapped": None}
    kept = load(tmp_path / "some.h8")
    mapped = map_model(read_netx(network, steps=11, clear_every=4), "loihi2")
    assert torch.equal(*(simulate(one, torch.from_numpy(x)).logits for one in (kept, mapped)))
    code, out, err = here("simulate", tmp_path / "some.h8", *data, "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == {"float": None, "mapped": None}
    code, _, err = here("train", "has8_vgg", *data)
    assert code == 1 and "training holds images out" in err
