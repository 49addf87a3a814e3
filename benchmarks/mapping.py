"""How many cores networks take, how far their messages go, and how long mapping them takes.

python -m benchmarks.mapping --nets mnist,mobilenet,resnet --json
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.bits import listed
from benchmarks.cost_cases import ASSUMED, CASES, Adaptive, Layer, Stack
from benchmarks.machine import commit, hardware, versions, wide_console
from has8 import Has8Error, create_model
from mapping import load_target, map_model
from mapping.chip.segment import ChipSegment
from mapping.cores.allocate import allocate
from mapping.cores.descent import descend
from mapping.cores.flows import flows_of, hops_of
from mapping.cores.placement import Placement, place, seated
from mapping.targets.schema import Target
from mapping.targets.topology import Topology

MODELS = {"resnet": ("has8_resnet_b32", 32), "vgg224": ("has8_vgg_b16", 224)}
"""Models of has8, and pixels a side."""
PUBLISHED = {
    "mnist": "MNIST of NxTF's paper",
    "mobilenet": "CIFAR-10 of NxTF's notebook",
    "n-mnist": "N-MNIST",
    "n-tidigits": "N-TIDIGITS",
    "braille": "Braille",
    "dvs": "DVS gesture, SANA-FE",
}
"""Networks whose cores were published, by their names in :mod:`benchmarks.cost_cases`."""
DVS = Stack(
    (1, 32, 32),
    (Layer(16, 3, 2), Layer(32, 3), Layer(64, 3), Layer(11, 3), Layer(11)),
    ASSUMED,
    written=True,
)
"""The shapes of SANA-FE's DVS gesture network, which it lays on 49 cores (``snn/dvs.yaml``)."""
YOLO_KP = Stack(
    (3, 448, 448),
    (
        *(Layer(channels, 3, 2, 1) for channels in (16, 32, 64, 128)),
        *(Layer(256, 3, 1, 1), Layer(256, 3, 2, 1), Layer(512, 3, 1, 1)),
        *(Layer(256, 1), Layer(512, 3, 1, 1), Layer(48, 1)),
    ),
    ASSUMED,
)
"""The shapes of lava-dl's YOLO-KP, which Intel's compiler lays on 574 cores of Loihi 2."""
SIDES = {f"layers{side}": side for side in (9, 29, 91, 287, 908)}
"""Ten convolutions of 32 to 256 channels, by pixels a side: 1e4 to 1e8 neurons."""
NETS = (*PUBLISHED, "yolo-kp", *MODELS, *SIDES)


def layers(side: int) -> Stack:
    """Ten convolutions, each second pair at half the width and height."""
    wide = ((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1))
    ends = ((256, 2), (256, 2))
    made = tuple(Layer(channels, 3, stride, 1) for channels, stride in (*wide, *ends))
    return Stack((3, side, side), made, ASSUMED)


def published_net(name: str) -> tuple[Stack | Adaptive, int | None]:
    """A network that was published, and the cores that it was published with."""
    if name in ("dvs", "yolo-kp"):
        return (DVS, 49) if name == "dvs" else (YOLO_KP, 574)
    case = CASES[PUBLISHED[name]]
    assert case.net is not None
    return case.net, case.cores


def measure(name: str) -> dict[str, Any]:
    """One row.

    Returns:
        JSON-able: ``target``, ``neurons``, ``cores``, ``cores_lower_bound`` and the resource that
        ``binds``, ``cores_published`` (None where nobody did), ``chips``, ``seconds`` of the whole
        mapping and of its ``placing``, ``cpu_seconds`` of all threads, counting hops included,
        ``peak_mb`` of the process, and ``hops``, ``hops_snake``, ``hops_random`` and
        ``hops_bound``, in which each neuron sends one message to each core that it reaches.
    """
    target, published = load_target("loihi2" if name == "yolo-kp" else "loihi"), None
    segments: tuple[ChipSegment, ...]
    start, worked = time.perf_counter(), time.process_time()
    if name in MODELS:
        model, pixels = MODELS[name]
        torch.manual_seed(0)
        network = create_model(model, num_classes=10).eval()
        start, worked = time.perf_counter(), time.process_time()
        images = torch.rand(2, 3, pixels, pixels)
        mapped = map_model(network, target, calibration=images, placement="snake")
        segments, along = mapped.chip_segments, mapped.placement
    else:
        net, published = (layers(SIDES[name]), None) if name in SIDES else published_net(name)
        segments = (net.chip(8),)
        along = place(allocate(segments, target), segments, target)
    begin = time.perf_counter()
    placed = seated(along, descend(flows_of(along, segments), target.chip), target)
    end = time.perf_counter()
    return {
        "name": name,
        **_row(placed, segments, published, target),
        "seconds": round(end - start, 2),
        "placing": round(end - begin, 2),
        "cpu_seconds": round(time.process_time() - worked, 2),
        **_peak(),
    }


def _row(
    placed: Placement, segments: tuple[ChipSegment, ...], published: int | None, target: Target
) -> dict[str, Any]:
    found = hops_of(placed, segments, Topology.of(target.chip))
    least = placed.cores_bound
    return {
        "target": target.name,
        "neurons": sum(layer.size for chip in segments for layer in chip.populations),
        "cores": placed.cores_used,
        "cores_lower_bound": least.cores,
        "binds": least.resource,
        "cores_published": published,
        "chips": placed.chips_used,
        "hops": found.placed,
        "hops_snake": found.snake,
        "hops_random": round(found.random),
        "hops_bound": found.bound,
    }


def _peak() -> dict[str, int]:
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}


def _alone(job: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any]:
    """What a job gives in a process of its own, whose peak of memory is that of this job."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(job, (name,))


def _rendered(rows: list[dict[str, Any]]) -> Table:
    columns = (
        "neurons",
        "cores",
        "at least",
        "binds",
        "published",
        "chips",
        "s",
        "placing s",
        "CPU s",
        "MB",
    )
    shown = Table("network", box=SIMPLE_HEAD)
    for column in (*columns, "hops", "snake", "random", "at least"):
        shown.add_column(column, justify="right")
    keys = "neurons", "cores", "cores_lower_bound", "binds", "cores_published", "chips", "seconds"
    ends = "placing", "cpu_seconds", "peak_mb", "hops", "hops_snake", "hops_random", "hops_bound"
    for row in rows:
        cells = (row[key] for key in (*keys, *ends))
        shown.add_row(
            row["name"],
            *("-" if x is None else f"{x:,}" if isinstance(x, int) else str(x) for x in cells),
        )
    return shown


@click.command()
@click.option(
    "--nets",
    default=",".join((*PUBLISHED, "yolo-kp", *MODELS)),
    show_default=True,
    help=f"Which of {', '.join(NETS)}.",
)
@click.option("--growth", is_flag=True, help="Map ten layers of 1e4 to 1e8 neurons instead.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(nets: str, growth: bool, as_json: bool) -> None:
    """Map networks, each in a process of its own."""
    try:
        names = list(SIDES) if growth else listed(nets, list(NETS), "--nets")
        rows = [_alone(measure, name) for name in names]
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    wide_console().print(_rendered(rows))
    if as_json:
        facts = {"hardware": hardware(), "commit": commit(), **versions()}
        click.echo(json.dumps({"benchmark": "mapping", **facts, "rows": rows}))


if __name__ == "__main__":
    main()
