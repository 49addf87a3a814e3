"""Recipes, optimisers and learning rates: what they say is what PyTorch would do."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

from has8.data import ArrayImages, Data, load_data
from has8.errors import BadInput, UnknownName
from has8.models import create_model, model_options
from has8.training.hardware import Hardware
from has8.training.new_model import recipe_options
from has8.training.optim import learning_rate, make_optimizer
from has8.training.recipes import RECIPES, TrainConfig


def small():
    return create_model("has8_vgg", num_classes=2, in_channels=1, base=2, depth=0, head=[4])


# Laws


@settings(deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.floats(1e-6, 10),
    st.sampled_from(["cosine", "constant", "cosine-epochs", "steps"]),
)
def test_the_learning_rate_rises_to_its_bound_and_falls(epochs, per_epoch, lr, schedule):
    config, steps = TrainConfig(lr=lr, schedule=schedule, epochs=epochs), epochs * per_epoch
    rates = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= lr for rate in rates)
    top = rates.index(max(rates))
    assert rates[top] == lr or (schedule == "cosine-epochs" and epochs <= 5)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_papers_imagenet_schedule_is_that_of_torchs_schedulers():
    config, per_epoch = RECIPES["paper-sgdr"], 7
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    warm = LinearLR(optimizer, start_factor=config.lr / 10, total_iters=5)
    schedule = SequentialLR(optimizer, [warm, CosineAnnealingLR(optimizer, T_max=95)], [5])
    for epoch in range(100):
        (group,) = optimizer.param_groups
        for step in (epoch * per_epoch, (epoch + 1) * per_epoch - 1):
            assert learning_rate(config, step, 100 * per_epoch) == pytest.approx(group["lr"])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", ["paper", "paper-sgdr", "modern"])
def test_an_optimizer_holds_every_parameter_once(name):
    model = small()
    groups = make_optimizer(model, RECIPES[name]).param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())


# Examples


def test_warm_up_then_cosine_down():
    config = TrainConfig(lr=1.0, epochs=1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[52] == pytest.approx((1 + math.cos(math.pi * 47 / 95)) / 2)
    assert rates[99] < 0.001
    assert learning_rate(replace(config, schedule="constant"), 0, 100) == 1.0


def test_the_papers_settings():
    paper = TrainConfig(
        epochs=100, batch_size=16, lr=1e-3, weight_decay=1e-3, optimizer="adam",
        schedule="constant", label_smoothing=0.0, augment="flip", clip_norm=None, seed=3407,
    )  # fmt: skip
    assert RECIPES["paper"] == paper
    assert RECIPES["paper-sgdr"] == replace(
        paper, lr=0.00625, weight_decay=5e-4, optimizer="sgd", schedule="cosine-epochs"
    )
    assert RECIPES["modern"] == TrainConfig()
    assert RECIPES["hnn"] == replace(
        paper, batch_size=64, lr=1e-4, weight_decay=0.0, schedule="steps", augment="none", seed=0
    )
    short = replace(RECIPES["hnn"], epochs=10, batch_size=16, schedule="constant")
    assert RECIPES["hnn-short"] == short


def test_the_hnn_schedule_is_that_of_torchs_scheduler():
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=RECIPES["hnn"].lr)
    schedule = MultiStepLR(optimizer, [50, 75], gamma=0.1)
    for epoch in range(100):
        (group,) = optimizer.param_groups
        assert learning_rate(RECIPES["hnn"], epoch * 7 + 6, 700) == pytest.approx(group["lr"])
        optimizer.step()
        schedule.step()


def test_the_optimizers_settings():
    adam = make_optimizer(small(), RECIPES["paper"])
    assert type(adam) is Adam and adam.defaults["weight_decay"] == 1e-3
    sgd = make_optimizer(small(), RECIPES["paper-sgdr"])
    assert type(sgd) is SGD and sgd.defaults["momentum"] == 0.9 and sgd.defaults["nesterov"]
    adamw = make_optimizer(small(), RECIPES["modern"])
    weights, others = adamw.param_groups
    assert type(adamw) is AdamW and (weights["weight_decay"], others["weight_decay"]) == (0.05, 0)
    assert {p.ndim for p in weights["params"]} == {2, 4}
    assert {p.ndim for p in others["params"]} == {1}


def test_modern_asks_the_model_for_the_datas_statistics():
    data = load_data("digits")
    images, _ = data.train.tensors()
    asked = recipe_options("modern", "has8_resnet_b32", data)
    known = model_options("has8_resnet_b32")
    assert asked.get("stem") == ("cifar" if "stem" in known else None)
    if "mean" in known:
        assert asked["mean"] == [round(images.double().mean().item(), 4)]
        assert asked["std"] == [round(images.double().std(unbiased=False).item(), 4)]
    assert "stem" not in recipe_options("modern", "has8_vgg", data)
    for paper in ("paper", "paper-sgdr"):
        assert recipe_options(paper, "has8_resnet_b32", data) == {}


def test_large_images_keep_the_imagenet_stem_and_channels_are_apart():
    images = torch.zeros(4, 3, 65, 65, dtype=torch.uint8)
    images[:2, 1], images[:, 2] = 255, 51
    split = ArrayImages(images, torch.tensor([0, 1, 0, 1]))
    asked = recipe_options(
        "modern", "has8_resnet", Data("x", split, split, (3, 65, 65), ("a", "b"))
    )
    assert "stem" not in asked
    if asked:
        assert asked == {"mean": [0.0, 0.5, 0.2], "std": [0.0001, 0.5, 0.0001]}


# Refusals


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": 0.0},
        {"lr": math.inf},
        {"weight_decay": -0.1},
        {"optimizer": "rmsprop"},
        {"schedule": "step"},
        {"label_smoothing": 1.0},
        {"augment": "turn"},
        {"clip_norm": 0.0},
        {"seed": -1},
        {"subset": 1},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} must be"):
        TrainConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"accelerator": "tpu"}, {"devices": 0}, {"num_nodes": 0}, {"precision": "16"}]
)
def test_hardware_out_of_range_is_named(wrong):
    with pytest.raises(BadInput, match=f"{next(iter(wrong))} must be"):
        Hardware(**wrong)


def test_a_recipe_cannot_be_changed_and_models_must_exist():
    with pytest.raises(TypeError):
        RECIPES["paper"] = TrainConfig()
    with pytest.raises(FrozenInstanceError):
        RECIPES["paper"].lr = 1.0
    with pytest.raises(UnknownName):
        recipe_options("modern", "has8_resnot", load_data("digits"))
