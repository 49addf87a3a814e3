"""The speed of CoLaNET's compiled rule beside the plain one that defines it, on MNIST.

``python -m benchmarks.colanet`` prints milliseconds an image and copy.
"""

from __future__ import annotations

import json
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.machine import commit, hardware, versions
from has8 import Has8Error, load_data
from has8.colanet import RULES, compiled, plain
from has8.colanet.state import State
from has8.encoders import encode_even

GOAL = 50
"""How many times as fast the compiled rule should be, on one thread."""
RULE = RULES.get("mnist")


def seconds(run: Any, state: State, spikes: Tensor, labels: Tensor) -> float:
    """Of learning some images, processor time where one thread runs."""
    start = time.process_time()
    run(state, RULE, spikes, labels, first=0)
    return time.process_time() - start


def measured(images: Tensor, labels: Tensor, few: int) -> dict[str, Any]:
    """Milliseconds an image of one copy: plain for a few images, compiled for all.

    Raises:
        RuntimeError: if the two differ in anything that they learn from the few.
    """
    spikes = encode_even(images.flatten(1), RULE.steps).bool().transpose(0, 1).contiguous()
    one, other, whole = (State.new(RULE, spikes.shape[2], 10, 1, 0) for _ in range(3))
    slow = seconds(plain.run, one, spikes[:few], labels[:few]) / few
    compiled.run(other, RULE, spikes[:few], labels[:few], first=0)
    for field in fields(State):
        if not torch.equal(getattr(one, field.name), getattr(other, field.name)):
            raise RuntimeError(f"the compiled rule differs in {field.name}")
    fast = seconds(compiled.run, whole, spikes, labels) / len(images)
    return {
        "images": len(images),
        "plain_images": few,
        "neurons": 10 * RULE.columns,
        "plain_ms": 1e3 * slow,
        "compiled_ms": 1e3 * fast,
        "times": slow / fast,
        "ten_copies_of_60000_minutes": 10 * 60_000 * fast / 60,
    }


@click.command()
@click.option("--images", type=click.IntRange(1), default=2_000, show_default=True)
@click.option("--plain-images", type=click.IntRange(1), default=20, show_default=True)
@click.option("--data-root", type=click.Path(path_type=Path), help="Where data lie.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(images: int, plain_images: int, data_root: Path | None, as_json: bool) -> None:
    """Print the speed of both, on one thread."""
    torch.set_num_threads(1)
    try:
        x, labels = load_data("mnist", data_root).train.tensors(images)
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    found = measured(x, labels, plain_images)
    click.echo(
        f"an image and copy of {found['neurons']} neurons: plain {found['plain_ms']:.1f} ms, "
        f"compiled {found['compiled_ms']:.3f} ms, {found['times']:.0f} times as fast "
        f"(goal {GOAL}); 10 copies of 60,000 images: "
        f"{found['ten_copies_of_60000_minutes']:.1f} minutes on one thread"
    )
    if as_json:
        facts = {"hardware": hardware(), "versions": versions(), "commit": commit()}
        click.echo(json.dumps({"benchmark": "colanet", **found, **facts}))


if __name__ == "__main__":
    main()
