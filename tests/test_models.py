"""Models: the paper's parameter counts, options, and what a config rebuilds."""

import pytest
import torch

from has8 import create_model, model_names
from has8.blocks import HybridBlock, OverTime
from has8.encoders import BitPlaneEncoder, PaperBitPlaneEncoder
from has8.errors import BadInput, UnknownName

PARAMETERS = {
    ("has8_vgg_b16", 10): 9_693_556,
    ("has8_vgg_b16", 100): 9_785_896,
    ("has8_vgg_b16", 1000): 10_709_296,
    ("has8_vgg_b24", 10): 19_297_060,
    ("has8_vgg_b24", 100): 19_389_400,
    ("has8_vgg_b24", 1000): 20_312_800,
    ("has8_resnet_b32", 10): 5_632_522,
    ("has8_resnet_b32", 100): 5_655_652,
    ("has8_resnet_b32", 1000): 5_886_952,
    ("has8_resnet_b64", 10): 22_358_154,
    ("has8_resnet_b64", 100): 22_404_324,
    ("has8_resnet_b64", 1000): 22_866_024,
}
SMALL = {
    "has8_vgg": {"base": 4, "depth": 2, "head": (16,)},
    "has8_resnet": {"base": 4, "depth": 2},
}


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_trainable_parameters_are_the_papers(name, classes):
    model = create_model(name, num_classes=classes)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == PARAMETERS[name, classes]


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"neuron": "if", "decoder": "rate", "order": "msb"},
        {"slope": "fourier_released", "rescale": False, "kernel": 5, "multiplier": 3},
        {"mode": "paper"},
    ],
)
def test_every_option_trains_and_its_config_rebuilds_the_model(family, options):
    model = create_model(family, num_classes=5, in_channels=2, **SMALL[family], **options)
    logits = model(torch.rand(3, 2, 16, 16))
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None]
    assert not silent
    again = create_model(**model.config)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    x = torch.rand(2, 2, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), again.eval()(x))


def test_gradients_reach_the_spiking_branch_through_the_encoder():
    model = create_model("has8_resnet", num_classes=3, **SMALL["has8_resnet"])
    model(torch.rand(4, 3, 32, 32)).square().sum().backward()
    for name, parameter in model.named_parameters():
        if ".snn." in name and name.endswith("0.weight"):
            assert parameter.grad.abs().sum() > 0, name


def test_mode_decides_the_encoder():
    for mode, kind in (("hw", BitPlaneEncoder), ("paper", PaperBitPlaneEncoder)):
        model = create_model("has8_vgg", num_classes=3, mode=mode, **SMALL["has8_vgg"])
        blocks = [m for m in model.modules() if isinstance(m, HybridBlock)]
        assert blocks
        assert all(type(block.encode) is kind for block in blocks)


def test_over_time_equals_a_loop_over_steps():
    layer, x = OverTime(torch.nn.Conv2d(2, 3, 3)), torch.rand(4, 5, 2, 6, 6)
    assert torch.allclose(layer(x), torch.stack([layer[0](step) for step in x]), atol=1e-6)


def test_names_and_options_that_do_not_exist():
    assert "has8_resnet_b32" in model_names()
    with pytest.raises(UnknownName, match="did you mean 'has8_resnet_b32'"):
        create_model("has8_resnet_b23", num_classes=10)
    with pytest.raises(BadInput, match="no option 'width'; its options are base, multiplier"):
        create_model("has8_vgg", num_classes=10, width=3)
    with pytest.raises(BadInput, match="no option 'base'"):
        create_model("has8_vgg_b16", num_classes=10, base=3)
    with pytest.raises(BadInput, match="at least 2 classes"):
        create_model("has8_vgg", num_classes=1)
    with pytest.raises(BadInput, match="odd kernel"):
        create_model("has8_vgg", num_classes=4, kernel=2)
    with pytest.raises(BadInput, match="mode must be"):
        create_model("has8_vgg", num_classes=4, mode="chip")
