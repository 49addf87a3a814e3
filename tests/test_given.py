"""Public functions given what people pass by mistake: one sentence each, or what was meant."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import snntorch as snn
import torch
from torch import nn

from has8 import calibrate, evaluate, fit, load_data
from has8.data import ArrayImages
from has8.errors import BadInput, TraceError
from has8.training.recipes import TrainConfig
from hwsim import agreement, estimate, simulate, simulate_on_ray
from mapping import map_model
from mapping.finetune import prepare


@pytest.fixture(scope="module")
def mapped(vgg, digits):
    return map_model(vgg, calibration=digits)


def test_images_that_mean_the_same_give_the_same(vgg, mapped, digits):
    x = (digits[:3] * 255).round().to(torch.uint8)
    want = simulate(mapped, x.float() / 255).logits
    for same in (x, x.numpy(), (x.float() / 255).double(), (x.float() / 255).numpy()):
        assert torch.equal(simulate(mapped, same).logits, want)
    half = (x.float() / 255).bfloat16()
    assert torch.equal(simulate(mapped, half).logits, simulate(mapped, half.float()).logits)
    again = map_model(vgg, calibration=digits.double().numpy())
    assert torch.equal(simulate(again, x).logits, want)


WRONG_IMAGES = {
    "a list": [[0.0]],
    "a loader": torch.utils.data.DataLoader(torch.zeros(2, 1, 8, 8)),
    "a path": "images/",
    "integers": torch.zeros(2, 1, 8, 8, dtype=torch.int64),
    "flags": torch.zeros(2, 1, 8, 8, dtype=torch.bool),
    "complex": torch.zeros(2, 1, 8, 8, dtype=torch.complex64),
    "text": np.array(["a", "b"]),
    "objects": np.array([None, None]),
    "nan": torch.full((2, 1, 8, 8), torch.nan),
    "infinite": np.full((2, 1, 8, 8), np.inf),
    "none": torch.zeros(0, 1, 8, 8),
    "one without its axis": torch.zeros(1, 8, 8),
    "a number": torch.tensor(1.0),
    "channels last": np.zeros((2, 8, 8, 1)),
}


@pytest.mark.parametrize("kind", WRONG_IMAGES)
def test_wrong_images_are_one_sentence_everywhere(vgg, mapped, kind):
    x = WRONG_IMAGES[kind]
    for function in (simulate, agreement, simulate_on_ray):
        with pytest.raises(BadInput) as caught:
            function(mapped, x)
        assert "\n" not in str(caught.value)
    if kind in ("channels last", "one without its axis"):  # any shape may calibrate some model
        return
    for call in (
        lambda: map_model(vgg, calibration=x, input_shape=(1, 8, 8)),
        lambda: prepare(vgg, calibration=x),
        lambda: calibrate(vgg, x, remeasure=True),
    ):
        with pytest.raises(BadInput):
            call()


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("model.pt", "has8.load_checkpoint"),
        (SimpleNamespace(model=nn.Linear(1, 1)), r"take its \.model"),
        (nn.Linear, "make one of this class"),
        (torch.zeros(2, 1, 8, 8), "has8.create_model"),
        (None, "has8.create_model"),
    ],
)
def test_what_is_no_model(model, hint, digits):
    data = load_data("digits")
    for call in (
        lambda: map_model(model, calibration=digits),
        lambda: prepare(model, calibration=digits),
        lambda: calibrate(model, digits),
        lambda: evaluate(model, data.test),
        lambda: fit(model, data, TrainConfig()),
    ):
        with pytest.raises(BadInput, match=hint):
            call()


def test_swapped_and_missing_arguments(vgg, mapped, digits):
    run = simulate(mapped, digits[:2])
    for call in (
        lambda: simulate(digits, mapped),
        lambda: simulate("digits.h8", digits),
        lambda: simulate(vgg, digits),
        lambda: agreement(digits, mapped),
        lambda: simulate_on_ray(digits, mapped),
        lambda: estimate(run, mapped),
        lambda: estimate(mapped, mapped),
        lambda: fit(vgg, TrainConfig(), load_data("digits")),
        lambda: evaluate(vgg, digits[:0]),
        lambda: evaluate(
            vgg, ArrayImages(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0))
        ),
        lambda: map_model(vgg, input_shape=(0, 8, 8)),
        lambda: map_model(vgg, input_shape=(1.0, 8, 8)),
    ):
        with pytest.raises(BadInput):
            call()


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([0, -1]), torch.tensor([0.0, 1.0]), torch.tensor([0]), [0, 1], "ab"],
    ids=str,
)
def test_wrong_labels(mapped, digits, labels):
    with pytest.raises(BadInput, match="label"):
        agreement(mapped, digits[:2], labels=labels)


def test_labels_beyond_the_outputs(mapped, digits):
    assert agreement(mapped, digits[:2], labels=np.array([0, 9])).accuracy is not None
    with pytest.raises(BadInput, match="labels must be classes from 0 to 9, and these are 1 to 10"):
        agreement(mapped, digits[:2], labels=torch.tensor([1, 10]))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_types_are_mapped(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 10)).to(kind)
    x = torch.rand(2, 1, 8, 8)
    found = simulate(map_model(model, calibration=x), x).logits
    torch.testing.assert_close(found, model.float()(x).detach())


def test_words_say_what_to_use():
    x = torch.rand(2, 1, 8, 8)

    def said(model: nn.Module) -> str:
        with pytest.raises(TraceError) as caught:
            map_model(model, calibration=x)
        assert "mapping.graph" not in str(caught.value)
        return str(caught.value)

    leaky = nn.Sequential(nn.Conv2d(1, 2, 3), snn.Leaky(beta=0.9))
    assert "layer '1' is a Leaky, which mapping does not know: use has8.neurons.Leaky" in said(
        leaky
    )
    assert "use AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d" in said(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU())
    )
    broken = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    assert "finite" in said(broken)
    odd = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    assert "track_running_stats=True" in said(odd)
    odd = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, eps=0))
    odd[1].running_var.zero_()
    assert "variance and eps" in said(odd)
