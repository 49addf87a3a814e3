"""Steps on a Loihi 1 by has8's two timing models, beside SANA-FE's models and beside boards.

``python -m benchmarks.timing`` times every network of :mod:`benchmarks.cost_cases` whose steps were
measured, and, where sanafe is installed, its DVS network on the same cores as SANA-FE has it,
and Intel's PilotNet on Loihi 2, where ``$HAS8_DATA/networks/pilotnet_lif`` has it.
``--cycle`` also runs SANA-FE's model that simulates the mesh cycle by cycle, which takes minutes
for a few steps; ``--steps`` says how many of the DVS network's there are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import msgspec
import numpy as np
import torch

from benchmarks import dvs
from benchmarks.cost_cases import CASES, followed, load, mapped
from benchmarks.oracles import missing, sana_fe
from hwsim import estimate, simulate
from hwsim.names import Timing
from hwsim.price.event_timing import jobs_of, network_of
from hwsim.price.messages import messages_of
from hwsim.price.queues import times
from hwsim.price.timing import MeanTiming, barrier_ns
from hwsim.price.traffic import segment_loads
from hwsim.price.turns import turns
from mapping import map_model, read_netx
from mapping.cores.routes import routes
from mapping.targets.figures import Figure
from mapping.targets.schema import load_target

WHY = {
    "MNIST of NxTF's paper": "the notebook's layers stand for others; rates assumed; times of "
    "events were fitted to it among others",
    "MNIST of NxTF's notebook": "rates assumed; input and reset are in both; times of events were "
    "fitted to it among others",
    "CIFAR-10 of NxTF's notebook": "full buffers stop cores that send to several others; times of "
    "events were fitted to it among others, the rest is not explained",
    "sequential MNIST": "on two cores hardly anything waits; management was fitted to it among "
    "others",
    "Braille": "most of a step is management, which was fitted to it among others",
    "N-TIDIGITS": "rates assumed; management was fitted to it among others; delays of axons, which "
    "take a core longer, are not counted",
    "N-MNIST": "spikes that the board writes are most of a step; fitted to it among others",
}
"""Why measured and priced differ, or do not."""


@dataclass(frozen=True, slots=True)
class Row:
    """Microseconds of a step, the mean over all.

    Args:
        name: of the network.
        by: who measured or simulated it.
        there_us: what that gave.
        mean_us: by timing "mean".
        events_us: by timing "events".
        steps: how many the mean is over.
        why: the two differ from it, or do not.
        apart: the mean over steps of how far "events" is from it, as a share; of measurements, of
            which only the mean is known, None.
    """

    name: str
    by: str
    there_us: float
    mean_us: float
    events_us: float
    steps: int
    why: str
    apart: float | None = None


def measured() -> Iterator[Row]:
    """The networks whose steps were measured, with what else was measured beside them."""
    target = load_target("loihi")
    accounting, link = target.accounting(), target.link
    for case in CASES.values():
        whole = [m for m in case.measured if (m.quantity, m.what) == ("time", "total")]
        if case.net is None or not whole or case.exchanges > 1:
            continue
        there = mapped(case, target)
        of_load, messages = load(case, there, 1)
        barrier = barrier_ns(target, accounting, of_load.routers, there.placement.chips_used)
        besides = {
            "barrier": case.steps * barrier.value / 1e3,
            "management": case.steps * link.step_us.value,
            "messages": messages * link.message_us.value,
            "sample": link.sample_us.value,
        }
        more = sum(us for part, us in besides.items() if part in whole[0].parts)
        mean = MeanTiming().step_ns(of_load, 1, accounting, target).value.sum() / 1e3
        events = followed(case, there, 1, accounting).sum() / 1e3
        yield Row(
            case.name,
            "board",
            whole[0].value / case.steps,
            float(mean + more) / case.steps,
            float(events + more) / case.steps,
            case.steps,
            WHY[case.name],
        )


def beside_sana_fe(models: Mapping[str, str], steps: int) -> Iterator[Row]:
    """SANA-FE's DVS network, each of its layers in boxes on the cores that it gives them.

    Args:
        models: SANA-FE's timing models, and what each is.
        steps: to run.
    """
    chip, target = replace(dvs.published(), steps=steps), load_target("loihi")
    cores = dvs.cores_of(chip, boxes=True)
    there = dvs.placed(chip, target, cores)
    accounting = msgspec.structs.replace(target.accounting(), time_error=Figure.exact(1.0))
    happened = dvs.simulated(chip, target)
    (of_load,) = segment_loads(there, happened)
    (turn,) = turns(there, "gated")
    ways = routes(there.placement, there.chip_segments)
    first = min(chip.depths().values())  # its first layer's own first step, where SANA-FE begins
    own = slice(first, first + chip.steps)
    jobs = jobs_of(messages_of(there, turn.parts(happened), ways, range(turn.steps)), accounting)
    ends = times(network_of(there, accounting), jobs).ends(jobs)[own]
    mean = MeanTiming().step_ns(of_load, 1, accounting, target).value[own]
    barrier = barrier_ns(target, accounting, of_load.routers).value
    ours = [(ns + barrier) / 1e3 for ns in (mean, ends)]
    for model, what in models.items():
        theirs = sana_fe(there, {}, cores, timing=model).steps_us
        apart = float(np.abs(ours[1] / theirs - 1).mean())
        there_us, mean_us, events_us = (float(us.mean()) for us in (theirs, *ours))
        by = f"SANA-FE, {model}"
        yield Row("DVS gesture", by, there_us, mean_us, events_us, chip.steps, what, apart)


SIMPLE = {
    "simple": "busiest core, as mean, which has the longest way of a message on top",
    "detailed": "full routes make senders wait by a rule of thumb",
}
CYCLE = {"cycle": "routers with virtual channels, cycle by cycle (Booksim 2)"}


def pilotnet(folder: Path) -> Row:
    """Intel's PilotNet on a Loihi 2, with an image of lava-dl's tests, on the tiles that it had.

    Args:
        folder: with ``network.net`` and ``trace.npz``, see ``examples/pilotnet.py``.
    """
    with np.load(folder / "trace.npz") as file:
        image = (torch.from_numpy(file["image"].transpose(2, 1, 0)[None]).float() + 4) / 80
    graph = read_netx(folder / "network.net", steps=16, clear_every=16, clear_at=15)
    there = map_model(graph, "loihi2", allocation="intel")
    run = simulate(there, image, apart=1)

    def step_us(timing: Timing) -> float:
        cost = estimate(there, run, timing=timing)
        took = cost.price.latency.chip_us + cost.price.latency.barrier_us
        return took.value / len(cost.steps)

    why = "another image; Loihi 1's rates over what Intel says that Loihi 2 is faster"
    both = step_us("mean"), step_us("events")
    return Row("PilotNet on Loihi 2", "board", 152.85, *both, 16, why)


def table(rows: Iterator[Row]) -> Iterator[str]:
    """The rows in Markdown."""
    yield "| network | by | µs | mean | events | steps apart | why |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for row in rows:
        numbers = (f"{us:,.4g}" for us in (row.there_us, row.mean_us, row.events_us))
        apart = "-" if row.apart is None else f"{row.apart:.1%}"
        yield f"| {row.name} | {row.by} | {' | '.join(numbers)} | {apart} | {row.why} |"


def rows(cycle: bool, steps: int) -> Iterator[Row]:
    """All rows that can be had here."""
    if missing("sanafe") is None:
        yield from beside_sana_fe(SIMPLE | CYCLE if cycle else SIMPLE, steps)
    yield from measured()
    folder = Path(os.environ.get("HAS8_DATA", "~/.cache/has8/data")).expanduser()
    if (folder / "networks/pilotnet_lif/network.net").is_file():
        yield pilotnet(folder / "networks/pilotnet_lif")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
@click.option("--cycle", is_flag=True, help="Run SANA-FE's cycle-accurate model, too.")
@click.option("--steps", type=click.IntRange(1, dvs.STEPS), default=dvs.STEPS, show_default=True)
def main(as_json: bool, cycle: bool, steps: int) -> None:
    """Time networks by both models, beside others."""
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows(cycle, steps)]))
        return
    for line in table(rows(cycle, steps)):
        click.echo(line)


if __name__ == "__main__":
    main()
