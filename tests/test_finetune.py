"""Fine-tuning for a chip: what training sees is what the chip computes."""

import json
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from builders import float_neurons
from click.testing import CliRunner
from snntorch import surrogate
from torch import nn

from has8 import create_model, fit, load_checkpoint, load_data
from has8.blocks import SpikingLayer
from has8.cli.map import map_command
from has8.cli.train import train
from has8.data import batches
from has8.errors import BadInput, CheckpointError
from has8.kernels import paths
from has8.neurons import Leaky
from has8.training.checkpoint import save
from has8.training.recipes import RECIPES
from hwsim import simulate
from hwsim.backends.reference import Reference
from mapping import load_target, map_model
from mapping.chip.arithmetic import decay, saturate
from mapping.finetune import PROVENANCE, prepare, quantization_of
from mapping.integers.neurons import ChipNeurons
from mapping.integers.rounding import Integers, Scale, decay_for
from mapping.quantized import QuantizedLayer

TARGET = load_target("loihi")
DATA = load_data("digits")
SHORT = replace(RECIPES["finetune"], epochs=1, subset=256, lr=2e-3)


def tune(model, images, steps=3, **options):
    """A few steps with a learning rate that changes many integers."""
    quantization = prepare(model, TARGET, calibration=images, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for step, (x, y) in enumerate(batches(DATA.train, 32, shuffle_seed=0)):
        if step == steps:
            break
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return quantization


def watched(model, images):
    """The spikes into and out of every quantised layer in a forward pass, by population."""
    seen = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    for name, layer in layers.items():  # the spikes themselves, before they are decoded
        layer._spikes = _recording(seen, name, layer._spikes)
    with torch.no_grad():
        model(images)
    for layer in layers.values():
        del layer._spikes
    return seen


def _recording(seen, name, inner):
    def spikes(x, narrow):
        out = inner(x, narrow)
        seen[f"{name}.neuron"] = (x.detach().bool(), out.detach().bool())
        return out

    return spikes


def bare(model):
    """The same weights in a plain model."""
    plain = create_model(**model.config)
    plain.load_state_dict(model.state_dict())
    return plain


def assert_same_spikes(model, mapped, images):
    """Given what training's layers were given, the reference makes the same spikes."""
    seen = watched(model, images)
    assert {p.name for chip in mapped.chip_segments for p in chip.populations} == seen.keys()
    for chip in mapped.chip_segments:
        sources = {s.source: p.name for p in chip.populations for s in p.synapses}
        fed = {port.name: seen[sources[port.name]][0] for port in chip.inputs}
        for name, spikes in Reference().compile(chip, TARGET.registers)(fed).spikes.items():
            assert spikes.sum() > 0
            assert torch.equal(spikes, seen[name][1]), name


@pytest.mark.parametrize(
    "options",
    [
        {"weight_bits": 8, "scales": "round"},
        {"weight_bits": 4},
        {"weight_bits": 2, "per_channel": True},
    ],
    ids=str,
)
def test_the_chip_makes_the_spikes_that_training_saw(model, digits, options):
    model = deepcopy(model)
    tuned = tune(model, digits[:24], **options)
    mapped = map_model(
        bare(model), calibration=digits[:24], weight_bits=tuned.weight_bits, scales=tuned.scales
    )
    for training in (True, False):
        assert_same_spikes(model.train(training), mapped, digits[24:32])


def test_bfloat16_and_plain_torch_make_the_same_spikes(resnet, digits):
    model = deepcopy(resnet)
    tuned = tune(model, digits[:24], weight_bits=3)
    mapped = map_model(bare(model), calibration=digits[:24], weight_bits=3, scales=tuned.scales)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_spikes(model.eval(), mapped, digits[:8])
    with paths.plain():
        assert_same_spikes(model.eval(), mapped, digits[:8])


def test_training_moves_weights_but_neither_scales_nor_statistics_of_the_chip(resnet, digits):
    model = deepcopy(resnet)
    tuned = tune(model, digits[:24], weight_bits=2)
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLayer):
            before = resnet.get_submodule(name)
            assert not torch.equal(layer.synapses[0].weight, before.synapses[0].weight)
            assert not torch.equal(layer.norm.bias, before.norm.bias)
            assert torch.equal(layer.norm.running_mean, before.norm.running_mean)
    assert model.state_dict().keys() == resnet.state_dict().keys()
    assert quantization_of(json.loads(json.dumps({PROVENANCE: tuned.to_dict()}))) == tuned


def neurons_of(beta):
    """Neurons of six channels, with thresholds of their own, and what drives them."""
    torch.manual_seed(0)
    scale = Scale((300, 300, 500, 900, 900, 2000), (0,), ("mixed",))
    bias = torch.randint(-4000, 4000, (6,)).double()
    chip = ChipNeurons.of(float_neurons(beta), TARGET.registers, torch.device("cpu"))
    drive = torch.randint(-400, 500, (8 * 2, 6, 3, 3)) * 64
    return chip, drive.to(chip.dtype), Integers(scale, (), bias, 1, 0, 0)


@pytest.mark.parametrize("most", [150, 1 << 23], ids=["truncates", "saturates"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 0.3])
@pytest.mark.parametrize("plain", [False, True])
def test_neurons_are_those_of_the_chip_where_every_unit_counts(beta, most, plain):
    chip, _, integers = neurons_of(beta)
    limit, dv = (1 << 23) - 1, decay_for(beta, 0, TARGET.registers)
    high = limit // 64 if most > limit else 3
    scale = Scale((1, 1, 1, high, high, high), (0,), ("mixed",))
    drive = torch.randint(-most, most, (8 * 4, 6, 5, 5), generator=torch.Generator().manual_seed(1))
    bias = integers.bias % 7
    with paths.plain() if plain else nullcontext():
        found = chip(drive.to(chip.dtype), 8, replace(integers, bias=bias, scale=scale))
    v = np.zeros((4, 6, 5, 5), np.int64)
    constants = (bias * 2, torch.tensor(scale.thresholds) * 64)
    add, threshold = (x.long().numpy().reshape(-1, 1, 1) for x in constants)
    for t, x in enumerate(drive.unflatten(0, (8, 4)).numpy()):
        v = saturate(decay(v, dv) + x + add, 24)
        fired = v > threshold
        assert 0 < fired.mean() < 1
        assert (found[t].bool().numpy() == fired).all()
        v[fired] = 0


@pytest.mark.parametrize("beta", [0.5, 1.0, 0.3])
def test_neurons_on_kernels_and_on_plain_torch_agree_forwards_and_backwards(beta):
    chip, drive, integers = neurons_of(beta)
    found = []
    for plain in (False, True):
        x, bias = drive.clone().requires_grad_(), integers.bias.clone().requires_grad_()
        with paths.plain() if plain else torch.enable_grad():
            spikes = chip(x, 8, replace(integers, bias=bias))
            (spikes * torch.linspace(-1, 1, spikes.numel()).view_as(spikes)).sum().backward()
        found.append((spikes.detach(), x.grad, bias.grad))
    (spikes, grad, grad_bias), expected = found
    assert torch.equal(spikes, expected[0])
    assert 0 < spikes.mean() < 1
    torch.testing.assert_close(grad, expected[1], rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(grad_bias, expected[2], rtol=1e-4, atol=1e-7)


def test_the_gradient_is_that_of_the_float_neuron_in_thresholds():
    """Without a leak nothing is truncated, so that membranes are the same."""
    chip, drive, integers = neurons_of(1.0)
    units = torch.tensor(integers.scale.thresholds).view(-1, 1, 1) * 64.0
    bias = (integers.bias * 2).float().view(-1, 1, 1)
    x = drive.clone().requires_grad_()
    chip(x, 8, integers).cumsum(0).sum().backward()
    y = ((drive + bias) / units).unflatten(0, (8, 2)).requires_grad_()
    Leaky(beta=1.0)(y).cumsum(0).sum().backward()
    torch.testing.assert_close(x.grad, y.grad.flatten(0, 1) / units, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("beta", [0.5, 1.0, 0.3])
def test_any_neurons_have_the_gradient_of_plain_ones_where_they_are_these(beta):
    chip, drive, integers = neurons_of(beta)
    several = replace(chip, kept=torch.full((6, 1, 1), float(chip.kept)), dtype=torch.float64)
    found = []
    for neurons in (chip, several):
        x, bias = drive.double().requires_grad_(), integers.bias.clone().requires_grad_()
        spikes = neurons(x, 8, replace(integers, bias=bias))
        (spikes * torch.linspace(-1, 1, spikes.numel()).view_as(spikes)).sum().backward()
        found.append((spikes.detach(), x.grad, bias.grad))
    assert chip.plain and not several.plain
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[0][2], found[1][2], rtol=1e-9, atol=1e-12)


def float_spikes(current, alpha, beta, threshold, reset, refractory):
    """The float neuron with arctan surrogates, by autograd and hand."""
    i = v = fired = torch.zeros_like(current[0])
    spikes = []
    for x in current:
        i = alpha * i + x
        if reset == "zero" and not refractory:
            v = v * (1 - fired)
        v = beta * v + i
        if reset.startswith("subtract"):
            v = v - fired * threshold
        elif refractory:
            v = v * (1 - fired)
        spikes.append(surrogate.atan(alpha=2.0)(v / threshold - 1))
        if reset == "subtract_at_once":
            v = v - (spikes[-1].detach() - fired) * threshold
        fired = (v > threshold).to(v).detach()
    return torch.stack(spikes)


@pytest.mark.parametrize(
    ("reset", "refractory"),
    [("zero", 0), ("zero", 1), ("subtract", 0), ("subtract_at_once", 0), ("none", 0)],
)
@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_the_gradient_of_any_neuron_is_that_of_the_float_one(reset, refractory, kept):
    """On numbers that no decay truncates within eight steps."""
    torch.manual_seed(0)
    alpha, beta = np.array([0.0, 0.5, kept]), np.array([kept, 1.0, 0.5])
    relative = 1 - torch.arange(12).reshape(3, 2, 2).numpy() / 16
    rules = {"reset": reset, "refractory": refractory, "threshold": relative}
    decays = (x.reshape(3, 1, 1) for x in (beta, alpha))
    chip = ChipNeurons.of(float_neurons(*decays, **rules), TARGET.registers, torch.device("cpu"))
    chip = replace(  # a chip's currents do not last for ever
        chip, kept_current=torch.tensor(alpha).view(3, 1, 1)
    )
    integers = Integers(Scale((2048,) * 3, (0,), ("mixed",)), (), torch.zeros(3).double(), 0, 0, 0)
    threshold = torch.tensor(2048 * 64 * relative)
    drive = torch.randint(-100, 200, (8, 3, 3, 2, 2)).double() * 512
    weight = torch.randn(8, 3, 3, 2, 2).double()
    x, y = drive.clone().requires_grad_(), drive.clone().requires_grad_()
    spikes = chip(x.flatten(0, 1), 8, integers)
    (spikes * weight).sum().backward()
    shaped = (torch.tensor(v).view(3, 1, 1) for v in (alpha, beta))
    expected = float_spikes(y, *shaped, threshold, reset, refractory)
    (expected * weight).sum().backward()
    assert torch.equal(spikes, expected) and 0.02 < spikes.mean() < 0.98
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-12)


def test_a_tuned_checkpoint_is_plain_resumes_and_is_mapped_as_it_was_trained(tmp_path, vgg, digits):
    start = tmp_path / "start.pt"
    save(start, vgg, input_shape=(1, 8, 8), class_names=DATA.class_names, provenance={})
    out = tmp_path / "run"
    command = ["--quantize", "loihi", "--from", str(start), "--data", "digits", "--quiet"]
    command += ["--weight-bits", "3", "--scales", "round", "--subset", "256", "--json"]
    command += ["--out", str(out), "--accelerator", "cpu"]

    def run(*more):
        return CliRunner().invoke(train, [*command, *more], catch_exceptions=False)

    result = json.loads(run("--epochs", "2").stdout)
    tuned = load_checkpoint(out / "model.pt")
    assert all(type(m) is not QuantizedLayer for m in tuned.model.modules())
    quantization = quantization_of(tuned.provenance)
    assert (quantization.target, quantization.weight_bits) == ("loihi", 3)
    mapped = map_model(tuned.model, calibration=digits, weight_bits=3, scales=quantization.scales)
    images, labels = DATA.test.tensors()
    right = (simulate(mapped, images).logits.argmax(1) == labels).double().mean()
    assert float(right) == pytest.approx(result["test_accuracy"], abs=0.003)  # the host rounds
    arguments = [str(out / "model.pt"), "--verify", "none", "--samples", "20", "--quiet"]
    mapping = CliRunner().invoke(map_command, [*arguments, "--out", str(tmp_path)])
    assert mapping.exit_code == 0, mapping.output
    assert_same_integers(tmp_path / "model.h8", mapped)
    # the same command again is done at once; another one does not go on from it
    assert json.loads(run("--epochs", "2").stdout)["test_accuracy"] == result["test_accuracy"]
    with pytest.raises(BadInput, match="quantization is .* there and .* here"):
        run("--epochs", "2", "--weight-bits", "4")


def assert_same_integers(path, mapped):
    from mapping import load

    for chip, other in zip(load(path).chip_segments, mapped.chip_segments, strict=True):
        for one, two in zip(chip.populations, other.populations, strict=True):
            a, b = one.neuron, two.neuron
            assert (a.threshold == b.threshold).all()
            assert (a.bias << a.bias_exp == b.bias << b.bias_exp).all()
            for a, b in zip(one.synapses, two.synapses, strict=True):
                assert (a.weight << a.weight_exp == b.weight << b.weight_exp).all()


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, vgg, digits):
    def tuned(config, out):
        model = deepcopy(vgg)
        quantization = prepare(model, TARGET, calibration=digits[:24], weight_bits=2)
        fit(model, DATA, config, out=out, provenance={PROVENANCE: quantization.to_dict()})
        return model.state_dict()

    class StopError(Exception):
        pass

    def stop(now):
        if now.finished and now.epoch == 1:
            raise StopError

    config = replace(SHORT, epochs=2, subset=64)
    whole = tuned(config, tmp_path / "whole")
    model = deepcopy(vgg)
    facts = {PROVENANCE: prepare(model, TARGET, calibration=digits[:24], weight_bits=2).to_dict()}
    with pytest.raises(StopError):
        fit(model, DATA, config, out=tmp_path / "cut", provenance=facts, on_progress=stop)
    again = tuned(config, tmp_path / "cut")
    assert all(torch.equal(again[key], whole[key]) for key in whole)


class Own(nn.Module):
    """A spiking branch of somebody else's making, of has8's parts or by way of them."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, decode=None):
        spikes = self.layer.neuron(self.layer.synapses(x))
        return spikes if decode is None else decode(spikes)


class Parts(Own):
    def __init__(self, layer):
        nn.Module.__init__(self)
        self.layer = nn.ModuleDict({"synapses": layer.synapses, "neuron": layer.neuron})

    def forward(self, x, decode=None):
        spikes = self.layer["neuron"](self.layer["synapses"](x))
        return spikes if decode is None else decode(spikes)


def test_what_cannot_be_tuned_is_refused(tmp_path, vgg, digits):
    for kind in (Own, Parts):
        model = deepcopy(vgg)
        model.blocks[0].snn = kind(model.blocks[0].snn)
        with pytest.raises(
            BadInput, match=r"'blocks.0.snn.layer.neuron' .* neither a plain .*SpikingL"
        ):
            prepare(model, TARGET, calibration=digits[:8])
    model = create_model("resnet18", num_classes=10, in_channels=1)
    with pytest.raises(BadInput, match="nothing of this model goes to the chip"):
        prepare(model, TARGET, calibration=torch.rand(2, 1, 32, 32))
    assert type(vgg.blocks[0].snn) is SpikingLayer
    with pytest.raises(CheckpointError, match="fine-tuned, but not for what"):
        quantization_of({PROVENANCE: {"target": "loihi"}})
    slow = msgspec.structs.replace(TARGET.registers, current_decay_offset=0)
    with pytest.raises(BadInput, match="last for one step only"):
        ChipNeurons.of(float_neurons(0.5), slow, torch.device("cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--quantize", "loihi", "has8_vgg"], "name its file with --from"),
        (["has8_vgg", "--weight-bits", "4"], "say how to --quantize"),
        (["--from", "x.pt", "has8_vgg"], "leave out MODEL"),
        ([], "name a MODEL to train"),
        (["--from", "x.pt"], "there is no file x.pt"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(arguments, message):
    with pytest.raises((BadInput, CheckpointError), match=message):
        CliRunner().invoke(train, [*arguments, "--data", "digits"], catch_exceptions=False)
