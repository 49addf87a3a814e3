"""The bundled models: small, sound, and the chip answers as the float model does."""

import os
from pathlib import Path

import pytest
import torch

from has8 import load_checkpoint, load_data
from hwsim import simulate
from mapping import map_model

MODELS = Path(__file__).parent.parent / "examples" / "models"
needs_data = pytest.mark.skipif(
    "HAS8_DATA" not in os.environ, reason="HAS8_DATA names no folder with CIFAR-10"
)


@pytest.mark.parametrize(
    ("name", "images", "at_least"),
    [("digits", 360, 0.98), pytest.param("cifar10", 50, 0.75, marks=needs_data)],
)
def test_mapped_answers_are_those_of_the_float_model(name, images, at_least):
    path = MODELS / f"{name}.pt"
    assert path.stat().st_size <= 8e6
    checkpoint = load_checkpoint(path)
    x, labels = load_data(name).test.tensors(images)
    with torch.inference_mode():
        expected = checkpoint.model(x).argmax(1)
    found = simulate(map_model(checkpoint.model, calibration=x), x).logits.argmax(1)
    assert (expected == labels).float().mean() >= at_least
    assert (found == expected).float().mean() >= 0.95
