"""snnTorch's tutorial networks, trained as their tutorials train them, mapped, and run.

``python -m benchmarks.own_networks`` trains what has not been trained yet (a state is kept in
``runs/own_networks`` after each epoch, from which an interrupted run goes on), maps each network
and prints its accuracy on all test data: in floating point, and as the chip computes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from snntorch import functional as SF  # as the tutorials write it
from torch import Tensor, nn

import has8
from benchmarks.machine import commit, hardware, versions, wide_console
from examples.snntorch_networks import FullyConnected, convolutional, events
from has8.data import Data, batches
from has8.files import write_whole
from hwsim import agreement, compare, estimate, simulate
from mapping import map_model
from mapping.pipeline import Reset

RUNS = Path("runs/own_networks")
SEED = 0
CALIBRATION = 256
"""Training samples on which scales are chosen."""
ZERO = 1000
"""Test samples that are run with resets to zero."""
LAVA = 2
"""Test samples that Lava runs too, and that are priced."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One network and how its tutorial trains it.

    Args:
        make: makes it.
        data: "mnist" or "nmnist".
        steps: of a sample.
        loop: whether the loop over the steps stands outside.
        epochs: passes over the training data.
        batch: samples of a training step.
        lr: of Adam.
        loss: of spikes ``[T, B, 10]``, membranes or None, and labels.
    """

    make: Callable[[], nn.Module]
    data: str
    steps: int
    loop: bool
    epochs: int
    batch: int
    lr: float
    loss: Callable[[Tensor, Tensor | None, Tensor], Tensor]

    def network(self) -> nn.Module:
        """The network with its loop."""
        net = self.make()
        if not self.loop:
            return net
        if self.data == "nmnist":
            return has8.over_time(net, self.steps, "spikes", "steps")
        return has8.over_time(net, self.steps, "spikes")


def _membrane_loss(spikes: Tensor, membranes: Tensor | None, labels: Tensor) -> Tensor:
    """Cross entropy of the membranes of every step, summed (tutorial 5)."""
    assert membranes is not None
    each = [nn.functional.cross_entropy(membrane, labels) for membrane in membranes]
    return torch.stack(each).sum()


def _rate_loss(spikes: Tensor, membranes: Tensor | None, labels: Tensor) -> Tensor:
    loss: Tensor = SF.ce_rate_loss()(spikes, labels)
    return loss


def _count_loss(spikes: Tensor, membranes: Tensor | None, labels: Tensor) -> Tensor:
    loss: Tensor = SF.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)(spikes, labels)
    return loss


NETWORKS: dict[str, Trained] = {
    "tutorial 5": Trained(FullyConnected, "mnist", 25, False, 1, 128, 5e-4, _membrane_loss),
    "tutorial 6": Trained(convolutional, "mnist", 50, True, 1, 128, 1e-2, _rate_loss),
    "tutorial 6, spikes pooled": Trained(
        partial(convolutional, pool_spikes=True), "mnist", 50, True, 1, 128, 1e-2, _rate_loss
    ),
    "tutorial 7": Trained(events, "nmnist", 25, True, 10, 32, 2e-2, _count_loss),
    "tutorial 7, spikes pooled": Trained(
        partial(events, pool_spikes=True), "nmnist", 25, True, 10, 32, 2e-2, _count_loss
    ),
}


def train(name: str, folder: Path = RUNS) -> tuple[nn.Module, float]:
    """A network, trained; an interrupted training goes on from its last whole epoch.

    Args:
        name: in :data:`NETWORKS`.
        folder: where states are kept.

    Returns:
        The network in evaluation mode, and the seconds that it took.
    """
    how = NETWORKS[name]
    torch.manual_seed(SEED)
    model = how.network()
    optimizer = torch.optim.Adam(model.parameters(), lr=how.lr, betas=(0.9, 0.999))
    path = folder / f"{name.replace(', ', '-').replace(' ', '-')}.pt"
    epoch, seconds = 0, 0.0
    if path.is_file():
        kept = torch.load(path, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        epoch, seconds = kept["epoch"], kept["seconds"]
    while epoch < how.epochs:
        start = time.perf_counter()
        torch.manual_seed(SEED + epoch)
        for images, labels in batches(_source(how).train, how.batch, shuffle_seed=SEED + epoch):
            answer = model(images)
            spikes, membranes = answer if isinstance(answer, tuple) else (answer, None)
            loss = how.loss(spikes, membranes, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epoch, seconds = epoch + 1, seconds + time.perf_counter() - start
        click.echo(f"{name}: epoch {epoch} of {how.epochs}, {seconds:.0f} s", err=True)
        content = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "seconds": seconds,
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, partial(torch.save, content))
    return model.eval(), seconds


def row(name: str, folder: Path = RUNS) -> dict[str, Any]:
    """What one network comes to on all test samples.

    Returns:
        JSON-able: ``network``, ``data``, ``steps``, ``epochs``, ``train_s``; ``layers`` of neurons
        and how many of them are ``on_chip``, their ``neurons`` there; ``samples``; the accuracies
        ``float`` and ``mapped`` (with resets as trained), ``float_zero`` and ``mapped_zero`` (on
        neurons that reset to zero, of the first samples), and the part of the ``same`` answers as
        float, all in [0, 1]; ``lava_equal`` on the first samples; ``compartments`` and
        ``compartments_zero``; synaptic operations ``synops`` and host ``macs`` of one sample.
    """
    how = NETWORKS[name]
    model, seconds = train(name, folder)
    source = _source(how)
    calibration, _ = source.train.tensors(CALIBRATION)
    samples, labels = source.test.tensors(len(source.test))
    found: dict[str, Any] = {
        "network": name,
        "data": how.data,
        "steps": how.steps,
        "epochs": how.epochs,
        "train_s": round(seconds),
    }
    for reset in get_args(Reset):
        after = "" if reset == "trained" else f"_{reset}"
        mapped = map_model(
            model,
            calibration=calibration,
            inputs="spikes" if how.data == "nmnist" else "values",
            scales="search",
            reset=reset,
        )
        click.echo(f"{name}, reset as {reset}: mapped", err=True)
        axis, few = mapped.graph.input.type.batch_axis, ZERO if after else len(labels)
        part = samples.narrow(axis, 0, min(few, len(labels)))
        result = agreement(mapped, part, labels=labels[:few], batch_size=100)
        click.echo(f"{name}, reset as {reset}: {result.accuracy:.2%}", err=True)
        found[f"float{after}"] = result.float_accuracy
        found[f"mapped{after}"] = result.accuracy
        found[f"compartments{after}"] = sum(tile.compartments for tile in mapped.placement.tiles)
        if after:
            continue
        first = samples.narrow(axis, 0, LAVA)
        cost = estimate(mapped, simulate(mapped, first))
        populations = [p for chip in mapped.chip_segments for p in chip.populations]
        layers = [node.name for node in mapped.graph if node.op == "neuron"]
        found |= {
            "samples": result.samples,
            "same": result.share,
            "layers": len(layers),
            "on_chip": sum(p.name in layers for p in populations),
            "neurons": sum(population.size for population in populations),
            "lava_equal": compare(mapped, first, "fast", "lava").equal,
            "synops": round(cost.synops),
            "macs": round(cost.host_macs),
        }
    return found


def _source(how: Trained) -> Data:
    return has8.load_data(how.data, steps=how.steps if how.data == "nmnist" else None)


@click.command()
@click.option("--networks", help=f"Some of {'; '.join(NETWORKS)}.  [default: all]")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True, help="Of torch.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(networks: str | None, runs: Path, threads: int, as_json: bool) -> None:
    """Train, map and run the networks of snnTorch's tutorials 5, 6 and 7."""
    torch.set_num_threads(threads)
    names = [name.strip() for name in networks.split(";")] if networks else list(NETWORKS)
    rows = [row(name, runs) for name in names]
    shown = Table("", *(found["network"] for found in rows), box=SIMPLE_HEAD)
    for key in [key for key in rows[0] if key != "network"]:
        shown.add_row(key, *(_shown(key, found[key]) for found in rows))
    wide_console().print(shown)
    if as_json:
        facts = {"hardware": hardware(), "threads": threads, "commit": commit(), **versions()}
        click.echo(json.dumps({"benchmark": "own_networks", **facts, "rows": rows}))


def _shown(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
