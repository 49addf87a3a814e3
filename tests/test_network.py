"""Saved networks: the graph again, whatever they are made of; files that are none are refused."""

import zipfile
from itertools import pairwise

import pytest
import snntorch as snn
import torch
from builders import IMAGE, everything, law
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from torch import nn

from has8 import over_time
from has8.errors import BadInput, CheckpointError, Has8Error
from mapping import check_model, load, load_model, load_target, map_model, save, save_model
from mapping.graph.evaluate import evaluate


class Looped(nn.Module):
    """A network in the style of snnTorch's tutorial 5: its forward loops over the steps."""

    def __init__(self, sizes, beta=0.9, steps=5, reset="zero"):
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in pairwise(sizes))
        self.neurons = nn.ModuleList(snn.Leaky(beta=beta, reset_mechanism=reset) for _ in sizes[1:])

    def forward(self, x):
        states = [neuron.init_leaky() for neuron in self.neurons]
        steps = [x.flatten(1)] * self.steps if x.dim() == 4 else x.flatten(2)
        spikes, membranes = [], []
        for now in steps:
            for place, (layer, neuron) in enumerate(zip(self.layers, self.neurons, strict=True)):
                now, states[place] = neuron(layer(now), states[place])
            spikes.append(now)
            membranes.append(states[-1])
        return torch.stack(spikes).sum(0), torch.stack(membranes)


def looped(*sizes, seed=0, **options):
    torch.manual_seed(seed)
    return Looped(sizes, **options)


def nodes(graph):
    def tensors(node):
        return {name: tensor.tolist() for name, tensor in node.tensors.items()}

    return [(n.name, n.op, n.inputs, n.type, dict(n.attrs), tensors(n)) for n in graph]


@law(15)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.sampled_from(["values", "steps", "spikes"]),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_a_saved_network_is_loaded_as_it_was_and_maps_to_the_same_integers(
    tmp_path_factory, sizes, inputs, steps, seed
):
    folder = tmp_path_factory.mktemp("saved")
    net = looped(16, *sizes, seed=seed, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    shape = (6, 1, 4, 4) if inputs == "values" else (steps, 6, 1, 4, 4)
    x = torch.rand(shape, generator=generator)
    x = x.round() if inputs == "spikes" else x
    path = save_model(net, x, folder / "net.any", inputs=inputs)
    graph = load_model(path)
    again = load_model(save_model(graph, x, folder / "again"))
    assert nodes(again) == nodes(graph)
    assert evaluate(graph, x).isclose(net(x)[0]).float().mean() > 0.75
    mapped = map_model(graph, calibration=x, provenance={"model": "same"})
    other = map_model(net, calibration=x, inputs=inputs, provenance={"model": "same"})
    one, two = (save(m, folder / f"{n}.h8") for n, m in enumerate((mapped, other)))
    assert one.read_bytes() == two.read_bytes()


def test_networks_of_all_kinds_of_layers_are_saved_calibrated(tmp_path):
    model, x = everything(), torch.rand(4, *IMAGE)
    graph = load_model(save_model(model, x, tmp_path / "net.pt"))
    assert torch.allclose(evaluate(graph, x), model(x), atol=1e-5)
    one, two = (map_model(m, input_shape=IMAGE, provenance={"model": 0}) for m in (graph, model))
    same = [save(m, tmp_path / f"{n}.h8").read_bytes() for n, m in enumerate((one, two))]
    assert same[0] == same[1]


def test_a_loop_that_was_outside_and_another_output(tmp_path):
    layer = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), snn.Leaky(beta=0.8, init_hidden=True))
    x = torch.rand(4, 1, 4, 4)
    graph = load_model(save_model(over_time(layer, 7), x, tmp_path / "net.pt"))
    assert evaluate(graph, x).equal(over_time(layer, 7)(x))
    second = load_model(save_model(looped(16, 3), x, tmp_path / "net.pt", output=1))
    assert second.output.type.steps == 5


def test_a_network_that_feeds_itself_is_saved_too(tmp_path):
    """Its graph has a loop, which closes through a delay."""
    torch.manual_seed(0)
    cell = snn.RLeaky(beta=0.8, all_to_all=True, linear_features=3, init_hidden=True)
    net, x = over_time(nn.Sequential(nn.Linear(16, 3), cell), 6), torch.rand(4, 16)
    graph = load_model(save_model(net, x, tmp_path / "net.pt"))
    assert "delay" in {node.op for node in graph}
    assert evaluate(graph, x).equal(net(x))


def test_what_is_no_saved_network_is_told_what_it_is(tmp_path):
    x = torch.rand(4, 1, 4, 4)
    path = save_model(looped(16, 3), x, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="no mapped model .*'has8-network' version 1"):
        load(path)
    save(map_model(load_model(path)), tmp_path / "net.h8")
    with pytest.raises(CheckpointError, match="'has8-mapped' version .*mapping.save_model"):
        load_model(tmp_path / "net.h8")
    with pytest.raises(CheckpointError, match="No such file"):
        load_model(tmp_path / "absent")
    torch.save(looped(16, 3).state_dict(), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="is no saved network"):
        load_model(tmp_path / "state.pt")
    content = path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[:-9])
    (tmp_path / "changed.pt").write_bytes(content.replace(b"neuron", b"nEuron"))
    for name in ("cut.pt", "changed.pt"):
        with pytest.raises(CheckpointError, match="is no saved network or is damaged"):
            load_model(tmp_path / name)
    with zipfile.ZipFile(path) as archive:  # numbers alone
        names = set(archive.namelist())
    assert all(n.endswith(".npy") or n in ("manifest.json", "sha256") for n in names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"calibration": torch.rand(2, 1, 5, 5)}, r"takes inputs of shape \(1, 4, 4\), not \(1, 5"),
        ({"input_shape": (1, 4, 5)}, r"takes inputs of shape \(1, 4, 4\), not \(1, 4, 5\)"),
        ({"inputs": "spikes"}, "saved with the inputs 'values' and one output"),
        ({"output": 1}, "one output: leave out"),
    ],
)
def test_a_loaded_network_takes_what_it_was_saved_with(options, words, tmp_path):
    graph = load_model(save_model(looped(16, 3), torch.rand(4, 1, 4, 4), tmp_path / "net.pt"))
    with pytest.raises(BadInput, match=words):
        map_model(graph, **options)


def test_an_output_that_is_none_is_refused():
    one = over_time(nn.Sequential(nn.Linear(4, 2), snn.Leaky(beta=0.5, init_hidden=True)), 3)
    for model, shape in ((one, (4,)), (nn.Linear(4, 2), (4,))):
        with pytest.raises(Has8Error, match="one (tensor|output), and not one 1"):
            map_model(model, input_shape=shape, output=1)


def test_steps_that_are_not_those_of_the_network_are_refused(tmp_path):
    x = torch.rand(5, 4, 1, 4, 4).round()
    graph = load_model(save_model(looped(16, 3), x, tmp_path / "net.pt", inputs="spikes"))
    with pytest.raises(BadInput, match=r"takes 5 steps of spike\[1x4x4\], \[5, N, ...\]"):
        map_model(graph, calibration=x[:4])


# What can go where


def test_an_overview_says_of_each_layer_where_it_can_run_and_why():
    found = check_model(looped(16, 8, 3, steps=5), input_shape=(1, 4, 4))
    sides = {layer.name: layer.side for layer in found.layers}
    mapped = map_model(looped(16, 8, 3, steps=5), calibration=torch.rand(9, 1, 4, 4))
    chip = {name for segment in mapped.partition.on_chip for name in segment.nodes}
    assert {name for name, side in sides.items() if side == "chip"} == chip
    assert all(layer.reason for layer in found.layers)
    assert found.neuron_layers == 2 and found.on_chip == len(chip & {"neurons.0", "neurons.1"})
    operations = {layer.name: layer.operations for layer in found.layers}
    assert operations["layers.1"] == 8 * 3 * 5
    on_chip = sum(n for name, n in operations.items() if name in chip)
    assert found.chip_share == on_chip / sum(operations.values())


def test_an_overview_says_which_bundled_chip_would_take_a_layer():
    x, loihi = torch.rand(5, 4, 16).round(), load_target("loihi")
    registers = structs.replace(loihi.registers, resets={"zero": 1})
    mine = structs.replace(loihi, name="mine", registers=registers)
    net = looped(16, 3, reset="subtract")
    found = check_model(net, mine, calibration=x, inputs="spikes")
    assert (found.target, found.on_chip, found.chip_share) == ("mine", 0, 0.0)
    elsewhere = {layer.name: layer.elsewhere for layer in found.layers if layer.elsewhere}
    assert elsewhere == dict.fromkeys(("layers.0", "neurons.0"), ("loihi", "loihi2"))
    there = check_model(net, "loihi", calibration=x, inputs="spikes")
    assert (there.on_chip, there.chip_share) == (1, 1.0)
    assert all(layer.elsewhere == () for layer in there.layers)


def test_nothing_spiking_is_no_fault():
    found = check_model(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), input_shape=(1, 4, 4))
    assert (found.neuron_layers, found.on_chip, found.chip_share) == (0, 0, 0.0)
    assert found.operations == 48
