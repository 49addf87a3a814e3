"""What test images that pretraining has seen do to a hybrid network's accuracy.

    python -m benchmarks.hnn_leak --epochs 30

The released code of Muramatsu & Yu 2021 merges training and test images and splits them 60/20/20
at random, anew for each network, so that artificial layers that are trained apart have learned most
of the images that the spiking layers behind them are tested on. Here both are trained on one split,
and then the spiking layers on another: everything else is the same.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn

from has8 import Data, create_model, fit, load_data
from has8.data import ArrayImages
from has8.training.recipes import RECIPES
from has8.training.separate import keep_artificial

PARTS = (0.6, 0.2)
"""Of all images, those to learn from, and of the rest those for validation, left out here."""


def drawn(data: Data, seed: int) -> tuple[Data, Tensor, Tensor]:
    """All images merged and split at random, and the numbers of those in either part."""
    parts = [part.tensors() for part in (data.train, data.test)]
    images = (torch.cat([x for x, _ in parts]) * 255).round().to(torch.uint8)
    labels = torch.cat([y for _, y in parts])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    learn, skip = (int(part * len(labels)) for part in PARTS)
    train, test = order[:learn], order[learn + skip :]
    made = [ArrayImages(images[chosen], labels[chosen]) for chosen in (train, test)]
    return replace(data, train=made[0], test=made[1]), train, test


def right(model: nn.Module, data: Data) -> Tensor:
    """Of each test image, whether the model is right, ``bool[N]``."""
    x, labels = data.test.tensors()
    with torch.no_grad():
        answers = [model.eval()(part).argmax(1) for part in x.split(256)]
    return torch.cat(answers) == labels


def measure(name: str, epochs: int, subset: int | None, hidden: list[int]) -> dict[str, Any]:
    """Accuracies in percent; see the keys."""
    data = load_data(name, preprocess="paper")
    config = replace(RECIPES["hnn"], epochs=epochs, subset=subset)
    shape: dict[str, Any] = {
        "in_channels": data.input_shape[0],
        "side": data.input_shape[1],
        "hidden": hidden,
    }

    def network(split: int) -> nn.Module:
        torch.manual_seed(0)
        return create_model("hnn_mlp", num_classes=len(data.class_names), split=split, **shape)

    one, learned, _ = drawn(data, 0)
    other, _, tested = drawn(data, 1)
    ann = network(3)
    fit(ann, one, config)
    found = {"artificial": right(ann, one), "ann_seen": torch.isin(tested, learned)}
    for key, part in (("same_split", one), ("other_split", other)):
        hybrid = network(2)
        keep_artificial(hybrid, ann)
        fit(hybrid, part, config)
        found[key] = right(hybrid, part)
    seen = found.pop("ann_seen")
    shares = {key: values.double().mean().item() * 100 for key, values in found.items()}
    apart = found["other_split"]
    return {
        **shares,
        "seen_share": seen.double().mean().item() * 100,
        "other_split_seen": apart[seen].double().mean().item() * 100,
        "other_split_unseen": apart[~seen].double().mean().item() * 100,
    }


@click.command()
@click.option("--data", default="mnist", show_default=True)
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(1))
@click.option("--subset", type=click.IntRange(2), help="Training images, instead of all.")
@click.option("--hidden", default="500,500", show_default=True, help="Widths.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the line of JSON here too.")
def main(data: str, epochs: int, subset: int | None, hidden: str, out: Path | None) -> None:
    """Train A784-A500-S10 apart on the artificial layers' split of the images, and on another."""
    widths = [int(width) for width in hidden.split(",")]
    found = measure(data, epochs, subset, widths)
    line = json.dumps({"benchmark": "hnn_leak", "data": data, "epochs": epochs, **found})
    click.echo(line)
    if out is not None:
        out.write_text(line + "\n")


if __name__ == "__main__":
    main()
