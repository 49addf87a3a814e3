"""Chip segments as files of other tools, read back by these and by has8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from netx_files import NEURON, small
from netx_files import written as netx_written
from nir_files import chain, cuba, fully, graph, lif, written

from has8 import load_checkpoint
from has8.cli.commands import has8
from has8.errors import BadInput
from hwsim.backends.fast.backend import Fast
from mapping import Mapped, map_model, read_netx, read_nir, save, write_netx, write_nir
from mapping.chip.neurons import constants
from mapping.chip.segment import ChipSegment
from mapping.chip.wiring import Axis, Wiring
from mapping.export.nir import matrix
from mapping.graph.evaluate import evaluate
from mapping.graph.trace.netx import LARGEST_THRESHOLD

ROOT = Path(__file__).parents[1]
HEAD = "head.snn"
PARTS = ["blocks.2.snn", HEAD]


def mapped(*args: Any, **options: Any) -> Mapped:
    return map_model(*args, placement="snake", **options)


@pytest.fixture(scope="module")
def digits() -> Mapped:
    checkpoint = load_checkpoint(ROOT / "examples" / "models" / "digits.pt")
    return mapped(checkpoint.model, partition=PARTS, input_shape=checkpoint.input_shape)


def ran(some: Mapped, name: str, samples: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Random spikes for a segment's port, and the spikes of its output on the chip."""
    chip = some.chip_segment(name)
    (port,), (output,) = chip.inputs, chip.outputs
    draws = torch.Generator().manual_seed(3)
    x = torch.rand(chip.steps, samples, *port.shape, generator=draws) < 0.3
    spikes = Fast().compile(chip, some.target.registers)({port.name: x}).spikes[output]
    assert spikes.any()
    return x, spikes


@pytest.mark.parametrize("name", ["blocks.2.snn", HEAD])
def test_a_segment_in_nir_is_read_back_with_its_spikes(
    digits: Mapped, tmp_path: Path, name: str
) -> None:
    x, spikes = ran(digits, name)
    read = read_nir(write_nir(digits, tmp_path / "some.nir", segment=name), readout="spikes")
    assert torch.equal(evaluate(read, x.double()).bool(), spikes)


def each_step(net: Any, x: torch.Tensor) -> torch.Tensor:
    """What a network of NIRTorch makes of ``[T, B, ...]``, step by step."""
    state, made = None, []
    for arriving in x:
        answer, state = net(arriving) if state is None else net(arriving, state)
        made.append(answer)
    return torch.stack(made)


class Steps(torch.nn.Module):
    """NIR's LIF in Euler steps of 1e-4 s, for NIRTorch, which has no neurons."""

    def __init__(self, node: nir.LIF) -> None:
        super().__init__()
        self.part = torch.from_numpy(1e-4 / node.tau)
        self.r, self.threshold = torch.from_numpy(node.r), torch.from_numpy(node.v_threshold)

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        v = torch.zeros(()) if state is None else state
        v = v + self.part * (self.r * x - v)
        spikes = (v > self.threshold).double()
        return spikes, v * (1 - spikes)


def affine(node: nir.Affine) -> torch.nn.Linear:
    layer = torch.nn.Linear(*node.weight.T.shape)
    layer.weight.data, layer.bias.data = map(torch.from_numpy, (node.weight, node.bias))
    return layer


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    """Two layers without biases."""
    first, second = (nir.Linear(weight=layer.weight) for layer in fully((6, 8, 5), 4))
    path = tmp_path_factory.mktemp("own") / "own.nir"
    return mapped(read_nir(written(path, chain(first, lif(8), second, lif(5), steps=9))))


@pytest.mark.parametrize("tool", ["nirtorch", "snntorch"])
@pytest.mark.parametrize("name", [HEAD, "chip"])
def test_other_tools_read_it_with_the_same_spikes(
    digits: Mapped, own: Mapped, tmp_path: Path, tool: str, name: str
) -> None:
    nirtorch = pytest.importorskip("nirtorch", reason="nirtorch is in the group oracles")
    some = digits if name == HEAD else own
    x, spikes = ran(some, name)
    content = nir.read(write_nir(some, tmp_path / "some.nir", segment=name))
    if tool == "nirtorch":
        nodes = {nir.LIF: Steps, nir.Affine: affine}
        net = nirtorch.nir_to_torch(content, nodes, dtype=torch.float64)
        found = each_step(net, x.double())
    else:
        from snntorch.import_nir import import_from_nir

        found = each_step(import_from_nir(content), x.float())
    assert torch.equal(found.bool(), spikes)


def test_a_loop_with_currents_that_last_is_read_back(tmp_path: Path) -> None:
    into, back, out = fully((3, 5, 5, 4), 1)
    nodes = {
        "input": nir.Input(np.array([3])),
        **{"in": into, "a": cuba(5), "back": nir.Linear(weight=back.weight), "out": out},
        **{"b": lif(4), "output": nir.Output(np.array([4]))},
    }
    content = graph(nodes, "input in,in a,a back,back a,a out,out b,b output", steps=10)
    chosen = mapped(read_nir(written(tmp_path / "some.nir", content)))
    x, spikes = ran(chosen, "chip")
    again = write_nir(chosen, tmp_path / "again.nir", dt=1e-3)
    read = read_nir(again, readout="spikes")
    assert nir.read(again).metadata["dt"] == 1e-3
    assert torch.equal(evaluate(read, x.double()).bool(), spikes)


def same_integers(one: ChipSegment, other: ChipSegment) -> bool:
    """Whether two segments have the same wirings, weights and neurons."""

    def numbers(chip: ChipSegment) -> list[Any]:
        return [
            *(s.wiring for _, s in chip.synapses()),
            *((s.weight << s.weight_exp).tolist() for _, s in chip.synapses()),
            *(
                np.broadcast_to(x, p.shape).tolist()
                for p in chip.populations
                for x in constants(p.neuron).values()
            ),
        ]

    return numbers(one) == numbers(other)


def rows(biased: bool = False) -> nir.NIRGraph:
    """A convolution and a linear layer."""
    rng = np.random.default_rng(2)
    window = {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
    kernel = rng.normal(0.2, 0.5, (3, 2, 3, 3)).astype(np.float32)
    return chain(
        nir.Conv2d(input_shape=(7, 6), weight=kernel, bias=0.3 * biased * np.ones(3), **window),
        lif((3, 4, 4)),
        nir.Flatten(input_type={"input": np.array([3, 4, 4])}, start_dim=0),
        nir.Linear(weight=rng.normal(0, 0.3, (5, 48))),
        cuba(5),
        steps=6,
    )


def test_a_segment_as_a_network_of_lava_dl_is_the_same_integers(tmp_path: Path) -> None:
    read = read_nir(written(tmp_path / "some.nir", rows()))
    chosen = mapped(read, weight_bits=5)
    path = write_netx(chosen, tmp_path / "some.net")
    again = mapped(read_netx(path, delay=0))
    assert same_integers(*chosen.chip_segments, *again.chip_segments)
    other = mapped(read, weight_bits=6)
    assert not same_integers(*chosen.chip_segments, *other.chip_segments)


def test_a_network_of_lava_dl_comes_back_as_it_was(tmp_path: Path) -> None:
    last = {**NEURON, "vThMant": LARGEST_THRESHOLD}
    for place, neuron in enumerate((NEURON, last)):
        *layers, final = small()
        path = netx_written(tmp_path / f"{place}.net", [*layers, {**final, "neuron": neuron}])
        held = mapped(read_netx(path), "loihi2")
        assert held.chip_segments[0].inputs[0].kind == "bias"
        again = read_netx(write_netx(held, tmp_path / f"again{place}.net"))
        assert same_integers(*held.chip_segments, *mapped(again, "loihi2").chip_segments)
        x = torch.rand(3, 2, 7, 6, generator=torch.manual_seed(1))
        assert torch.equal(evaluate(again, x), evaluate(read_netx(path), x))


def test_what_a_format_cannot_hold_is_refused(digits: Mapped, tmp_path: Path) -> None:
    path = tmp_path / "some"
    with pytest.raises(BadInput, match="segment must be one of blocks.2.snn, head.snn: .* several"):
        write_nir(digits, path)
    with pytest.raises(BadInput, match="has others than 'x'"):
        write_netx(digits, path, segment="x")
    with pytest.raises(BadInput, match="biases within a channel or below a weight's unit"):
        write_netx(digits, path, segment=HEAD)
    biased = read_nir(written(tmp_path / "some.nir", rows()), reset="subtract")
    with pytest.raises(BadInput, match="'lif' has neurons that differ or do not just reset to"):
        write_netx(mapped(biased), path)
    assert not path.exists()


def test_any_wiring_as_a_matrix() -> None:
    rng = np.random.default_rng(0)
    wires = Wiring(Axis(3, 2, 1, 1, 5), Axis(2, 1, 0, 2, 4), 4, 6, 2)
    weight = rng.normal(size=wires.weight_shape)
    x = torch.from_numpy(rng.normal(size=(3, 4, 5, 4)))
    made = torch.nn.functional.conv2d(x, torch.from_numpy(weight), None, (2, 1), (1, 0), (1, 2), 2)
    assert torch.allclose(x.flatten(1) @ torch.from_numpy(matrix(wires, weight)).T, made.flatten(1))


def test_the_command_writes_beside_the_mapping(tmp_path: Path) -> None:
    content = written(tmp_path / "some.nir", rows())
    save(mapped(read_nir(content)), tmp_path / "net.h8")
    for form, suffix in (("nir", "nir"), ("netx", "net")):
        done = CliRunner().invoke(has8, ["export", str(tmp_path / "net.h8"), "--to", form])
        assert done.exit_code == 0, done.output
        assert done.output.strip() == str(tmp_path / f"net.{suffix}")
    assert (
        read_nir(tmp_path / "net.nir")["conv2d"].type
        == read_netx(tmp_path / "net.net")["layer.0.synapses"].type
    )
