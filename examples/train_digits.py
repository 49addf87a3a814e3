"""Train the bundled model, examples/models/digits.pt, on scikit-learn's digits.

    uv run python examples/train_digits.py

The 1797 images of 8x8 pixels are split in the order of the file: the first 1437 are trained on,
the last 360 are held out. Neighbours in the file are by the same hand, so this is harder than a
random split. The model is a small HAS-8-VGG: three hybrid convolution blocks and a hybrid head,
which map to four chip segments. Takes less than a minute.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

import has8
from has8.training.history import Progress

MODEL = Path(__file__).parent / "models" / "digits.pt"
OPTIONS = {"base": 24, "depth": 2, "head": [64]}
CONFIG = has8.TrainConfig(epochs=25, lr=5e-3, weight_decay=0.05, label_smoothing=0.1)


def main() -> None:
    """Train, say how well it does, and write the model file."""
    data = has8.load_data("digits")
    torch.set_num_threads(1)  # so small a model gains nothing from more
    torch.manual_seed(CONFIG.seed)
    model = has8.create_model(
        "has8_vgg", num_classes=len(data.class_names), in_channels=1, **OPTIONS
    )
    with tempfile.TemporaryDirectory() as folder:
        history = has8.fit(model, data, CONFIG, out=folder, on_progress=report)
        MODEL.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(folder) / "model.pt", MODEL)
    print(
        f"{history.accuracy:.2%} of {len(data.test)} held-out images after {history.seconds:.0f} s"
        f"\n{MODEL} ({MODEL.stat().st_size / 1e6:.2f} MB)"
    )


def report(now: Progress) -> None:
    """Print a line for each epoch."""
    if now.finished:
        epoch = now.finished
        print(f"epoch {epoch.epoch:2d}/{now.epochs}  loss {epoch.train_loss:.4f}  "
              f"test {epoch.test_accuracy:.2%}")  # fmt: skip


if __name__ == "__main__":
    main()
