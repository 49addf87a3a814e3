"""How fast a mapped model runs: in Lava, in the reference, in the fast backend, and in float.

All segments that a chip can take are mapped. The fast backend and the float model run the same
images in turn, round by round. Lava and the reference run a few samples; what Lava takes to start
is measured apart, so that its rate is that of a run of any length. The work that the chip's
convolutions and linear layers amount to, per second of the time that they alone take, is held
against the machine's own rate of multiplying large matrices of the same type.

    python -m benchmarks.simulation --json
"""

from __future__ import annotations

import cProfile
import json
import pstats
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.machine import hardware, versions, wide_console
from benchmarks.stopwatch import MEBIBYTE, forget_peak, in_turn, resident
from benchmarks.training import MODELS, OURS, build
from benchmarks.training import Settings as NetSettings
from has8 import Has8Error, load_data
from has8.training.calibrate import calibrate
from hwsim import simulate
from hwsim.backends.fast.backend import Fast, FastProgram
from hwsim.backends.fast.layout import stored
from hwsim.backends.fast.sums import Sums
from hwsim.backends.lava.backend import Lava
from hwsim.price.counts import layer_counts
from mapping import Mapped, map_model

MATRIX = 2048
"""Rows and columns of the matrices whose product is the machine's own rate."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Args:
        samples: images of one round, in the fast backend and in float.
        batch_size: images at a time.
        rounds: medians are over so many.
        lava_samples: images that Lava runs, at least 2; 0 leaves it out.
        reference_samples: images that the reference runs.
        threads: of torch.
    """

    samples: int = 512
    batch_size: int = 128
    rounds: int = 5
    lava_samples: int = 4
    reference_samples: int = 2
    threads: int = 2


def prepared(name: str, images: Tensor) -> tuple[nn.Module, Mapped]:
    """A net that fires, as float model and mapped whole; speed does not ask for training."""
    net = build(name, OURS, NetSettings()).eval()
    calibrate(net, images[:128])
    return net, map_model(net, "loihi", calibration=images[:128])


def lava_run(mapped: Mapped, images: Tensor) -> tuple[float, float, bool]:
    """Seconds that Lava takes to start, and for each sample; whether all spikes are the fast ones.

    Of two runs, the difference is that of the samples alone.
    """
    few = max(1, len(images) // 4)
    seconds = []
    for part in (images[:few], images):
        start = time.perf_counter()
        run = simulate(mapped, part, Lava(), batch_size=len(images), record=("spikes",))
        seconds.append(time.perf_counter() - start)
    fast = simulate(mapped, images, Fast(), batch_size=len(images), record=("spikes",))
    equal = all(
        torch.equal(run.spikes[segment][name], spikes)
        for segment, found in fast.spikes.items()
        for name, spikes in found.items()
    )
    each = (seconds[1] - seconds[0]) / (len(images) - few)
    return seconds[0] - few * each, each, equal


def sums_of(mapped: Mapped, images: Tensor) -> tuple[Callable[[], None], int]:
    """A function that computes the weighted sums of all chip layers alone, and their operations.

    A multiplication and an addition are two operations; those with padding are left out.
    """
    run = simulate(mapped, images, Fast(), batch_size=len(images), record=("spikes",))
    work: list[tuple[FastProgram, dict[str, Tensor]]] = []
    for chip in mapped.chip_segments:
        program = Fast().compile(chip, mapped.target.registers)
        spikes = {**run.inputs[chip.name], **run.spikes[chip.name]}
        work.append((program, {name: stored(x) for name, x in spikes.items()}))

    def sums() -> None:
        with torch.inference_mode():
            for program, sources in work:
                for layer in (layer for part in program.parts for layer in part):
                    steps = program.segment.steps
                    for chunk in layer.chunks(len(images), steps):
                        layer.drive(sources, chunk, steps)

    layers = [layer for layer in layer_counts(mapped, run.activity) if layer.side == "chip"]
    return sums, 2 * len(images) * sum(layer.dense for layer in layers)


def sparsity(mapped: Mapped, images: Tensor) -> dict[str, float]:
    """Of what feeds the chip's layers: the part that are spikes, and the part that is silent.

    Silent is a channel in a step in which no neuron of it fires: of one sample, or of all.
    """
    run = simulate(mapped, images, Fast(), batch_size=len(images), record=("spikes",))
    found: dict[str, list[Tensor]] = {"spikes": [], "silent_once": [], "silent_always": []}
    for chip in mapped.chip_segments:
        spikes = {**run.inputs[chip.name], **run.spikes[chip.name]}
        for source in {s.source for p in chip.populations for s in p.synapses}:
            fires = spikes[source].flatten(3).any(3) if spikes[source].dim() > 3 else spikes[source]
            found["spikes"].append(spikes[source].flatten())
            found["silent_once"].append(~fires.flatten())
            found["silent_always"].append(~fires.any(1).flatten())
    return {key: float(torch.cat(parts).double().mean()) for key, parts in found.items()}


def matrix_rate(arithmetic: str) -> float:
    """Operations a second of a product of large matrices, the best of several."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-128, 128, (MATRIX, MATRIX), generator=generator)
    spikes = torch.rand(MATRIX, MATRIX, generator=generator) < 0.5
    weight = weight.to(getattr(torch, arithmetic))
    product = Sums("", arithmetic, weight, 1.0, None)  # type: ignore[arg-type]
    best = 0.0
    for _ in range(10):
        start = time.perf_counter()
        product(spikes)
        best = max(best, 2 * MATRIX**3 / (time.perf_counter() - start))
    return best


STAGES = {
    ("backend.py", "compile"): "making ready",
    ("sums.py", "__call__"): "chip's sums",
    ("neurons.py", "__call__"): "chip's neurons",
    ("op.py", "run_node"): "host's layers",
    ("boundary.py", "encode"): "encoding",
    ("boundary.py", "decode"): "decoding",
    ("boundary.py", "count"): "counting",
    ("counting.py", "_add"): "counting",
}
"""What a function's time is spent on; none of them calls another."""


def profile(mapped: Mapped, images: Tensor, batch_size: int) -> dict[str, float]:
    """The part of a run's time that each stage takes; "the rest" is Python and memory."""
    profiler = cProfile.Profile()
    profiler.runcall(simulate, mapped, images, batch_size=batch_size)
    shares = dict.fromkeys((*STAGES.values(), "the rest"), 0.0)
    total = 0.0
    for (file, _, function), (*_, own, cumulative, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        total += own
        stage = STAGES.get((Path(file).name, function))
        if stage is not None:
            shares[stage] += cumulative
    shares["the rest"] = total - sum(shares.values())
    return {stage: seconds / total for stage, seconds in shares.items()}


def peak_mib(name: str, settings: Settings, samples: int) -> float | None:
    """By how much simulating so many images raises the memory in use, beside the images."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, name, settings, samples).result()


def _peak(name: str, settings: Settings, samples: int) -> float | None:
    torch.set_num_threads(settings.threads)
    images = torch.rand(samples, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    _, mapped = prepared(name, images)
    forget_peak()
    before = resident("VmRSS")
    simulate(mapped, images, batch_size=settings.batch_size)
    after = resident("VmHWM")
    return None if before is None or after is None else (after - before) / MEBIBYTE


def measure(name: str, images: Tensor, settings: Settings, memory: bool = True) -> dict[str, Any]:
    """Everything about one model; what is not measured is None."""
    net, mapped = prepared(name, images)
    some = images[: settings.samples]
    sums, operations = sums_of(mapped, images[: settings.batch_size])

    def in_float() -> None:
        with torch.inference_mode():
            for batch in some.split(settings.batch_size):
                net(batch.contiguous(memory_format=torch.channels_last))

    times = in_turn(
        {
            "fast": lambda: _discard(simulate(mapped, some, batch_size=settings.batch_size)),
            "float": in_float,
            "sums": sums,
        },
        settings.rounds,
        "cpu",
    )
    fast = 1e3 * len(some) / median(times["fast"])
    rates = {"fast": fast, "float": 1e3 * len(some) / median(times["float"])}
    start = time.perf_counter()
    simulate(mapped, images[: settings.reference_samples], "reference")
    rates["reference"] = settings.reference_samples / (time.perf_counter() - start)
    run = simulate(mapped, images[:2])
    kinds = sorted(set(run.arithmetic.values()))
    arithmetic = "int8" if all("int8" in kind for kind in kinds) else "float32"
    achieved, peak = 1e3 * operations / median(times["sums"]), matrix_rate(arithmetic)
    starting = each = equal = None
    if settings.lava_samples and Lava().unavailable() is None:
        starting, each, equal = lava_run(mapped, images[: settings.lava_samples])
    sizes = (settings.samples, 4 * settings.samples) if memory else ()
    return {
        "samples_per_s": {**rates, "lava": None if each is None else 1 / each},
        "fast_vs_lava": None if each is None else fast * each,
        "fast_vs_float": median(
            slow / fast for slow, fast in zip(times["float"], times["fast"], strict=True)
        ),
        "equal": equal,
        "lava_start_s": starting,
        "fraction_of_gemm_peak": achieved / peak,
        "gigaoperations_per_s": achieved / 1e9,
        "gemm_gigaoperations_per_s": peak / 1e9,
        "sums_share": median(times["sums"]) / settings.batch_size
        / (median(times["fast"]) / len(some)),
        "arithmetic": kinds,
        "sparsity": sparsity(mapped, images[: settings.batch_size]),
        "profile": profile(mapped, some, settings.batch_size),
        "peak_mib": {str(size): peak_mib(name, settings, size) for size in sizes},
    }  # fmt: skip


def _discard(_: object) -> None:
    """Timed work gives nothing back."""


def table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """All models for people."""
    shown = Table(box=SIMPLE_HEAD)
    shown.add_column("", no_wrap=True)
    for name in results:
        shown.add_column(name, justify="right", no_wrap=True)
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        **{
            f"{key}, samples/s": lambda r, key=key: _number(r["samples_per_s"][key], ",.2f")  # type: ignore[misc]
            for key in ("lava", "reference", "fast", "float")
        },
        "fast over Lava": lambda r: _number(r["fast_vs_lava"], ",.0f", "x"),
        "fast over float": lambda r: _number(r["fast_vs_float"], ".2f", "x"),
        "every spike as in Lava": lambda r: {True: "yes", False: "NO", None: "-"}[r["equal"]],
        "chip's sums, 10^9 operations/s": lambda r: _number(r["gigaoperations_per_s"], ",.0f"),
        "of the machine's matrix product": lambda r: _number(r["fraction_of_gemm_peak"], ".0%"),
        "sums' share of the fast run": lambda r: _number(r["sums_share"], ".0%"),
        "memory, MiB, by samples": lambda r: ", ".join(
            f"{size}: {_number(mib, '.0f')}" for size, mib in r["peak_mib"].items()
        ),
        "arithmetic": lambda r: "; ".join(r["arithmetic"]),
        "inputs that are spikes": lambda r: _number(r["sparsity"]["spikes"], ".0%"),
        "silent channels, one sample": lambda r: _number(r["sparsity"]["silent_once"], ".0%"),
        "silent channels, all samples": lambda r: _number(r["sparsity"]["silent_always"], ".1%"),
        **{
            f"time: {stage}": lambda r, stage=stage: _number(r["profile"][stage], ".0%")  # type: ignore[misc]
            for stage in next(iter(results.values()))["profile"]
        },
    }
    for label, cell in rows.items():
        shown.add_row(label, *(cell(result) for result in results.values()))
    return shown


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


@click.command()
@click.option("--models", default=",".join(MODELS), show_default=True, help="Separated by commas.")
@click.option("--samples", default=512, show_default=True, type=click.IntRange(2))
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(2))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--lava-samples", default=4, show_default=True, type=click.IntRange(0))
@click.option("--reference-samples", default=2, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=torch.get_num_threads(), show_default=True, type=int)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure it, too.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(models: str, memory: bool, as_json: bool, **options: Any) -> None:
    """Measure the simulators against each other and against the float model, on CIFAR-10."""
    settings = Settings(**options)
    if settings.lava_samples == 1:
        raise click.ClickException("--lava-samples must be 0 or at least 2: one run is subtracted")
    torch.set_num_threads(settings.threads)
    log, results = Console(stderr=True), {}
    try:
        images, _ = load_data("cifar10").test.tensors(max(settings.samples, 128))
        for name in filter(None, models.split(",")):
            log.print(f"{name} ...")
            results[name] = measure(name, images, settings, memory)
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    wide_console().print(table(results))
    if as_json:
        report = {
            "benchmark": "simulation",
            "machine": hardware(),
            "versions": versions(),
            "settings": asdict(settings),
            "models": results,
        }
        click.echo(json.dumps(report))


if __name__ == "__main__":
    main()
