"""From photographs to prices: a frozen encoder on the host, a CoLaNET that learns, and chips.

    pip install 'has8[encoders]'
    uv run python examples/photos_to_loihi.py caltech101 runs/photos

The first argument is a data set or a folder of photographs, one folder a class; the second is
where the model is kept. Embeddings are computed once, in some 35 ms a photograph on one thread.
"""

from __future__ import annotations

import sys
from pathlib import Path

from has8 import load_data, pretrained
from has8.colanet import RULES
from has8.training.local import learn
from hwsim import estimate, simulate
from mapping import map_model, target_names

HOST, IMAGES = "jetson-orin-nano", 16
"""Where the encoder runs, and held-out photographs that are run and priced."""


def main(name: str, out: Path) -> None:
    """Print the accuracy, and what a photograph costs on the host alone and with each chip."""
    encoder = pretrained("efficientnet_lite0")
    data = load_data(name, image_size=encoder.size, preprocess=encoder.preprocess)
    learned = learn(data, RULES.get("embedding"), out=out, copies=10, encoder=encoder)
    print(f"{learned.test_accuracy:.2%} of {len(data.test)} held-out photographs are right")
    images, _ = data.test.tensors(IMAGES)
    model = learned.model
    for target in target_names():
        mapped = map_model(model, target, calibration=images)
        model = mapped.graph  # traced once
        report = estimate(mapped, simulate(mapped, images), host=HOST)
        alone, energy = report.host_only, report.energy_uj
        print(
            f"{target}: {energy.total.value / 1e3:.3f} mJ "
            f"({energy.total.low / 1e3:.3f} to {energy.total.high / 1e3:.3f}), of which the host "
            f"computes and launches {(energy.host + energy.launching).value / 1e3:.3f} and waits "
            f"{energy.waiting.value / 1e3:.3f}, in {report.latency_us.value / 1e3:.2f} ms; {HOST} "
            f"alone: {alone.energy_uj.value / 1e3:.3f} mJ"
            + (f" in {alone.latency_us.value / 1e3:.2f} ms" if alone.latency_us else "")
        )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
