"""ResNet and SEW-ResNet: published sizes, every option, equal to plain loops, and they learn."""

import pytest
import torch
from torch import nn

from has8 import TrainConfig, calibrate, create_model, fit, load_data, model_names
from has8.blocks import OverTime
from has8.data import batches
from has8.errors import BadInput, UnknownName
from has8.neurons import Leaky
from hwsim import agreement, compare, simulate
from mapping import map_model

PARAMETERS = {
    (18, 10): 11_181_642,
    (18, 100): 11_227_812,
    (18, 1000): 11_689_512,
    (50, 10): 23_528_522,
    (50, 100): 23_712_932,
    (50, 1000): 25_557_032,
}
CODINGS = ("duplicate", "phase", "rate", "ttfs", "ttfs_log")
SMALL = {"num_classes": 5, "in_channels": 2, "base": 4}


def small(name, **options):
    if name == "sew_resnet":
        options = {"steps": 3, **options}
    return create_model(name, **SMALL, **options)


@pytest.mark.parametrize("family", ["resnet", "sew_resnet"])
@pytest.mark.parametrize(("depth", "classes"), PARAMETERS)
def test_trainable_parameters_are_the_published_ones(family, depth, classes):
    model = create_model(f"{family}{depth}", num_classes=classes)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == PARAMETERS[depth, classes]


def counted_macs(model, size):
    """Multiplications of one image, by watching every convolution and linear layer."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return total


def macs_by_hand(depth, size, classes):
    """(convolutions, classifier). Widths double where sides halve: stages 2 to 4 cost alike."""
    stem = 64 * 3 * 7**2 * (size // 2) ** 2
    first = 64**2 * (size // 4) ** 2
    later = 128**2 * (size // 8) ** 2
    if depth == 18:
        # A block is 9 + 9 times the square of its width. A stage's first one reads half of its
        # width, 9/2 + 9, and has a 1x1 shortcut, 1/2.
        return stem + first * 36 + later * 3 * (14 + 18), 512 * classes
    # A bottleneck is 4 + 9 + 4 times the square of its inner width. A stage's first one reads
    # twice the inner width at twice the side, 8 + 9 + 4, and has a shortcut, 8; that of the first
    # stage reads the stem, 1 + 9 + 4, shortcut 4.
    return stem + first * (18 + 2 * 17) + later * (3 * 29 + (3 + 5 + 2) * 17), 2048 * classes


@pytest.mark.parametrize(
    ("depth", "size", "published"),
    [
        (18, 32, 37_523_456),
        (18, 224, 1_814_073_344),
        (50, 32, 85_458_944),
        (50, 224, 4_089_184_256),
    ],
)
def test_macs_are_the_published_ones(depth, size, published):
    convolutions, classifier = macs_by_hand(depth, size, 1000)
    assert convolutions + classifier == published
    assert counted_macs(create_model(f"resnet{depth}", num_classes=1000), size) == published


@pytest.mark.parametrize("depth", [18, 50])
def test_a_spiking_net_convolves_in_every_step_and_classifies_once(depth):
    convolutions, classifier = macs_by_hand(depth, 32, 10)
    model = create_model(f"sew_resnet{depth}", num_classes=10, steps=2)
    assert counted_macs(model, 32) == 2 * convolutions + classifier


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {}),
        ("resnet", {"depth": 50, "stem": "cifar", "mean": [0.5, 0.4], "std": [0.2, 0.3]}),
        *(("sew_resnet", {"coding": coding}) for coding in CODINGS),
        ("sew_resnet", {"depth": 50, "neuron": "lif", "stem": "cifar"}),
        ("sew_resnet", {"depth": 34, "coding": "duplicate", "mean": (0.5, 0.4), "std": (0.2, 0.3)}),
    ],
)
def test_every_option_trains_and_its_config_rebuilds_the_model(name, options):
    torch.manual_seed(0)
    model = small(name, **options)
    logits = model(torch.rand(3, 2, 32, 32))
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    for parameter, weight in model.named_parameters():
        assert weight.grad is not None, parameter
        assert weight.grad.abs().sum() > 0, parameter
    again = create_model(**model.config)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    x, outputs = torch.rand(2, 2, 32, 32), []
    for each in (model, again):
        torch.manual_seed(1)  # rate coding draws
        with torch.no_grad():
            outputs.append(each.eval()(x))
    assert torch.equal(*outputs)


def stepwise(model, x):
    """SEW-ResNet as published: each step through all layers, membranes kept; mean of logits."""
    membranes = {}

    def fire(layer, current):
        beta, threshold = layer.neuron.constants
        membrane = membranes.get(layer, torch.zeros_like(current)) * beta
        membrane = membrane + current * layer.neuron.gain
        spikes = (membrane > threshold).to(current)
        membranes[layer] = membrane * (1 - spikes)
        return spikes

    def spike(layer, x):
        return fire(layer, nn.Sequential.forward(layer.synapses, x))

    logits = []
    for step in model.encode(model.image(x)):
        stem, *pool = model.stem
        step = spike(stem, step)
        for layer in pool:
            step = nn.Sequential.forward(layer, step)
        for stage in model.stages:
            for block in stage:
                shortcut = step if block.downsample is None else spike(block.downsample, step)
                for name, layer in block.named_children():
                    if name.startswith("conv"):
                        step = spike(layer, step)
                step = step + shortcut
        logits.append(model.fc(step.mean((2, 3))))
    return torch.stack(logits).mean(0)


@pytest.mark.parametrize(
    "options", [{"depth": 18}, {"depth": 50, "neuron": "lif"}, {"stem": "cifar"}]
)
def test_sew_resnet_equals_the_published_net_step_by_step(options):
    torch.manual_seed(0)
    model = small("sew_resnet", coding="phase", steps=6, **options).double()
    x = torch.rand(4, 2, 32, 32).double()
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 1.0  # statistics with which neurons fire
            norm.weight.fill_(2)
        model(x)
        logits = model.eval()(x)
        assert logits.std(0).min() > 0
        assert torch.allclose(logits, stepwise(model, x), atol=1e-9)


def test_normalisation_is_part_of_the_model():
    torch.manual_seed(0)
    mean, std = [0.5, 0.75], [0.5, 0.25]  # powers of two: exact
    for name, options in (("resnet", {}), ("sew_resnet", {"coding": "duplicate"})):
        plain = small(name, **options).double()
        normal = small(name, mean=mean, std=std, **options).double()
        normal.load_state_dict(plain.state_dict(), strict=False)
        x = torch.rand(2, 2, 32, 32).double()
        scaled = (x - torch.tensor(mean).view(2, 1, 1)) / torch.tensor(std).view(2, 1, 1)
        with torch.no_grad():
            assert torch.allclose(normal(x), plain(scaled), atol=1e-9)
            assert not torch.allclose(normal(x), plain(x), atol=1e-2)


def test_inputs_of_blocks_are_counts_that_grow_with_every_addition():
    torch.manual_seed(0)
    model, seen = small("sew_resnet", coding="phase", steps=6), []
    for stage in model.stages:
        for block in stage:
            block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(torch.rand(8, 2, 64, 64))
    for spikes, most in zip(seen, (1, 2, 3, 2, 3, 2, 3, 2), strict=False):
        assert torch.equal(spikes, spikes.round())
        assert 0 < spikes.max() <= most
    assert seen[0].shape == (6, 8, 4, 16, 16)


@pytest.mark.parametrize(
    ("name", "options"), [("resnet", {}), ("sew_resnet", {"steps": 4, "coding": "ttfs"})]
)
def test_they_learn(name, options):
    torch.manual_seed(0)
    data = load_data("digits")
    model = create_model(name, num_classes=10, in_channels=1, base=8, stem="cifar", **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    images, labels = next(batches(data.train, 64))
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert calibrate(model) is model  # there are no ranges to measure
    assert not model.training


@pytest.mark.parametrize("name", ["resnet", "sew_resnet"])
def test_fit_takes_them_as_they_are(name):
    options = {"steps": 3} if name == "sew_resnet" else {}
    model = create_model(name, num_classes=10, in_channels=1, base=4, **options)
    history = fit(model, load_data("digits"), TrainConfig(epochs=1, subset=64))
    assert 0 <= history.accuracy <= 1
    assert not model.training


def test_stems():
    for name in ("resnet", "sew_resnet"):
        for stem, side in (("imagenet", 8), ("cifar", 32)):
            model, sides = small(name, stem=stem), []
            model.stages.register_forward_pre_hook(
                lambda _, inputs, sides=sides: sides.append(inputs[0].shape[-1])
            )
            model(torch.rand(2, 2, 32, 32))
            assert sides == [side]


def test_pools_merge_steps_into_the_batch_and_neurons_are_snntorchs():
    model = create_model("sew_resnet18", num_classes=10, neuron="lif")
    assert isinstance(model.stem[1], OverTime)
    neurons = [m for m in model.modules() if isinstance(m, Leaky)]
    assert len(neurons) == 1 + 8 * 2 + 3
    assert {n.constants for n in neurons} == {(0.5, 1.0)}


def test_options_that_do_not_exist():
    assert {"resnet18", "resnet50", "sew_resnet18", "sew_resnet50"} <= set(model_names())
    with pytest.raises(BadInput, match="one of 18, 34, 50 and base at least 1, not depth=20"):
        small("resnet", depth=20)
    with pytest.raises(BadInput, match="stem must be one of imagenet, cifar, not 'mnist'"):
        small("sew_resnet", stem="mnist")
    with pytest.raises(BadInput, match="coding='rate' takes images in \\[0, 1\\]"):
        small("sew_resnet", mean=[0.5, 0.5], std=[0.2, 0.2])
    with pytest.raises(BadInput, match="neuron must be one of if, lif"):
        small("sew_resnet", neuron="plif")
    with pytest.raises(UnknownName, match="did you mean 'phase'"):
        small("sew_resnet", coding="phases")
    with pytest.raises(BadInput, match="at least 1 step"):
        small("sew_resnet", steps=0)
    with pytest.raises(BadInput, match="no option 'depth'"):
        create_model("resnet18", num_classes=10, depth=34)


@pytest.mark.parametrize("coding", ["phase", "ttfs", "ttfs_log"])
def test_codings_without_chance_map_and_simulators_agree(coding):
    torch.manual_seed(0)
    model = create_model(
        "sew_resnet", num_classes=4, in_channels=1, base=4, stem="cifar", steps=6, coding=coding
    )
    images = torch.rand(16, 1, 8, 8)
    model(images)  # running statistics
    mapped = map_model(model.eval(), calibration=images)
    # A convolution of a sum of spikes is a sum of convolutions; the last sum is read out too.
    neurons = sum(node.op == "neuron" for node in mapped.graph)
    assert sum(len(segment.populations) for segment in mapped.chip_segments) == neurons - 1 == 19
    assert compare(mapped, images[:4], "reference", "fast").equal


def test_rate_coding_draws_by_the_number_of_the_sample_in_every_simulator_and_batch():
    options = {"num_classes": 4, "in_channels": 1, "base": 4, "stem": "cifar", "steps": 6}
    model = create_model("sew_resnet", **options, coding="rate")
    images = torch.rand(7, 1, 8, 8)
    model(images)  # running statistics
    mapped = map_model(model.eval(), calibration=images)
    assert compare(mapped, images, "reference", "fast").equal

    def sent(x, **options):
        run = simulate(mapped, x, record=["spikes"], **options)
        return next(iter(next(iter(run.inputs.values())).values()))

    whole = sent(images)
    assert torch.equal(whole, model.encode(images).bool())
    parts = [sent(images[k : k + 2], first=k) for k in range(0, 7, 2)]
    assert torch.equal(torch.cat(parts, 1), whole)
    assert torch.equal(sent(images, batch_size=3), whole)
    assert not torch.equal(sent(images, first=1), whole)
    found = agreement(mapped, images, batch_size=2)
    with torch.no_grad():
        assert torch.equal(found.float_answers, model(images).argmax(1))
