"""Paper mode equals the authors' released code, rebuilt here step by step from its formulas."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from has8 import create_model
from has8.errors import BadInput, CheckpointError
from has8.kernels import paths
from has8.models.released import released_state_dict

TABLE_1 = list(
    itertools.product(("sigmoid", "tanh", "fourier_released"), (False, True), ("rate", "bitplane"))
)
"""Slope, rescale and decoder: the twelve settings of the paper's Table 1."""

HEAD = (7, 6)
VGG = {"in_channels": 2, "num_classes": 5, "base": 2, "depth": 1, "head": HEAD}
RESNET = {"in_channels": 2, "num_classes": 5, "base": 3, "depth": 2}


@pytest.fixture(params=["compiled", "plain"])
def path(request, monkeypatch):
    """Encoder and neuron as compiled kernels, where the machine has them, and in plain torch."""
    if request.param == "plain":
        monkeypatch.setattr(paths, "usable", lambda *_: False)


@pytest.fixture(autouse=True)
def double():
    """Codes are discontinuous, so that a float32 rounding error can turn into a flipped bit."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Released:
    """The released networks over a state_dict with the released names, one step at a time.

    A hard function with a soft derivative is written ``hard + (soft - soft.detach())``.
    """

    def __init__(self, state, slope, rescale, decoder, training):
        self.state, self.training = state, training
        self.slope, self.rescale, self.decoder = slope, rescale, decoder

    def encode(self, x):
        if not (x >= 0).all() or not (x <= 1).all():
            low, high = x.min(), x.max()
            x = (x - low) / (high - low) if low != high else torch.ones_like(x)
        x = x * 255
        waves = []
        for k in range(8):
            phase = math.pi * x / 2**k
            if self.slope == "sigmoid":
                wave = torch.sigmoid(-10 * torch.sin(phase))
            elif self.slope == "tanh":
                wave = (1 + torch.tanh(-10 * torch.sin(phase))) / 2
            else:
                wave = 1 / 2 - 2 / math.pi * sum(torch.sin(n * phase) / n for n in (1, 3, 5, 7, 9))
                wave = wave + x / 2  # the released slope's constant
            waves.append(wave * k / 2 ** (7 - k) if self.rescale else wave)
        if x.dim() == 2:  # released shapes broadcast: all planes share the sum of all slopes
            waves = [sum(waves)] * 8
        hard, rest = [], x.detach()
        for _ in range(8):
            hard.append(rest % 2)
            rest = torch.floor(rest / 2)
        return [h + (w - w.detach()) for h, w in zip(hard, waves, strict=True)]

    def decode(self, steps):
        if self.decoder == "rate":
            return sum(steps) / 8
        return sum(2 ** (7 - t) * s for t, s in enumerate(steps)) / 255

    def norm(self, name, x, momentum=0.1):
        """Over everything but channels: an image batch, or the batches of all steps."""
        together = torch.stack(x) if isinstance(x, list) else x[None]
        axes = (0, 1, 3, 4)
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            batch = together.mean(axes)
            spread = together.var(axes, unbiased=True)
            count = together.numel() / len(batch)
            mean.copy_((1 - momentum) * mean + momentum * batch.detach())
            var.copy_((1 - momentum) * var + momentum * spread.detach())
            self.state[f"{name}.num_batches_tracked"] += 1
            mean, var = batch, spread * (count - 1) / count
        shape = (-1, 1, 1)
        out = (together - mean.view(shape)) / torch.sqrt(var.view(shape) + 1e-5)
        out = out * self.state[f"{name}.weight"].view(shape)
        out = out + self.state[f"{name}.bias"].view(shape)
        return list(out) if isinstance(x, list) else out[0]

    def conv(self, name, x, stride=1):
        weight = self.state[f"{name}.weight"]
        if isinstance(x, list):
            return [self.conv(name, step, stride) for step in x]
        return F.conv2d(x, weight, stride=stride, padding={1: 0, 7: 3}.get(weight.shape[-1], 1))

    def linear(self, name, x):
        if isinstance(x, list):
            return [self.linear(name, step) for step in x]
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    @staticmethod
    def lif(currents):
        """tau = 2, the input decays too; arctan slope with alpha = 2; hard reset, detached."""
        v, spikes = 0.0, []
        for current in currents:
            v = v + (current - v) / 2
            soft = torch.atan(math.pi * (v - 1)) / math.pi
            spike = (v >= 1).to(v) + (soft - soft.detach())
            spikes.append(spike)
            v = v * (1 - spike.detach())
        return spikes

    def vgg(self, x, blocks):
        for i in range(blocks):
            s = self.conv(f"dv.{i}.sdv_block.sdv.0", self.encode(x))
            s = self.lif(self.norm(f"dv.{i}.sdv_block.sdv.1", s, momentum=math.sqrt(0.1)))
            s = self.decode([F.avg_pool2d(step, 2) for step in s])
            a = self.norm(f"dv.{i}.adv_block.adv.1", self.conv(f"dv.{i}.adv_block.adv.0", x))
            x = s + F.avg_pool2d(torch.where(a > 0, a, 0.01 * a), 2)
        s, a = self.encode(x.mean((2, 3))), x.mean((2, 3))
        for layer in range(0, 2 * len(HEAD) + 2, 2):
            s = self.lif(self.linear(f"dv.{blocks + 2}.sdv_block.sdv.{layer}", s))
            a = self.linear(f"dv.{blocks + 2}.adv_block.adv.{layer}", a)
            a = torch.where(a > 0, a, 0.01 * a)
        return self.decode(s) + a

    def resnet(self, x, stages):
        s = self.conv("init_conv.snn_init_conv.init_conv.0", self.encode(x), 2)
        s = self.lif(self.norm("init_conv.snn_init_conv.init_conv.1", s))
        s = self.decode([F.avg_pool2d(step, 3, 2, 1) for step in s])
        a = self.conv("init_conv.ann_init_conv.init_conv.0", x, 2)
        a = torch.relu(self.norm("init_conv.ann_init_conv.init_conv.1", a))
        x = s + F.max_pool2d(a, 3, 2, 1)
        for stage, block in itertools.product(range(stages), range(2)):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            spikes = self.residual(f"{name}.snn_basic_block", self.encode(x), stride, self.lif)
            x = self.decode([a + b for a, b in zip(*spikes, strict=True)]) + torch.relu(
                sum(self.residual(f"{name}.ann_basic_block", x, stride))
            )
        return self.linear("fc", x.mean((2, 3)))

    def residual(self, name, x, stride, spike=None):
        """Both summands: a spiking one fires before the sum, the other is rectified after."""
        out = self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, stride))
        out = spike(out) if spike else torch.relu(out)
        out = self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", out))
        if f"{name}.downsample.0.weight" in self.state:
            x = self.conv(f"{name}.downsample.0", x, stride)
            x = self.norm(f"{name}.downsample.1", x)
            x = spike(x) if spike else x
        return (spike(out) if spike else out), x


def norm_shapes(name, channels):
    leaves = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{name}.{leaf}": (channels,) for leaf in leaves}
    return shapes | {f"{name}.num_batches_tracked": ()}


def vgg_shapes(in_channels, num_classes, base, depth, head, kernel=3):
    widths = [in_channels, *(in_channels * base * 2**i for i in range(depth + 1))]
    shapes = {}
    for i, (wide, width) in enumerate(itertools.pairwise(widths)):
        for branch in ("sdv_block.sdv", "adv_block.adv"):
            shapes[f"dv.{i}.{branch}.0.weight"] = (width, wide, kernel, kernel)
            shapes |= norm_shapes(f"dv.{i}.{branch}.1", width)
    for i, (wide, width) in enumerate(itertools.pairwise([widths[-1], *head, num_classes])):
        for branch in ("sdv_block.sdv", "adv_block.adv"):
            shapes[f"dv.{depth + 3}.{branch}.{2 * i}.weight"] = (width, wide)
            shapes[f"dv.{depth + 3}.{branch}.{2 * i}.bias"] = (width,)
    return shapes


def resnet_shapes(in_channels, num_classes, base, depth):
    shapes = {}
    for branch in ("snn_init_conv", "ann_init_conv"):
        shapes[f"init_conv.{branch}.init_conv.0.weight"] = (64, in_channels, 7, 7)
        shapes |= norm_shapes(f"init_conv.{branch}.init_conv.1", 64)
    widths = [64, *(base * 2**i for i in range(depth))]
    for (i, (before, width)), block, branch in itertools.product(
        enumerate(itertools.pairwise(widths)), range(2), ("snn_basic_block", "ann_basic_block")
    ):
        name, wide = f"layer{i + 1}.{block}.{branch}", width if block else before
        shapes |= {f"{name}.conv1.weight": (width, wide, 3, 3)} | norm_shapes(f"{name}.bn1", width)
        shapes |= {f"{name}.conv2.weight": (width, width, 3, 3)} | norm_shapes(f"{name}.bn2", width)
        if wide != width:
            shapes[f"{name}.downsample.0.weight"] = (width, wide, 1, 1)
            shapes |= norm_shapes(f"{name}.downsample.1", width)
    return shapes | {"fc.weight": (num_classes, widths[-1]), "fc.bias": (num_classes,)}


def random_state(shapes, seed=0):
    """Random released weights, wide enough for every layer to fire."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            gain = 3 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.5
            state[name] = gain * torch.randn(shape, generator=generator)
            if len(shape) == 1 and name.endswith("weight"):
                state[name] += 1.5
    return state


FAMILIES = {
    "has8_vgg": (VGG, vgg_shapes(**VGG), 8),
    "has8_resnet": (RESNET, resnet_shapes(**RESNET), 16),
}


def paper_model(family, widths, **options):
    return create_model(family, mode="paper", **widths, **options)


def expect_equal_to_released(family, widths, shapes, size, options, training):
    """Logits, running statistics, and the gradients of the input and of every parameter."""
    state = random_state(shapes)
    slope, rescale, decoder = options
    model = paper_model(family, widths, slope=slope, rescale=rescale, decoder=decoder)
    model.load_state_dict(released_state_dict(state, model))
    x = torch.rand(3, 2, size, size, generator=torch.Generator().manual_seed(1))
    if training:
        x = 3 * x - 1  # outside [0, 1] the range is the batch's
    for name, tensor in state.items():
        tensor.requires_grad_(tensor.is_floating_point() and "running" not in name)
    released = Released(state, *options, training)
    oracle = {"has8_vgg": released.vgg, "has8_resnet": released.resnet}[family]
    blocks = widths["depth"] + (family == "has8_vgg")
    theirs, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, logits = oracle(theirs, blocks), model.train(training)(ours)
    for out in (expected, logits):
        (out * torch.arange(1.0, 6)).sum().backward()
    assert close(logits, expected)
    assert close(ours.grad, theirs.grad)
    after = {k: v.grad if v.requires_grad else v for k, v in state.items()}
    after = released_state_dict(after, model)
    for name, parameter in model.named_parameters():
        assert after[name].any(), name
        assert close(parameter.grad, after[name]), name
    for name, buffer in model.named_buffers():
        assert name not in after or close(buffer, after[name]), name


def close(ours, theirs):
    """Steep slopes, times 255 in every block, amplify rounding errors of the backward pass."""
    return (ours - theirs).abs().max() <= 1e-6 * theirs.abs().max()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", TABLE_1, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_released_code_forward_and_backward(family, options, training):
    expect_equal_to_released(family, *FAMILIES[family], options, training)


@pytest.mark.usefixtures("path")
def test_equals_the_released_code_where_the_shape_is_unusual():
    options = ("fourier_released", True, "bitplane")
    widths = {**VGG, "kernel": 5}
    expect_equal_to_released("has8_vgg", widths, vgg_shapes(**widths), 12, options, True)
    widths = {**RESNET, "depth": 4, "base": 2}
    expect_equal_to_released("has8_resnet", widths, resnet_shapes(**widths), 32, options, True)
    widths = {**RESNET, "depth": 1, "base": 64}  # no downsampling: the planes are the shortcut
    expect_equal_to_released("has8_resnet", widths, resnet_shapes(**widths), 8, options, True)


@pytest.mark.parametrize("family", FAMILIES)
def test_key_map_is_one_to_one_and_inverts(family):
    widths, shapes, _ = FAMILIES[family]
    model, state = paper_model(family, widths), random_state(shapes)
    mapped = released_state_dict(state, model)
    assert mapped.keys() == model.state_dict().keys()
    place = {id(tensor): name for name, tensor in state.items()}
    names = {key: place[id(tensor)] for key, tensor in mapped.items() if id(tensor) in place}
    assert sorted(names.values()) == sorted(shapes)
    assert all(".neuron." in key for key in mapped.keys() - names.keys())
    own = model.state_dict()
    back = released_state_dict({name: own[key] for key, name in names.items()}, model)
    assert all(torch.equal(back[key], own[key]) for key in own)


def test_the_first_key_that_does_not_fit_is_named():
    model, state = paper_model("has8_vgg", VGG), random_state(FAMILIES["has8_vgg"][1])
    missing = {k: v for k, v in state.items() if not k.startswith("dv.1.adv_block")}
    with pytest.raises(CheckpointError, match=r"'dv\.1\.adv_block\.adv\.0\.weight' is missing"):
        released_state_dict(missing, model)
    wrong = {**state, "dv.4.sdv_block.sdv.2.bias": torch.zeros(9)}
    with pytest.raises(CheckpointError, match=r"sdv\.2\.bias' is \(9,\) and .* \(6,\) for 'head"):
        released_state_dict(wrong, model)
    with pytest.raises(CheckpointError, match=r"'fc\.bias' has no place"):
        released_state_dict({**state, "fc.bias": torch.zeros(5)}, model)
    with pytest.raises(CheckpointError, match="'layer1.0.ann_basic_block.conv1.weight' is missing"):
        stem = {k: v for k, v in FAMILIES["has8_resnet"][1].items() if k.startswith("init_conv")}
        released_state_dict(random_state(stem), paper_model("has8_resnet", RESNET))


def test_models_that_take_no_released_weights_are_refused():
    with pytest.raises(BadInput, match="not for a Linear"):
        released_state_dict({}, torch.nn.Linear(2, 2))
    with pytest.raises(BadInput, match="mode='paper'"):
        released_state_dict({}, create_model("has8_vgg", **VGG))
    with pytest.raises(BadInput, match="without mean and std"):
        normalising = {"mean": (0.5, 0.5), "std": (0.1, 0.1)}
        released_state_dict({}, paper_model("has8_vgg", VGG, **normalising))


@pytest.mark.parametrize("mode", ["paper", "hw"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_settings_of_table_1_train_in_both_modes(family, mode):
    widths, _, size = FAMILIES[family]
    x, labels = torch.rand(4, 2, size, size), torch.tensor([0, 1, 2, 3])
    for slope, rescale, decoder in TABLE_1:
        options = {"slope": slope, "rescale": rescale, "decoder": decoder}
        model = create_model(family, mode=mode, **widths, **options)
        assert options.items() <= model.config.items()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        F.cross_entropy(model(x), labels).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert any(moved)
        assert model(x).isfinite().all()
