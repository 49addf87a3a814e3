"""Whatever torch runs and no file describes is a node that stays on the host."""

from contextlib import suppress
from dataclasses import replace

import pytest
import snntorch as snn
import torch
import torchvision
from builders import law
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from has8 import calibrate
from has8.blocks import OverTime
from has8.encoders import BitPlaneEncoder, Decoder, bitplane_weights
from has8.errors import CheckpointError, TraceError
from has8.neurons import Leaky
from hwsim import compare, simulate
from hwsim.price.counts import layer_counts
from mapping import load, map_model, save
from mapping.chip.archive import read, write
from mapping.graph.evaluate import evaluate
from mapping.graph.ir import Graph, Node, Signal
from mapping.graph.ops import torch_calls
from mapping.graph.ops.torch_calls import ALLOWED, MOST_ELEMENTS, macs, overload
from mapping.graph.passes import run_passes
from mapping.graph.trace.modules import trace
from mapping.graph.verify import verify_graph

SHAPE = (1, 8, 8)


class Call(nn.Module):
    """A model whose forward is ``run(net, x)``, with some layers."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


class Own(nn.Module):
    """Computes with tensors of its own."""

    def __init__(self, run=lambda own, x: x * own.scale + own.shift):
        super().__init__()
        self.run = run
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 8))
        self.scales = nn.ParameterList([torch.linspace(1, 2, 8)])
        self.register_buffer("shift", torch.ones(1, 8, 1))

    def forward(self, x):
        return self.run(self, x)


class OtherConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Steered(nn.Module):
    """Python looks at shapes, which symbols do not have."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        if x.shape[-1] > 4:
            x = self.conv(x)
        for place in range(len(x.shape)):
            x = x + place
        return x


def attention(net, x):
    return net.heads(x[:, 0], x[:, 0], x[:, 0])[0]


def recurrent(net, x):
    return net.cells(x.squeeze(1).transpose(0, 1))[0].transpose(0, 1)


def gated(net, x):
    a, b = x.chunk(2, 2)
    return a * torch.sigmoid(b)


def masked(net, x):
    mask = x > 0.5
    return x.masked_fill(~mask, 0.0) * mask


def in_place(net, x):
    return net.conv(x).clamp_(0).mul_(2)


MODELS = {
    "sigmoid": nn.Sequential(nn.Sigmoid()),
    "times a number": Call(lambda net, x: x * 0.5),
    "a number minus": Call(lambda net, x: 1 - x),
    "channels in turns": nn.Sequential(nn.Conv2d(1, 4, 3), nn.ChannelShuffle(2)),
    "padded in a circle": nn.Conv2d(1, 2, 3, padding=(2, 1), padding_mode="circular"),
    "max_pool2d": Call(lambda net, x: F.max_pool2d(x, 2)),
    "view in part": Call(lambda net, x: x.view(x.size(0), 4, -1)),
    "mean": Call(lambda net, x: x.mean((2, 3))),
    "mean of all": Call(lambda net, x: x.mean((1, 2, 3)).view(-1, 1)),
    "LayerNorm": nn.Sequential(nn.LayerNorm(8)),
    "Conv1d": Call(lambda net, x: net.conv(x.squeeze(1)), conv=nn.Conv1d(8, 4, 3)),
    "of its own": nn.Sequential(Own()),
    "a view of its own": Own(lambda own, x: x + own.scale.view(1, 8)),
    "from a list": Own(lambda own, x: x + 2 * own.scales[0]),
    "made of its own": Own(lambda own, x: x + 2 * own.shift),
    "made in the forward": Own(lambda own, x: x + torch.ones(8)),
    "a convolution that doubles": OtherConv(1, 2, 3),
    "Linear on rows": Call(lambda net, x: net.fc(x), fc=nn.Linear(8, 3)),
    "activations": nn.Sequential(nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.ELU(), nn.PReLU()),
    "norms": nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)),
    "pools": nn.Sequential(nn.AdaptiveAvgPool2d(5), nn.AvgPool2d(2, ceil_mode=True)),
    "padding": nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(1, 2, 3, padding_mode="reflect")),
    "attention": Call(attention, heads=nn.MultiheadAttention(8, 2, batch_first=True)),
    "GRU": Call(recurrent, cells=nn.GRU(8, 4)),
    "steered by shapes": nn.Sequential(Steered()),
    "two parts": Call(gated),
    "mask": Call(masked),
    "in place": Call(in_place, conv=nn.Conv2d(1, 2, 3)),
    "upsampling": nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear")),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_without_a_file_is_followed_for_every_batch_size(name):
    torch.manual_seed(0)
    net = MODELS[name].eval()
    graph = run_passes(trace(net, SHAPE))
    assert "torch" in {node.op for node in graph}
    for batch in (1, 2, 7):
        x = torch.rand(batch, *SHAPE)
        with torch.no_grad():
            assert torch.allclose(evaluate(graph, x), net(x.clone()), rtol=1e-4, atol=1e-5)


def test_known_layers_in_an_unknown_one_keep_their_nodes():
    squeeze = Call(
        lambda net, x: x * net.gate(net.act(net.conv(x.mean((2, 3), keepdim=True)))),
        conv=nn.Conv2d(1, 3, 1),
        act=nn.Sequential(nn.SiLU(), nn.Conv2d(3, 1, 1)),
        gate=nn.Hardsigmoid(),
    )
    graph = trace(nn.Sequential(squeeze), SHAPE)
    assert [node.name for node in graph if node.op == "conv2d"] == ["0.conv", "0.act.1"]


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: x.view(x.size(0), -1),
        lambda net, x: x.reshape(x.shape[0], 64),
        lambda net, x: torch.flatten(x, start_dim=1),
    ],
)
def test_a_view_that_flattens_is_a_flatten(run):
    graph = trace(Call(lambda net, x: net.fc(run(net, x)), fc=nn.Linear(64, 2)), SHAPE)
    assert [node.op for node in graph] == ["input", "flatten", "linear"]


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Call(lambda net, x: x - x.mean()), "depends on the others of the batch"),
        (Call(lambda net, x: F.dropout(x, 0.5, training=True)), "draws random numbers"),
        (Call(lambda net, x: torch.log(x - 2)), "NaN or infinity"),
        (Call(lambda net, x: x.flatten(1).argmax(1, keepdim=True)), "int64, no float32"),
        (Call(lambda net, x: x.transpose(0, 1)), "must keep the batch axis first"),
        (Call(lambda net, x: x.chunk(2, 2)), "or several values"),
        (
            nn.Sequential(Call(lambda net, x: x if x.sum() > 0 else -x)),
            "layer '0' .Call. cannot be mapped: it branches on values",
        ),
        (Call(lambda net, x: torch.fft.rfft(x).abs()), "no operation that a graph may hold"),
        (Call(lambda net, x: torch.zeros_like(x).copy_(x)), "it copies into a tensor"),
        (Call(lambda net, x: net.act(x), act=nn.LayerNorm(7)), "layer 'act' .LayerNorm."),
    ],
)
def test_what_cannot_be_a_node_is_said_in_one_sentence(net, message):
    with pytest.raises(TraceError, match=message) as caught:
        trace(net, SHAPE)
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers_are_refused():
    net = Own()
    net.scale.data[3] = float("nan")
    with pytest.raises(TraceError, match="not all finite"):
        trace(net, SHAPE)


# ------------------------------------------------------------------------------------ with steps


class Between(nn.Module):
    """Something between the spikes of one layer and the neurons of the next."""

    def __init__(self, *between, whole=None):
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode = BitPlaneEncoder(), Decoder(bitplane_weights("lsb"))
        self.first, self.one = OverTime(nn.Conv2d(1, 2, 3, padding=1)), Leaky(threshold=0.2)
        self.between = OverTime(*between)
        self.second, self.two = OverTime(nn.Conv2d(2, 3, 3, padding=1)), Leaky(threshold=0.1)
        self.whole = whole

    def forward(self, x):
        spikes = self.between(self.one(self.first(self.encode(x))))
        spikes = self.two(self.second(spikes))
        return self.decode(spikes) if self.whole is None else self.whole(spikes)


def test_a_neuron_behind_such_a_layer_stays_on_the_host_and_the_reason_names_it():
    x = torch.rand(9, *SHAPE)
    net = calibrate(Between(nn.Sigmoid(), nn.LayerNorm(8)), x)
    mapped = map_model(net, calibration=x)
    reasons = {rejection.node: rejection.reason for rejection in mapped.partition.rejections}
    assert "between" not in reasons["two"] or "torch" not in reasons["two"]
    assert "takes 8 steps of value[2x8x8], and a chip takes only spikes" in reasons["two"]
    assert "torch runs it" in reasons["between.1"]
    assert [segment.nodes for segment in mapped.partition.on_chip] == [("first.0", "one")]
    assert compare(mapped, x, "fast", "reference").equal


def test_a_layer_right_in_front_of_a_neuron_is_named():
    class Scaled(Between):
        def forward(self, x):
            spikes = self.one(self.first(self.encode(x)))
            return self.decode(self.two(self.second(spikes) * 0.5))

    x = torch.rand(9, *SHAPE)
    mapped = map_model(calibrate(Scaled(), x), calibration=x)
    (reason,) = (r.reason for r in mapped.partition.rejections if r.node == "two")
    assert "its current comes from 'mul' (torch)" in reason


@pytest.mark.parametrize(
    ("whole", "steps"),
    [
        (lambda spikes: spikes.mean(0), None),
        (lambda spikes: spikes.sum(dim=0).flatten(1) / len(bitplane_weights("lsb")), None),
        (lambda spikes: spikes * 0.5, 8),
        (lambda spikes: spikes.transpose(0, 1).reshape(-1, 8 * 192), None),
    ],
)
def test_calls_may_see_all_steps(whole, steps):
    x = torch.rand(5, *SHAPE)
    net = calibrate(Between(nn.Identity(), whole=whole), x)
    graph = run_passes(trace(net, SHAPE))
    assert graph.output.type.steps == steps
    for batch in (1, 2, 5, 8):  # of which one is the number of steps
        x = torch.rand(batch, *SHAPE)
        with torch.no_grad():
            assert torch.allclose(evaluate(graph, x), net(x), atol=1e-5)


# -------------------------------------------------------------------------------------- encoders


class Encoded(nn.Module):
    """An ANN in front of a spiking layer."""

    def __init__(self, encoder, features):
        super().__init__()
        self.encoder, self.encode = encoder, BitPlaneEncoder()
        self.fc, self.neuron = OverTime(nn.Linear(features, 5)), Leaky(threshold=0.2)
        self.decode = Decoder(bitplane_weights("lsb"))

    def forward(self, x):
        return self.decode(self.neuron(self.fc(self.encode(self.encoder(x)))))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_encoders_of_torchvision_map_and_load_again(name, tmp_path):
    """MobileNet has squeeze-and-excitation, SiLU's hard form and pools, as EfficientNet."""
    torch.manual_seed(0)
    encoder, x = getattr(torchvision.models, name)(num_classes=12), torch.rand(3, 3, 32, 32)
    net = calibrate(Encoded(encoder, 12).eval(), x)
    mapped = map_model(net, calibration=x)
    again = load(save(mapped, tmp_path / "net.h8"))
    run = simulate(again, x, batch_size=2)
    assert torch.equal(run.logits, simulate(mapped, x).logits)
    with torch.no_grad():
        assert torch.allclose(evaluate(mapped.graph, x), net(x), atol=1e-4)
    assert [segment.nodes for segment in mapped.partition.on_chip] == [("fc.0", "neuron")]
    convolutions = sum(isinstance(m, nn.Conv2d) for m in encoder.modules())
    assert sum(node.op == "conv2d" for node in mapped.graph) == convolutions


# ---------------------------------------------------------------------------------------- prices


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (
            Call(
                lambda net, x: F.conv1d(x.squeeze(1), net.conv.weight),
                conv=nn.Conv1d(8, 4, 3),
            ),
            4 * 6 * 8 * 3,
        ),
        (Call(lambda net, x: net.fc(x), fc=nn.Linear(8, 3)), 8 * 8 * 3),
        (OtherConv(1, 2, 3), 2 * 6 * 6 * 9),
        (
            Call(
                lambda net, x: net.up(x.squeeze(1)),
                up=nn.ConvTranspose1d(8, 4, 3, stride=2),
            ),
            8 * 8 * 4 * 3,
        ),
        (Call(lambda net, x: x @ x.transpose(2, 3)), 8 * 8 * 8),
        (Call(lambda net, x: torch.sigmoid(x)), 0),
    ],
)
def test_products_are_counted(net, expected):
    graph = trace(net.eval(), SHAPE)
    nodes = [node for node in graph if node.op == "torch"]
    assert sum(macs(n, [graph[name].type for name in n.inputs]) for n in nodes) == expected


def test_counts_and_prices_have_the_calls_in_them():
    x = torch.rand(4, *SHAPE)
    net = calibrate(Encoded(nn.Sequential(OtherConv(1, 2, 3), nn.Flatten()), 72), x)
    mapped = map_model(net, calibration=x)
    layers = layer_counts(mapped, simulate(mapped, x).activity)
    assert [(layer.kind, layer.side) for layer in layers] == [("torch", "host"), ("linear", "chip")]
    assert layers[0].dense == 2 * 6 * 6 * 9
    assert layers[0].effective == 4 * layers[0].dense


# ----------------------------------------------------------------------------------- hostile data


def calls_graph(*calls, result=None, tensors=None, shape=SHAPE):
    """An input and a node of the given calls, as a file could have them."""
    attrs = {
        "timed": [False],
        "merged": False,
        "calls": [{"op": op, "args": args, "kwargs": kwargs} for op, args, kwargs in calls],
        "result": result or {"call": len(calls) - 1},
    }
    node = Node("node", "torch", ("x",), Signal(shape), attrs, tensors or {})
    return Graph((Node("x", "input", (), Signal(SHAPE)), node))


X = {"input": 0}


def test_the_form_is_that_of_a_node():
    verify_graph(calls_graph(("aten.sigmoid.default", [X], {})))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("aten.relu_.default", [X], {}), "no operation that a graph may hold"),
        (("aten.add.out", [X, X], {"out": X}), "no pure function"),
        (("aten.from_file.default", ["/etc/passwd"], {}), "no operation"),
        (("aten.zeros.default", [[10**12]], {}), "no operation"),
        (("aten.bernoulli.default", [X], {}), "no operation"),
        (("aten.as_strided.default", [X, [1], [1], 10**9], {}), "no operation"),
        (("aten.set_.source_Tensor", [X, X], {}), "no operation"),
        (("aten._native_batch_norm_legit.default", [X] * 5 + [True, 0.1, 0.1], {}), "no operation"),
        (("prims.sin.default", [X], {}), "no operation"),
        (("aten.sigmoid.__class__", [X], {}), "torch has no operation"),
        (("aten.__init__.default", [X], {}), "no operation"),
        (("os.system.default", ["true"], {}), "no operation"),
        (("aten.sigmoid", [X], {}), "no operation"),
        (("aten.repeat.default", [X, [10**6, 10**6, 1, 1]], {}), "more than .* numbers"),
        (("aten.expand.default", [X, [2, 10**12, 8, 8]], {}), "more than .* numbers"),
        (("aten.constant_pad_nd.default", [X, [0, 10**10]], {}), "more than .* numbers"),
        (("aten.repeat.default", [X, [10**18] * 4], {}), "do not fit"),
        (("aten._to_copy.default", [X], {"device": "cuda"}), "must not say 'device'"),
        (("aten.add.Tensor", [X, {"call": 0}], {}), "leads nowhere"),
        (("aten.add.Tensor", [X, {"call": -1}], {}), "leads nowhere"),
        (("aten.add.Tensor", [X, {"tensor": "w"}], {}), "leads nowhere"),
        (("aten.add.Tensor", [X, {"part": [0, 0]}], {}), "leads nowhere"),
        (("aten.add.Tensor", [X, {"batch": 10**30}], {}), "leads nowhere"),
        (("aten.add.Tensor", [X, {"number": "nan"}], {}), "leads nowhere"),
        (("aten.add.Tensor", [X, {"input": 0, "call": 0}], {}), "no reference"),
        (("aten._to_copy.default", [X], {"dtype": {"dtype": "complex64"}}), "leads nowhere"),
        (("aten.sum.default", [X], {}), "must keep the batch axis"),
        (("aten.transpose.int", [X, 1, 3], {}), "its inputs make value"),
        (("aten.mm.default", [X, X], {}), "do not fit"),
    ],
)
def test_calls_of_a_hostile_file_are_refused(call, message):
    shape = (8, 8, 2) if call[0] == "aten.transpose.int" else SHAPE
    with pytest.raises(ValueError, match=message):
        verify_graph(calls_graph(call, shape=shape))


def test_memory_of_many_calls_is_bounded_together():
    each = ("aten.repeat.default", [X, [1, MOST_ELEMENTS // 256, 1, 1]], {})
    with pytest.raises(ValueError, match="more than"):
        verify_graph(calls_graph(*[each] * 5))


def test_parts_without_number_are_refused_before_they_are_made():
    grown = ("aten.repeat.default", [X, [1, 2**20, 1, 1]], {})
    split = ("aten.split.Tensor", [{"call": 0}, 1, 1], {})
    with pytest.raises(ValueError, match=r"more than 65,536 tensors"):
        verify_graph(calls_graph(grown, split, result={"part": [1, 0]}))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from([X, {"call": 0}, {"tensor": "w"}, {"batch": 1}, {"dtype": "bool"}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted(ALLOWED)).flatmap(
    lambda base: st.sampled_from(
        [f"aten.{base}.{o}" for o in getattr(torch.ops.aten, base.split(".")[0]).overloads()]
    )
)


@law(100)
@given(NAMES | st.text(max_size=20), st.lists(PLAIN, max_size=5), st.dictionaries(NAMES, PLAIN))
def test_whatever_a_call_says_it_is_checked_or_refused_in_a_sentence(op, args, kwargs):
    graph = calls_graph((op, [X, *args], kwargs), tensors={"w": torch.ones(1, 1)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_calls, "MOST_ELEMENTS", 2**16)  # what passes is run
        try:
            verify_graph(graph)
        except ValueError as error:
            assert str(error)
        else:
            with suppress(RuntimeError, IndexError):  # torch checks some types only when it runs
                evaluate(graph, torch.rand(2, *SHAPE))


def test_every_operation_that_is_allowed_is_torch_s_and_writes_nothing():
    for base in ALLOWED:
        packet = getattr(torch.ops.aten, base.split(".")[0])
        held = 0
        for name in packet.overloads():
            try:
                operation = overload(f"aten.{packet.__name__}.{name}")
            except ValueError:
                continue
            held += 1
            assert not any(
                a.alias_info and a.alias_info.is_write for a in operation._schema.arguments
            )
        assert held, base


def test_a_forged_artefact_is_refused(tmp_path):
    x = torch.rand(4, *SHAPE)
    net = calibrate(Encoded(nn.Sequential(nn.Sigmoid(), nn.Flatten()), 64), x)
    path = save(map_model(net, calibration=x), tmp_path / "net.h8")
    assert load(path).graph["encoder.0"].op == "torch"
    manifest, arrays = read(path)
    forged = manifest.replace(b"aten.sigmoid.default", b"aten.sigmoid_.default")
    assert forged != manifest
    with path.open("wb") as file:
        write(file, forged, arrays)
    with pytest.raises(CheckpointError, match="no operation that a graph may hold"):
        load(path)


def test_a_node_whose_type_is_another_is_refused():
    graph = calls_graph(("aten.sigmoid.default", [X], {}))
    wrong = replace(graph["node"], type=Signal((2, 8, 8)))
    with pytest.raises(ValueError, match="its inputs make"):
        verify_graph(Graph((graph["x"], wrong)))


class Windows(nn.Module):
    """Attention within windows: between its calls the batch axis holds windows of all samples."""

    def __init__(self):
        super().__init__()
        self.qkv, self.project = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.rand(2, 4, 4))

    def forward(self, x):
        batch = len(x)
        x = x.view(batch * 3, 4, 8)
        q, k, v = self.qkv(x).reshape(batch * 3, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * 0.5) @ k.transpose(-2, -1) + self.bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch * 3, 4, 8)
        return (x + self.project(mixed)).view(batch, 3 * 4 * 8)


class WindowedSpikes(nn.Module):
    def __init__(self):
        super().__init__()
        self.windows, self.fc = Windows(), nn.Linear(96, 4)
        self.lif = snn.Leaky(beta=0.9)

    def forward(self, x):
        mem, out = self.lif.init_leaky(), []
        current = self.fc(self.windows(x))
        for _ in range(5):
            spikes, mem = self.lif(current, mem)
            out.append(spikes)
        return torch.stack(out).sum(0)


def test_sums_and_products_between_calls_that_move_the_batch_axis_are_part_of_them():
    torch.manual_seed(0)
    net, x = WindowedSpikes().eval(), torch.randn(6, 96)
    graph = map_model(net, calibration=x).graph
    torch.testing.assert_close(evaluate(graph, x), net(x))
    assert any(node.op == "torch" for node in graph)
