"""Counts are those of other tools, which run as packages on the same layers and the same spikes.

Where a tool counts something else, the test says by how much, and why. The packages are the
dependency group "oracles"; what is not installed is skipped.
"""

import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import snntorch as snn
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the benchmarks are no part of the installed packages

from benchmarks import counting, dvs, oracles  # noqa: E402
from benchmarks.cost_cases import on_chip  # noqa: E402
from has8 import over_time  # noqa: E402
from hwsim import estimate, simulate  # noqa: E402
from hwsim.price.energy import events_pj  # noqa: E402
from hwsim.price.traffic import segment_loads  # noqa: E402
from hwsim.program import Program  # noqa: E402
from mapping import load_target, map_model  # noqa: E402
from mapping.cores.routes import routes  # noqa: E402

STEPS, SAMPLES = 5, 3


def needs(package):
    reason = oracles.missing(package)
    return pytest.mark.skipif(reason is not None, reason=str(reason))


def neurons(threshold=1.0, **options):
    """Integrators that reset to zero in the same step, as the chip's do."""
    rules = {"reset_mechanism": "zero", "reset_delay": False, "init_hidden": True}
    return snn.Leaky(beta=1.0, threshold=threshold, **rules, **options)


def whole(layer):
    """The layer with even weights up to 254, some of them zero, which a chip holds as they are."""
    weights = torch.randint(-40, 64, layer.weight.shape, generator=seeded()) * 4.0
    weights[weights.abs() < 20] = 0.0
    weights.flatten()[0] = 254.0
    layer.weight.data = weights
    return layer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spikes(*shape, rate=0.3):
    return (torch.rand(STEPS, SAMPLES, *shape, generator=seeded(1)) < rate).float()


def mapped_and_run(net, x, **options):
    """The cost report of a network that is mapped and run."""
    mapped = map_model(net, calibration=x, scales="round", **options)
    return estimate(mapped, simulate(mapped, x))


# Layers that spikes feed

LAYERS = {
    "strided": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 9, 8)),
    "dilated": (nn.Conv2d(4, 6, (3, 2), padding=(0, 2), dilation=(2, 1)), (4, 7, 6)),
    "grouped": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False), (4, 6, 6)),
    "one column": (nn.Conv1d(3, 4, 5, padding=2), (3, 9)),
    "linear": (nn.Linear(12, 7), (12,)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 5, 5)),
    "transposed in groups": (nn.ConvTranspose2d(4, 6, (2, 3), stride=(1, 2), groups=2), (4, 5, 4)),
}


@pytest.fixture(scope="module", params=LAYERS)
def fed(request):
    """A layer, spikes, and has8's counts with the layer on the chip and on the host."""
    layer, shape = LAYERS[request.param]
    step, x = nn.Sequential(whole(layer), neurons(output=True)), spikes(*shape)
    net = over_time(step, readout="spikes", input="steps")
    (counts,), (on_host,) = (
        mapped_and_run(net, x, inputs="spikes", partition=partition).layers
        for partition in ("all", "none")
    )
    assert (counts.side, on_host.side, counts.spiking) == ("chip", "host", True)
    for name in ("dense", "dense_padded", "effective", "synops"):
        assert getattr(counts, name) == getattr(on_host, name)
    return step, x, counts


@needs("neurobench")
def test_spikes_count_as_in_neurobench(fed):
    step, x, counts = fed
    found = oracles.neurobench(step, x, spiking=True)
    assert found["Effective_MACs"] == 0
    if isinstance(step[0], nn.ConvTranspose2d):  # not a layer for it
        assert (found["Effective_ACs"], found["Dense"]) == (0, 0) < (counts.effective, counts.dense)
    else:
        assert found["Effective_ACs"] == counts.effective / SAMPLES > 0
        assert found["Dense"] == counts.dense


@needs("spikingjelly")
def test_spikes_count_as_in_spikingjelly(fed):
    """It counts weights of zero, as synapses that a core stores; that is ``synops`` here."""
    step, x, counts = fed
    found = oracles.spikingjelly(lambda: step[0](x.flatten(0, 1)))
    assert found == {"synops": counts.synops, "acs": counts.synops, "macs": 0}
    assert counts.synops > counts.effective


@needs("fvcore")
def test_layers_without_skipping_count_as_in_fvcore(fed):
    step, x, counts = fed
    (found,) = oracles.fvcore(step[0], x[:, 0]).values()
    assert counts.dense_padded == found


def test_layers_without_skipping_count_as_in_torch(fed):
    step, x, counts = fed
    found = oracles.torch_flops(step[0], x[:, 0])
    assert 2 * counts.dense_padded == found


# Whole networks


@needs("neurobench")
@pytest.mark.parametrize("partition", ["all", "none"])
def test_a_hybrid_network_counts_as_in_neurobench(partition):
    """Values feed the first layer, spikes the others; sparsity is that of all neurons."""
    step = nn.Sequential(
        whole(nn.Conv2d(2, 4, 3, padding=1, bias=False)),
        neurons(600.0),
        whole(nn.Conv2d(4, 6, 3, stride=2, bias=False)),
        neurons(600.0),
        nn.Flatten(),
        whole(nn.Linear(54, 5, bias=False)),
        neurons(400.0, output=True),
    )
    x = torch.randint(-3, 4, (STEPS, SAMPLES, 2, 8, 8), generator=seeded(2)).float().relu()
    net = over_time(step, readout="spikes", input="steps")
    mapped = map_model(net, calibration=x, inputs="steps", scales="round", partition=partition)
    run = simulate(mapped, x)
    with torch.no_grad():
        assert torch.equal(run.logits, net(x))
    cost, found = estimate(mapped, run), oracles.neurobench(step, x, spiking=True)
    assert cost.effective_macs == found["Effective_MACs"] > 0
    assert cost.effective_acs == found["Effective_ACs"] > 0
    assert cost.dense == found["Dense"]
    neuron_steps = STEPS * SAMPLES * (4 * 64 + 6 * 9 + 5)
    fired = sum(int(run.activity.events[name].sum()) for name in ("net.1", "net.3"))
    fired += int(run.logits.sum())
    assert found["ActivationSparsity"] == (neuron_steps - fired) / neuron_steps


@needs("neurobench")
def test_pooled_spikes_count_as_in_neurobench_where_pooling_is_in_the_weights():
    """Spikes that are averaged are values there, so MACs; a chip has the average in its synapses.

    Each spike then reaches its own synapses: as many for each output as inputs are averaged.
    """
    first, second = whole(nn.Conv2d(2, 4, 3, bias=False)), whole(nn.Conv2d(4, 6, 3, bias=False))
    step = nn.Sequential(first, neurons(400.0), nn.AvgPool2d(2), second, neurons(output=True))
    joined = nn.Conv2d(4, 6, 6, stride=2, bias=False)
    joined.weight.data = torch.kron(second.weight.data, torch.ones(1, 1, 2, 2)) / 4
    moved = nn.Sequential(first, step[1], joined, step[4])
    x = spikes(2, 10, 10)
    cost = mapped_and_run(over_time(step, readout="spikes", input="steps"), x, inputs="spikes")
    pooled, same = (oracles.neurobench(net, x, spiking=True) for net in (step, moved))
    assert (same["Effective_ACs"], same["Dense"]) == (cost.effective_acs, cost.dense)
    assert same["Effective_MACs"] == cost.effective_macs == 0
    one, other = cost.layers
    assert pooled["Effective_ACs"] == one.effective / SAMPLES
    assert pooled["Dense"] == one.dense + other.dense / 4
    assert 0 < pooled["Effective_MACs"] < other.effective / SAMPLES


@needs("neurobench")
def test_values_are_multiplied_even_if_all_of_them_are_0_or_1():
    """NeuroBench looks at the numbers of a batch, has8 at the type of the edge."""
    net, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), torch.tensor([[1.0, 0, 1, 1, 0, 0]])
    for values, name in ((x, "Effective_ACs"), (x / 2, "Effective_MACs")):
        cost, found = mapped_and_run(net, values), oracles.neurobench(net, values, spiking=False)
        assert found[name] == cost.effective_macs == 3 * 4
        assert sum(found[other] for other in ("Effective_ACs", "Effective_MACs")) == 3 * 4
        assert cost.effective_acs == 0


@needs("neurobench")
def test_sums_stay_whole_where_those_of_neurobench_do_not():
    """It adds up in float32, which has no odd number above 2 ** 24."""
    layer, x = nn.Linear(4097, 4099, bias=False), torch.ones(1, 4097)
    nn.init.ones_(layer.weight)
    (counts,) = mapped_and_run(nn.Sequential(layer), x).layers
    found = oracles.neurobench(nn.Sequential(layer), x / 2, spiking=False)
    assert counts.effective == counts.dense == 4097 * 4099 == 16_793_603
    assert found["Effective_MACs"] % 2 == 0 and abs(found["Effective_MACs"] - counts.dense) <= 2**8


# Layers on the host


@pytest.fixture(scope="module")
def residual():
    """A small ResNet, an image, and has8's counts on the host."""
    torch.manual_seed(0)
    block = torchvision.models.resnet.BasicBlock
    net = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=10).eval()
    x = torch.randn(1, 3, 32, 32)
    return net, x, mapped_and_run(net, x, partition="none").layers


@needs("neurobench")
def test_dense_operations_of_a_resnet_are_those_of_neurobench(residual):
    net, x, layers = residual
    found = oracles.neurobench(net, x, spiking=False)
    assert found["Dense"] == sum(layer.dense for layer in layers)
    assert found["Effective_ACs"] == 0


@needs("spikingjelly")
def test_macs_of_a_resnet_are_those_of_spikingjelly(residual):
    """It multiplies padding, and does not skip zeros."""
    net, x, layers = residual
    assert oracles.spikingjelly(lambda: net(x))["macs"] == sum(x.dense_padded for x in layers)


@needs("fvcore")
def test_macs_of_a_resnet_are_those_of_fvcore(residual):
    net, x, layers = residual
    found = oracles.fvcore(net, x)
    for kind, name in (("conv2d", "conv"), ("linear", "linear")):
        assert found[name] == sum(layer.dense_padded for layer in layers if layer.kind == kind)


def test_flops_of_a_resnet_are_twice_its_macs(residual):
    net, x, layers = residual
    assert oracles.torch_flops(net, x) == 2 * sum(layer.dense_padded for layer in layers)


class Attention(nn.Module):
    """Attention by torch's module, or by its function."""

    def __init__(self, module):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True) if module else None
        self.project, self.read = nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, x):
        if self.attention is not None:
            return self.read(self.attention(x, x, x)[0].mean(1))
        queries, keys, values = self.project(x).chunk(3, -1)
        return self.read(F.scaled_dot_product_attention(queries, keys, values).mean(1))


@pytest.fixture
def plainly():
    """Attention as products of matrices, which torch's counter sees; its fast paths it does not."""
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(True)


CALLS = {
    "attention module": (Attention(True), (7, 16), 3 * 7 * 16 * 16 + 2 * 7 * 7 * 16 + 7 * 16 * 16),
    "attention function": (Attention(False), (7, 16), 7 * 16 * 48 + 2 * 7 * 7 * 16),
    "volumes": (nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.Flatten()), (2, 4, 5, 5), 16_200),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_only_torch_describes_are_counted_as_torch_does(name, plainly):
    net, shape, macs = CALLS[name]
    x = torch.randn(2, *shape, generator=seeded(3))
    layers = mapped_and_run(net.eval(), x, partition="none").layers
    assert 2 * sum(layer.dense for layer in layers) == oracles.torch_flops(net, x[:1])
    calls = [layer for layer in layers if layer.kind == "torch"]
    assert sum(layer.dense for layer in calls) == macs
    assert all(layer.dense == layer.dense_padded for layer in calls)  # padding counts
    assert all(layer.effective == 2 * layer.dense for layer in calls)  # zeros count


@needs("fvcore")
@pytest.mark.parametrize(
    ("name", "unseen"), [("attention module", 0), ("attention function", 2 * 7 * 7 * 16)]
)
def test_attention_counts_as_in_fvcore_where_it_sees_it(name, unseen):
    """The function's two products of matrices, 7 x 7 x 16 each, are unknown to it."""
    net, shape, _ = CALLS[name]
    x = torch.randn(1, *shape, generator=seeded(3))
    layers = mapped_and_run(net.eval(), x, partition="none").layers
    found = oracles.fvcore(net.eval(), x)
    assert found.get("linear", 0) + found.get("bmm", 0) == sum(x.dense for x in layers) - unseen


# SANA-FE


class Small(nn.Sequential):
    """One step of two convolutions and a linear layer; its integers are the chip's."""

    def __init__(self):
        super().__init__(
            whole(nn.Conv2d(2, 4, 3, padding=1, bias=False)),
            neurons(400.0),
            whole(nn.Conv2d(4, 6, 3, stride=2, bias=False)),
            neurons(600.0),
            nn.Flatten(),
            whole(nn.Linear(54, 5, bias=False)),
            neurons(400.0, output=True),
        )


@pytest.fixture(scope="module")
def on_cores():
    """A mapping on many small cores, what it did with one sample, and what SANA-FE did."""
    loihi, x = load_target("loihi"), spikes(2, 8, 8)[:, :1]
    small = msgspec.structs.replace(loihi.core, neurons=16)
    target, net = msgspec.structs.replace(loihi, core=small), over_time(Small(), input="steps")
    mapped = map_model(net, target, calibration=x, inputs="spikes", scales="round")
    run = Program(mapped).run(x, record=("spikes", "membranes"), keep_state=True)
    with torch.no_grad():
        assert torch.equal(run.logits, net(x))
    return mapped, run, oracles.sana_fe(mapped, {"input": x[:, 0].bool()})


@needs("sanafe")
def test_every_spike_and_every_synapse_is_that_of_sana_fe(on_cores):
    mapped, run, other = on_cores
    (chip,), events = mapped.chip_segments, estimate(mapped, run).events
    for population in chip.populations:
        name, first = population.name, chip.depths()[population.name]
        window = other.fired[name][first : first + chip.steps]
        assert (window == run.spikes[chip.name][name][:, 0].numpy()).all()
        assert other.fired[name].sum() == window.sum() > 0
    assert other.synaptic_events == events["synop_conv"] + events["synop_dense"]


@needs("sanafe")
def test_packets_and_hops_are_those_of_sana_fe(on_cores):
    """There a core gets one packet of a spike; here each of its tiles does that the spike reaches.

    There spikes from the host come from the last core, and their hops count; here they do not.
    Spikes for the host are messages here, and nothing there.
    """
    mapped, run, other = on_cores
    (load,), (first, again, of_host) = estimate(mapped, run).loads, packets(mapped, run)
    assert other.packets == first[0]
    assert load.from_host + load.between_tiles == first[0] + again[0] > first[0]
    assert other.hops == first[1:]
    hops = load.hops_east_west, load.hops_north_south
    assert hops == tuple(np.array(first[1:]) + again[1:] - of_host[1:])
    assert min(hops) > 0
    (out,) = mapped.chip_segments[0].outputs
    assert load.messages - first[0] - again[0] == run.activity.events[out].sum() > 0


def packets(mapped, run):
    """(messages, hops along x, hops along y): the first to a core, further ones, the host's.

    The host's are among the first ones.
    """
    tiles, cores = mapped.placement.tiles, mapped.placement.cores
    reached = {}
    for route in routes(mapped.placement, mapped.chip_segments):
        sender = -1 if route.sender is None else tiles[route.sender].core
        way = route.source, sender, tiles[route.destination].core
        counts = reached.setdefault(way, np.zeros(mapped.graph[route.source].type.shape, np.int64))
        counts.reshape(-1, *(*counts.shape, 1, 1)[1:3])[np.ix_(*route.indices)] += 1
    first, again, of_host = np.zeros((3, 3), np.int64)
    for (source, sender, taker), counts in reached.items():
        spikes = run.activity.events[source].sum(0)
        x, y = (7, 3) if sender < 0 else (cores[sender].x, cores[sender].y)
        way = np.array((1, abs(x - cores[taker].x), abs(y - cores[taker].y)))
        first += (spikes * (counts > 0)).sum() * way
        again += (spikes * (counts - 1).clip(0)).sum() * way
        of_host += (spikes * (counts > 0)).sum() * way * (sender < 0)
    return tuple(first.tolist()), again, of_host


@needs("sanafe")
def test_updates_are_those_of_sana_fe(on_cores):
    """There layers go on while others still work, and a neuron whose spikes cancel is updated."""
    mapped, run, other = on_cores
    (chip,), events = mapped.chip_segments, estimate(mapped, run).events
    deepest, layers = max(chip.depths().values()), [m for m in Small() if hasattr(m, "weight")]
    idle = cancelled = 0
    sent = run.inputs[chip.name]["input"]
    for population, layer in zip(chip.populations, layers, strict=True):
        membranes = run.membranes[chip.name][population.name][:, 0]
        idle += int((membranes[-1] != 0).sum()) * (deepest - chip.depths()[population.name])
        before = torch.cat([torch.zeros_like(membranes[:1]), membranes[:-1]])
        x = sent[:, 0].float().flatten(1) if isinstance(layer, nn.Linear) else sent[:, 0].float()
        with torch.no_grad():
            assert (population.synapses[0].weight.ravel() == layer.weight.ravel().numpy()).all()
            current = layer(x)
            layer.weight.fill_(1.0)
            cancelled += int(((before == 0) & (current == 0) & (layer(x) > 0)).sum())
        sent = run.spikes[chip.name][population.name]
    assert other.updated == events["neuron_update"] + idle + cancelled
    assert min(idle, cancelled) > 0


@needs("sanafe")
def test_events_cost_what_they_cost_in_sana_fe(on_cores):
    """Its own counts at the target's prices are its own energy, part by part."""
    mapped, run, other = on_cores
    counts = {
        **estimate(mapped, run).events,
        "neuron_update": other.updated,
        "message_out": other.packets,
        "hop_east_west": other.hops[0],
        "hop_north_south": other.hops[1],
    }
    energy = events_pj(counts, mapped.target.accounting("sanafe"))
    assert {part: pj.value for part, pj in energy.items()} == pytest.approx(
        dict(other.energy_pj), rel=1e-12
    )


@needs("sanafe")
def test_time_is_near_that_of_sana_fe(on_cores):
    """It schedules every message; has8 takes the busiest core of a step and its longest way."""
    mapped, run, other = on_cores
    times = estimate(mapped, run).prices["sanafe"].latency
    error = mapped.target.accounting("sanafe").time_error.value
    ours = times.chip_us.value / error + times.barrier_us.value
    assert ours == pytest.approx(other.time_us, rel=0.04)


# SANA-FE's own network, and one like it


@needs("sanafe")
def test_the_published_network_counts_as_sana_fe_counts_it():
    found = dvs.compared()
    rounded = round(found["has8"].energy_uj, 3)
    assert replace(found["has8"], energy_uj=rounded) == found["SANA-FE"]
    assert found["boxes"].spikes == found["has8"].spikes
    assert found["boxes"].messages < found["has8"].messages / 3


@pytest.fixture(scope="module")
def like_dvs():
    """A small network of the same kind on random cores, has8's counts, and SANA-FE's."""
    rng, loihi = np.random.default_rng(4), load_target("loihi")
    weights = [
        rng.integers(-90, 130, shape) for shape in ((4, 1, 3, 3), (6, 4, 3, 3), (5, 24), (3, 5))
    ]
    biases = rng.integers(0, 60, (1, 9, 9)) * rng.integers(0, 2, (1, 9, 9))
    chip = dvs.network(weights, np.array([99, 150, 200, 250, 90]), biases, 25)
    mapped = on_chip(chip, loihi)
    cores = {p.name: rng.integers(0, 20, p.shape) for p in chip.populations}
    return mapped, cores, dvs.counted(mapped, cores), oracles.sana_fe(mapped, {}, cores)


@needs("sanafe")
def test_biases_leaks_and_segments_without_ports_count_as_in_sana_fe(like_dvs):
    mapped, cores, ours, other = like_dvs
    (chip,) = mapped.chip_segments
    activity = dvs.simulated(chip, mapped.target)
    for late, population in enumerate(chip.populations):
        fired = activity.events[population.name][: chip.steps - late]
        assert (fired == other.fired[population.name][late:]).all() and fired.any()
        assert not other.fired[population.name][:late].any()
    assert ours.updated == other.updated
    assert (ours.synops, ours.messages) == (other.synaptic_events, other.packets)
    sent = dvs.packets(chip, activity, cores, mapped.target)
    assert (sent["hop_east_west"], sent["hop_north_south"]) == other.hops
    assert ours.hops == sum(other.hops) > 0
    assert ours.energy_uj * 1e6 == pytest.approx(sum(other.energy_pj.values()), rel=1e-12)


def test_tiles_send_what_their_cores_do_where_each_core_has_one_of_a_layer():
    chip, loihi = (
        dvs.network(
            [np.ones((4, 1, 3, 3), np.int64) * 90, np.ones((5, 64), np.int64)],
            np.array([99, 150, 200]),
            np.arange(81).reshape(1, 9, 9),
            9,
        ),
        load_target("loihi"),
    )
    number = np.arange(64).reshape(4, 4, 4)
    cores = {
        "inputs": np.full((1, 9, 9), 48),
        "layer1": 40 + number % 4 // 2,
        "layer2": np.arange(5),
    }
    activity = dvs.simulated(chip, loihi)
    (load,) = segment_loads(dvs.placed(chip, loihi, cores), activity)
    assert dvs.packets(chip, activity, cores, loihi) == {
        "message_out": load.between_tiles,
        "hop_east_west": load.hops_east_west,
        "hop_north_south": load.hops_north_south,
    }


# The docs


def test_the_table_of_the_docs_is_what_the_command_counts():
    text, found = (ROOT / "docs" / "counting.md").read_text(encoding="utf-8"), counting.rows()
    head, rule, *lines = counting.table(found)
    shown = [line for line in text.splitlines() if line.count("|") == head.count("|")]
    assert shown[:2] == [head, rule] and len(shown) == 2 + len(found)
    for row, line, there in zip(found, lines, shown[2:], strict=True):
        assert there == line or row.number is None
    weight = counting.layer().weight
    assert f"{int((weight == 0).sum())} of its {weight.numel()} weights" in text
    assert f"{int(counting.spikes().sum())} spikes in {counting.STEPS} steps" in text
