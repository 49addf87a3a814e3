"""How long a training step and an inference pass take: has8, snnTorch, SpikingJelly.

``hnn_mlp`` and ``hnn_cnn``, which the libraries do not have, are held to their step-by-step form,
on images and batches of the size that their paper trains them with.

The same net in three hands (see benchmarks/plain.py), on the same batch, in turn: every round runs
each once, so that what else happens on the machine hits all alike, and medians over the rounds are
reported. Beside them stands the time of has8's convolutions and linear layers alone, forward and
backward, which no way of writing the rest could get below.

    python -m benchmarks.training --json
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from statistics import median
from typing import Any

import click
import snntorch as snn
import torch
import torch.nn.functional as F
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.layers import recorded, replay
from benchmarks.machine import hardware, versions, wide_console
from benchmarks.plain import LIBRARIES, forms, missing, rewritten
from benchmarks.stopwatch import MEBIBYTE, in_turn, resident, wait
from has8 import Has8Error, create_model
from has8.errors import BadInput
from has8.memory import keep_pages
from has8.models.hnn import HNN
from has8.surrogate import SLOPES

MODELS = ("has8_resnet_b32", "has8_vgg_b16", "hnn_mlp")
SPLITS = {"hnn_mlp": 0, "hnn_cnn": 4}
"""Artificial layers of the networks that have them in front."""
LIVELY = 4.0
"""Factor on the spiking layers' new weights, at which their neurons fire."""
OURS = "has8"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLASSES, SIDE = 10, 32
BATCH_SIZE = 64
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "hnn_mlp": {"image": (1, 28, 28)},
    "hnn_cnn": {"batch_size": 32},
}
"""Settings in which the paper of a network trains it: MNIST by 64, CIFAR-10 by 32."""
TOLERANCE = 1e-3
"""Logits are the same where they differ by less, in standard deviations of all logits."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured.

    Args:
        batch_size: images in a step.
        rounds: medians are over so many.
        threads: of torch.
        device: "cpu" or "cuda".
        precision: "32", or "bf16": under autocast.
        slope: of the encoders.
        clock: "wall", or "cpu": the time that the process itself has had, over all threads.
        image: channels, height and width; as many pixels high as wide.
    """

    batch_size: int = BATCH_SIZE
    rounds: int = 5
    threads: int = 2
    device: str = "cpu"
    precision: str = "32"
    slope: str = "straight_through"
    clock: str = "wall"
    image: tuple[int, int, int] = (3, SIDE, SIDE)

    def autocast(self) -> torch.autocast:
        """The context that a forward pass runs in."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and labels, always the same."""
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(self.batch_size, *self.image, generator=generator)
        labels = torch.randint(CLASSES, (self.batch_size,), generator=generator)
        return images.to(self.device), labels.to(self.device)


def build(name: str, variant: str, settings: Settings) -> nn.Module:
    """A model, its batch norms and ranges set by one batch so that its neurons fire.

    Args:
        name: of the model.
        variant: "has8" or one of :func:`benchmarks.plain.forms`; all have the same weights.
        settings: its batch, image, device and slope are used.

    Returns:
        The model; has8's is in the memory order that :func:`has8.fit` trains in.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        split = SPLITS.get(name)
        channels, side, _ = settings.image
        own: dict[str, Any] = {"split": split, "in_channels": channels, "side": side}
        if split is None:
            own = {"slope": settings.slope}
        model = create_model(name, num_classes=CLASSES, **own).to(settings.device)
    if isinstance(model, HNN):
        with torch.no_grad():
            for layer in model.spiking.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.weight *= LIVELY
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(settings.batch()[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    if variant != OURS:
        return rewritten(model, variant)
    return model.to(memory_format=torch.channels_last)


def check(nets: Mapping[str, nn.Module], images: Tensor) -> dict[str, dict[str, float]]:
    """Compare all nets' logits with has8's, in evaluation mode.

    In float64 they must be the same. In float32 they are for most images: where a value lies
    between two codes, the last bit of a sum decides over all its bit planes.

    Returns:
        For each other net ``largest_difference``, in float64 and standard deviations of all
        logits, and ``images_alike``, the part of the images that are the same in float32.

    Raises:
        BadInput: if a net's logits are not has8's.
    """
    exact = _logits({name: _in_float64(net) for name, net in nets.items()}, images)
    rough = _logits(nets, images)
    result = {}
    for name in nets.keys() - {OURS}:
        largest = _apart(exact[OURS], exact[name]).max().item()
        if not largest < TOLERANCE:
            raise BadInput(
                f"logits of {name} differ from has8's by up to {largest:.1e} standard deviations, "
                f"expected less than {TOLERANCE:g}: the nets are not the same, times say nothing"
            )
        alike = (_apart(rough[OURS], rough[name]) < TOLERANCE).double().mean().item()
        result[name] = {"largest_difference": largest, "images_alike": alike}
    return result


def _in_float64(net: nn.Module) -> nn.Module:
    """A copy; snnTorch's own neurons make float32 spikes of anything."""
    net = copy.deepcopy(net).double()
    for module in net.modules():
        if type(module) is snn.Leaky:
            module.register_forward_hook(lambda _, __, spikes: spikes.double())
    return net


def _logits(nets: Mapping[str, nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Of each net in its own type, without TF32."""
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        types = {name: next(net.parameters()).dtype for name, net in nets.items()}
        return {name: net.eval()(images.to(types[name])) for name, net in nets.items()}


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """``[B]``: the largest difference of an image's logits, in standard deviations of all."""
    return (one - other).abs().amax(1) / one.std()


def step_of(net: nn.Module, settings: Settings) -> Callable[[], None]:
    """A function that trains the net for one step: forward, loss, backward, optimiser."""
    images, labels = settings.batch()
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)

    def step() -> None:
        net.train()
        optimizer.zero_grad()
        with settings.autocast():
            loss = F.cross_entropy(net(images), labels)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def inference_of(net: nn.Module, settings: Settings) -> Callable[[], None]:
    """A function that passes the batch through the net in evaluation mode."""
    images, _ = settings.batch()

    def infer() -> None:
        net.eval()
        with torch.inference_mode(), settings.autocast():
            net(images)

    return infer


def convolutions_of(net: nn.Module, settings: Settings) -> Callable[[], None]:
    """A function that runs a step's convolutions and linear layers, and nothing else."""
    net.train()
    with recorded(net) as calls, settings.autocast():
        net(settings.batch()[0])
    with settings.autocast():
        run = replay(calls)

    def again() -> None:
        with settings.autocast():
            run()

    return again


def peak_mib(name: str, variant: str, settings: Settings) -> float | None:
    """By how much two training steps raise the memory in use, in MiB, in a process of its own.

    On a CPU this is the process's peak resident memory over that before the first step, None
    where the system does not tell; on a GPU the peak of torch's allocations over those before.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak, name, variant, settings).result()


def _peak(name: str, variant: str, settings: Settings) -> float | None:
    torch.set_num_threads(settings.threads)
    keep_pages()
    step = step_of(build(name, variant, settings), settings)
    if settings.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before: int | None = torch.cuda.memory_allocated()
    else:
        before = resident("VmRSS")
    for _ in range(2):
        step()
    wait(settings.device)
    cuda = settings.device == "cuda"
    after = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
    return None if before is None or after is None else (after - before) / MEBIBYTE


def measure(name: str, settings: Settings, memory: bool = True) -> dict[str, Any]:
    """Everything about one model; see the keys below. What is not measured is None."""
    nets = {OURS: build(name, OURS, settings)}
    others = forms(nets[OURS])
    variants = [OURS, *(other for other in others if missing(other) is None)]
    nets = {variant: build(name, variant, settings) for variant in variants}
    images, _ = settings.batch()
    alike = check(nets, images)
    convolutions = convolutions_of(nets[OURS], settings)
    inference = in_turn(
        {variant: inference_of(net, settings) for variant, net in nets.items()},
        settings.rounds,
        settings.device,
        CLOCKS[settings.clock],
    )
    steps = in_turn(
        {
            **{variant: step_of(net, settings) for variant, net in nets.items()},
            "convolutions": convolutions,
        },
        settings.rounds,
        settings.device,
        CLOCKS[settings.clock],
    )
    del nets, convolutions
    return {
        "batch_size": settings.batch_size,
        "image": list(settings.image),
        **_ratios("step", steps, others),
        **_ratios("inference", inference, others),
        "step_over_convolutions": _ratio(steps[OURS], steps["convolutions"]),
        "convolution_share": _ratio(steps["convolutions"], steps[OURS]),
        "step_ms": _medians(steps, *others, "convolutions"),
        "inference_ms": _medians(inference, *others),
        "step_peak_mib": {
            variant: peak_mib(name, variant, settings) if memory and variant in variants else None
            for variant in (OURS, *others)
        },
        "agreement": {other: alike.get(other) for other in others},
    }


def _ratio(over: list[float], under: list[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(over, under, strict=True))


def _ratios(
    what: str, times: Mapping[str, list[float]], others: Sequence[str]
) -> dict[str, float | None]:
    return {
        f"{what}_ratio_vs_{name}": _ratio(times[name], times[OURS]) if name in times else None
        for name in others
    }


def _medians(times: Mapping[str, list[float]], *others: str) -> dict[str, float | None]:
    names = (OURS, *others)
    return {name: median(times[name]) if name in times else None for name in names}


def table(name: str, result: Mapping[str, Any]) -> Table:
    """One model's numbers for people."""
    shown = Table(title=name, title_justify="left", box=SIMPLE_HEAD)
    for column in ("", "step ms", "over has8", "inference ms", "over has8", "peak MiB"):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for variant in (OURS, *result["agreement"]):
        shown.add_row(
            variant,
            _number(result["step_ms"][variant], ".1f"),
            _number(result.get(f"step_ratio_vs_{variant}"), ".2f", "x"),
            _number(result["inference_ms"][variant], ".1f"),
            _number(result.get(f"inference_ratio_vs_{variant}"), ".2f", "x"),
            _number(result["step_peak_mib"][variant], ".0f"),
        )
    alone, share = result["step_ms"]["convolutions"], 1 / result["step_over_convolutions"]
    shown.add_row("convolutions alone", _number(alone, ".1f"), _number(share, ".2f", "x"))
    return shown


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


@click.command()
@click.option("--models", default=",".join(MODELS), show_default=True, help="Separated by commas.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=torch.get_num_threads(), show_default=True, type=int)
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    help=f"By default {BATCH_SIZE}; for hnn_cnn 32, as its paper trains it.",
)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--precision", default="32", show_default=True, type=click.Choice(["32", "bf16"]))
@click.option(
    "--slope",
    default="straight_through",
    show_default=True,
    type=click.Choice(SLOPES.names()),
    help="Of the encoders.",
)
@click.option(
    "--clock",
    default="wall",
    show_default=True,
    type=click.Choice(list(CLOCKS)),
    help="cpu is for one thread on a busy machine.",
)
@click.option("--memory/--no-memory", default=True, show_default=True, help="Measure it, too.")
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(models: str, memory: bool, as_json: bool, batch_size: int | None, **options: Any) -> None:
    """Measure has8 against the same nets on snnTorch and SpikingJelly."""
    settings = Settings(**options)
    chosen: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    torch.set_num_threads(settings.threads)
    keep_pages()
    console, log = wide_console(), Console(stderr=True)
    skipped = [reason for reason in map(missing, LIBRARIES) if reason]
    for reason in skipped:
        log.print(reason, soft_wrap=True)
    results = {}
    try:
        for name in filter(None, models.split(",")):
            log.print(f"{name} ...")
            own = replace(settings, **{**AS_PUBLISHED.get(name, {}), **chosen})
            results[name] = measure(name, own, memory)
            for library, alike in results[name]["agreement"].items():
                if alike is not None:
                    log.print(_alike_line(library, alike), soft_wrap=True)
            console.print(table(name, results[name]))
    except Has8Error as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        report = {
            "benchmark": "training",
            "machine": hardware(settings.device),
            "versions": versions(),
            "settings": {**asdict(replace(settings, **chosen)), "classes": CLASSES},
            "ratios": "time of the other over has8's, median of the rounds: above 1 has8 is faster",
            "skipped": skipped,
            "models": results,
        }
        click.echo(json.dumps(report))


def _alike_line(library: str, alike: Mapping[str, float]) -> str:
    return (
        f"  logits of {library} and has8 differ by at most {alike['largest_difference']:.1e} "
        f"standard deviations in float64; in float32 {alike['images_alike']:.0%} of the images "
        "have the same"
    )


if __name__ == "__main__":
    main()
