"""Networks in NIR: read, held against NIR's own equations, mapped and run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch as snn
import torch
from nir_files import chain, cuba, fully, graph, lif, small, stepped, written
from torch import nn

from has8 import load_data
from has8.cli.jobs.networks import open_network
from has8.errors import BadInput, CheckpointError
from hwsim import compare, simulate
from mapping import map_model, read_nir
from mapping.graph.evaluate import evaluate
from mapping.graph.trace.nir import read_as_told

FOLDER = Path(os.environ.get("HAS8_DATA", "nowhere")) / "networks" / "nir"
DATA = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="HAS8_DATA names no folder with networks in NIR"
)


def spikes(steps: int, *shape: int, rate: float = 0.3, seed: int = 1) -> torch.Tensor:
    return (torch.rand(steps, *shape, generator=torch.manual_seed(seed)) < rate).double()


def image_network() -> nir.NIRGraph:
    rng = np.random.default_rng(5)
    window = {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
    kernel = rng.normal(0.2, 0.5, (4, 2, 3, 3)).astype(np.float32)
    pool = {"kernel_size": np.array([2, 1]), "padding": np.array([0, 0])}
    units = {"r": np.linspace(0.5, 1.5, 4)[:, None, None] * np.ones((4, 6, 3)) / 1e-4}
    return chain(
        nir.Conv2d(input_shape=(6, 7), weight=kernel, bias=rng.normal(0, 0.1, 4), **window),
        nir.IF(**units, v_threshold=np.full((4, 6, 3), 1.5)),
        nir.SumPool2d(stride=np.array([2, 1]), **pool),
        nir.Scale(scale=rng.uniform(0.2, 0.6, (4, 3, 3))),
        lif((4, 3, 3), v_reset=-0.5, v_leak=0.1),
        nir.AvgPool2d(stride=np.array([1, 1]), **pool),
        nir.Flatten(input_type={"input": np.array([4, 2, 3])}, start_dim=0),
        *fully((24, 9)),
        cuba(9),
        *fully((9, 3), 2),
        nir.CubaLI(
            **{n: np.full(3, v) for n, v in (("tau_syn", 2e-4), ("tau_mem", 1e-3))},
            r=np.ones(3),
            v_leak=np.zeros(3),
        ),
    )


def test_a_network_of_images_is_that_of_its_equations(tmp_path: Path) -> None:
    content = image_network()
    x = spikes(12, 3, 2, 6, 7)
    order = [name for name in content.nodes if name not in ("input", "output")]
    held = stepped(content.nodes, content.edges, order, x.numpy())
    assert all(0 < held[name].mean() < 1 for name in ("if", "lif", "cubalif"))
    last = torch.from_numpy(held["cubali"])
    expected = {"spikes": last, "count": last.sum(0), None: last[-1]}
    path = written(tmp_path / "some.nir", content)
    for readout, answer in expected.items():
        read = read_nir(path, steps=12, readout=readout)
        assert torch.allclose(evaluate(read, x), answer)


def loop(**metadata: Any) -> nir.NIRGraph:
    into, back, out = fully((3, 5, 5, 4))
    nodes = {
        "input": nir.Input(np.array([3])),
        **{"in": into, "a": cuba(5), "back": back, "out": out, "b": lif(4)},
        "output": nir.Output(np.array([4])),
    }
    return graph(nodes, "input in,in a,a back,back a,a out,out b,b output", **metadata)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_loop_takes_a_step_behind_its_neurons(tmp_path: Path, reset: Any) -> None:
    content, x = loop(), spikes(15, 2, 3)
    order = ["in", "back", "a", "out", "b"]
    held = stepped(content.nodes, content.edges, order, x.numpy(), subtract=reset == "subtract")
    path = written(tmp_path / "some.nir", content)
    read = read_nir(path, steps=15, reset=reset, readout="spikes")
    assert torch.equal(evaluate(read, x), torch.from_numpy(held["b"]))
    assert 0.05 < held["b"].mean() < 0.9
    other = read_nir(
        path, steps=15, reset={"zero": "subtract"}.get(reset, "zero"), readout="spikes"
    )
    assert not torch.equal(evaluate(other, x), torch.from_numpy(held["b"]))


def test_a_loop_runs_on_the_chip(tmp_path: Path) -> None:
    path = written(tmp_path / "some.nir", loop(steps=8, reset="zero"))
    mapped = map_model(read_nir(path), placement="snake")
    (chip,) = mapped.chip_segments
    assert {p.name for p in chip.populations} >= {"a", "b"}
    assert chip.loop() is not None
    assert compare(mapped, spikes(8, 4, 3).float(), "fast", "reference").equal


def test_graphs_within_graphs_and_delays(tmp_path: Path) -> None:
    inner = graph(
        {
            "input": nir.Input(np.array([5])),
            **{"lif": lif(5), "w": fully((5, 5))[0], "later": nir.Delay(np.full(5, 3e-4))},
            "output": nir.Output(np.array([5])),
        },
        "input lif,lif later,later w,w lif,lif output",
    )
    nodes = {
        "input": nir.Input(np.array([3])),
        **{"in": fully((3, 5))[0], "sub": inner},
        "output": nir.Output(np.array([5])),
    }
    content = graph(nodes, "input in,in sub,sub output")
    x = spikes(14, 2, 3).numpy()
    read = read_nir(written(tmp_path / "some.nir", content), steps=14, readout="spikes")
    assert [node.attrs["steps"] for node in read if node.op == "delay"] == [3]
    fired, v = np.zeros((17, 2, 5)), np.zeros((2, 5))
    for t in range(14):  # a spike of step t - 3 stands at t
        arriving = x[t] @ nodes["in"].weight.T + nodes["in"].bias
        arriving = arriving + fired[t] @ inner.nodes["w"].weight.T + inner.nodes["w"].bias
        v = 0.75 * v + arriving
        fired[t + 3] = v > 1
        v[v > 1] = 0
    assert torch.equal(evaluate(read, torch.from_numpy(x)), torch.from_numpy(fired[3:]))


def test_what_a_file_leaves_open_is_told_or_read_off_it_and_reported(tmp_path: Path) -> None:
    into, *_ = fully((3, 4))
    plain = written(tmp_path / "plain.nir", chain(into, lif(4)))
    usual = {"dt": 1e-4, "decay": "euler", "reset": "zero", "coding": "spikes", "seed": 0}
    assert read_as_told(plain, steps=5)[1] == {**usual, "steps": 5, "readout": "count"}
    with pytest.raises(BadInput, match="does not say how many steps a sample has: pass steps"):
        read_nir(plain)
    half = read_nir(plain, steps=5, dt=2e-4)["lif"].attrs
    assert (half["beta"], half["gain"]) == (0.5, 2.0)
    left = read_nir(plain, steps=5, decay="exponential")["lif"].attrs["beta"]
    assert left == pytest.approx(np.exp(-0.25))
    facts = {"steps": 7, "dt": 2e-4, "reset": "subtract"}
    graph, told = read_as_told(written(tmp_path / "says.nir", chain(into, lif(4), **facts)))
    assert told == {**usual, **facts, "readout": "count"}
    assert graph["lif"].attrs["reset"] == "subtract"
    each = lif(4)
    each.metadata = {"reset": "subtract_at_once"}
    own = read_nir(written(tmp_path / "own.nir", chain(into, each, steps=3)))
    assert own["lif"].attrs["reset"] == "subtract_at_once"
    both = written(tmp_path / "both.nir", chain(into, lif(4), fully((4, 2))[0], lif(2), steps=3))
    mixed = read_nir(both, reset={"*": "refractory", "lif_1": "zero"})
    assert [mixed[name].attrs["refractory"] for name in ("lif", "lif_1")] == [1, 0]
    with pytest.raises(BadInput, match="no neuron is called 'x': they are lif, lif_1"):
        read_nir(both, reset={"x": "zero"})
    rate = read_nir(plain, steps=5, coding="rate", readout="membrane_max")
    assert [node.op for node in rate] == ["input", "encode", "linear", "membrane", "largest"]
    unit = chain(into, nir.IF(r=np.ones(4), v_threshold=np.ones(4)))
    assert read_as_told(written(tmp_path / "if.nir", unit), steps=5)[1]["dt"] == 1


def test_each_neuron_has_its_delay(tmp_path: Path) -> None:
    (layer,) = fully((3, 4))
    late = np.array([0, 2e-4, 2e-4])
    read = read_nir(
        written(tmp_path / "some.nir", chain(nir.Delay(late), layer, lif(4), steps=9)),
        readout="spikes",
    )
    x = spikes(9, 2, 3)
    shifted = x.clone()
    shifted[2:, :, 1:], shifted[:2, :, 1:] = x[:-2, :, 1:], 0
    alone = read_nir(
        written(tmp_path / "alone.nir", chain(layer, lif(4), steps=9)), readout="spikes"
    )
    held = evaluate(alone, shifted)
    assert held.any()
    assert torch.equal(evaluate(read, x), held)
    (chip,) = map_model(read, placement="snake").chip_segments
    assert sorted(synapse.delay for _, synapse in chip.synapses()) == [0, 2]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([lif(3, tau=5e-5)], "its time constant must be a step at least, 0.0001 s: pass dt"),
        ([lif(3, v_reset=2.0)], "its threshold must be above its v_reset"),
        ([cuba(3, v_leak=0.5)], "its v_leak must be its v_reset, since its currents last"),
        (
            [nir.Delay(np.full(3, 1.5e-4)), lif(3)],
            "node .delay. .Delay.: its delays must be whole numbers",
        ),
        ([nir.Linear(weight=np.ones((2, 2, 3))), lif((2, 2))], "node 'linear' \\(Linear\\)"),
    ],
)
def test_what_is_no_network_of_steps_is_refused_in_one_sentence(
    tmp_path: Path, nodes: Any, words: str
) -> None:
    path = written(tmp_path / "some.nir", chain(*nodes))
    with pytest.raises(CheckpointError, match=words):
        read_nir(path, steps=4)


def test_the_command_line_tells_it_from_other_files(tmp_path: Path) -> None:
    path = str(small(tmp_path / "some.nir"))
    network = open_network(path, args='{"steps": 6}')
    assert (network.shape, network.inputs, network.steps) == ((3,), "spikes", 6)
    assert network.facts["read"]["dt"] == 1e-4
    assert open_network(path, steps=6).steps == 6
    with pytest.raises(BadInput, match="--args of a network in NIR are steps, dt, .*, not 'delay'"):
        open_network(path, args='{"delay": 1}')


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
def test_what_snntorch_writes_is_read_as_it_runs(tmp_path: Path) -> None:
    """Of a recurrent network: its neurons lose a step's input when they reset to zero."""
    pytest.importorskip("nirtorch", reason="nirtorch is in the group oracles")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(0)
    usual = {"init_hidden": True, "reset_mechanism": "zero", "threshold": torch.full((5,), 0.4)}
    decays = {"alpha": torch.full((5,), 0.5), "beta": torch.full((5,), 0.9)}
    net = nn.Sequential(
        nn.Linear(4, 5),
        snn.RSynaptic(linear_features=5, **decays, **usual),
        nn.Linear(5, 5),
        snn.Synaptic(**decays, **usual),
    )
    path = written(tmp_path / "some.nir", export_to_nir(net, torch.zeros(1, 4), ignore_dims=[0]))
    x = spikes(20, 2, 4)
    with torch.no_grad():
        answer = torch.stack([net(arriving) for arriving in x.float()])
    assert 0.02 < answer.mean() < 0.5
    read = read_nir(path, steps=20, reset="refractory", readout="spikes")
    assert torch.equal(evaluate(read, x).float(), answer)
    other = read_nir(path, steps=20, readout="spikes")
    assert not torch.equal(evaluate(other, x).float(), answer)


@DATA
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("braille_noDelay_bias_zero_subgraph", "Edge .* references destination node 'lif'"),
        ("lif_rockpool", "type mismatch: 1_LIFNeuronTorch.output"),
    ],
)
def test_files_that_nir_refuses_get_its_own_words(name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=f"is no network in NIR or is damaged: .*{words}"):
        read_nir(FOLDER / f"{name}.nir", steps=4)


@DATA
@pytest.mark.parametrize(
    ("name", "reset"), [("bias_zero", "zero"), ("noBias_subtract", "subtract")]
)
def test_braille_is_that_of_its_equations_and_loops_on_the_chip(name: str, reset: Any) -> None:
    path = FOLDER / f"braille_noDelay_{name}.nir"
    content, x = nir.read(path), spikes(60, 4, 12, rate=0.1)
    order = ["fc1", "lif1.w_rec", "lif1.lif", "fc2", "lif2"]
    held = stepped(content.nodes, content.edges, order, x.numpy(), subtract=reset == "subtract")
    read = read_nir(path, steps=60, reset=reset, readout="spikes")
    assert torch.equal(evaluate(read, x), torch.from_numpy(held["lif2"]))
    assert held["lif2"].mean() > 0.02
    mapped = map_model(read, placement="snake")
    (chip,) = mapped.chip_segments
    assert {"lif1.lif", "lif2"} <= {p.name for p in chip.populations}
    same = (simulate(mapped, x.float()).logits == torch.from_numpy(held["lif2"])).float().mean()
    assert same > 0.75  # weights of 8 bits over a range in which most are small


@DATA
def test_event_digits_on_the_chip() -> None:
    test = load_data("nmnist", root=FOLDER.parent.parent, steps=50, window_us=1000).test
    x, labels = test.tensors(2)
    mapped = map_model(read_nir(FOLDER / "cnn_sinabs.nir", steps=50), placement="snake")
    (chip,) = mapped.chip_segments
    assert sum(p.size for p in chip.populations) == 8970
    assert mapped.placement.cores_used == 10
    assert torch.equal(simulate(mapped, x).logits.argmax(1), labels)
