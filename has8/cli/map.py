"""``has8-map``: map a trained model, run it as the chip would, price it."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from rich.console import Console
from torch import Tensor, nn

from has8 import Checkpoint, calibrate, load_checkpoint
from has8.cli.inputs import BATCH, FOLDER, check_writable, data_options, find_data
from has8.cli.progress import Count, stages
from has8.cli.quantization import CALIBRATION, DEFAULT_BITS, quantization_options
from has8.errors import BackendError
from has8.files import write_whole
from hwsim import compare, estimate, simulate
from hwsim.backends.lava.backend import Lava
from hwsim.experiments.divergence import Comparison
from hwsim.report import render, summarize, to_dict
from mapping import Mapped, load_target, map_model, save, target_names
from mapping.finetune import quantization_of
from mapping.hosts.schema import DEFAULT_HOST, host_names, load_host
from mapping.integers.scales import Method, Scales


@click.command("map", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    default="loihi",
    show_default=True,
    help=f"{', '.join(target_names())}, or a YAML file.",
)
@click.option(
    "--host",
    default=DEFAULT_HOST,
    show_default=True,
    help=f"What runs the rest: {', '.join(host_names())}, or a YAML file.",
)
@click.option(
    "--partition",
    default="all",
    show_default=True,
    help="all, none, or names of chip segments, separated by commas.",
)
@data_options
@click.option(
    "--verify",
    type=click.Choice(["lava", "none"]),
    default="lava",
    show_default=True,
    help="What to hold the simulation against.",
)
@click.option(
    "--verify-samples",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Samples to run in Lava as well, over every spike.",
)
@quantization_options("round, or those that a fine-tuned model has")
@click.option(
    "--out",
    type=FOLDER,
    default=Path(),
    help="Folder for MODEL.h8 and the report.  [default: here]",
)
@click.option("--full", is_flag=True, help="Print every reason and every assumption.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.version_option(package_name="has8")
def map_command(
    model: Path,
    target: str,
    host: str,
    partition: str,
    data: str | None,
    data_root: Path | None,
    samples: int,
    verify: str,
    verify_samples: int,
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
    out: Path,
    full: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Map MODEL (a .pt of has8 train) onto a neuromorphic chip.

    Cuts the model between host and chip, quantises and places the chip's part, runs test images
    through the float model and through the chip's integers, holds a few of them against Lava
    spike by spike, and prices the result. Writes OUT/MODEL.h8 and OUT/MODEL.report.json.

    \b
    has8-map examples/models/digits.pt --target loihi
    has8-map model.pt --partition head.snn,blocks.0.snn --samples 500
    """
    checkpoint, chip, processor = load_checkpoint(model), load_target(target), load_host(host)
    check_writable(out)
    source = find_data(
        data,
        data_root,
        training=checkpoint.provenance,
        input_shape=checkpoint.input_shape,
        class_names=checkpoint.class_names,
    )
    bits, chosen = _scales(checkpoint, chip.name, weight_bits, scales, per_channel)
    with stages(quiet) as stage:
        stage("mapping")
        calibration, _ = source.train.tensors(CALIBRATION)
        network = calibrate(checkpoint.model, calibration)
        mapped = map_model(
            network,
            chip,
            _names(partition),
            calibration=calibration,
            weight_bits=bits,
            scales=chosen,
            per_channel=per_channel,
            provenance={
                "data": source.name,
                "class_names": list(checkpoint.class_names),
                "training": dict(checkpoint.provenance),
            },
        )
        images, labels = source.test.tensors(samples)
        float_logits = _float_logits(network, images, stage("float model"))
        run = simulate(mapped, images, batch_size=BATCH, on_progress=stage("chip simulation"))
        verified, unverified = None, "not asked for"
        if verify == "lava":
            stage("checking against Lava")
            verified, unverified = _verify(mapped, images[:verify_samples])
        cost = estimate(mapped, run, processor)
    summary = summarize(
        mapped,
        cost,
        model=model.stem,
        accuracy_float=_accuracy(float_logits, labels),
        accuracy_mapped=_accuracy(run.logits, labels),
        verified=verified,
        unverified=unverified,
    )
    report = json.dumps(to_dict(summary), indent=2)
    artefact = save(mapped, out / f"{model.stem}.h8")
    report_file = out / f"{model.stem}.report.json"
    write_whole(report_file, lambda file: file.write(f"{report}\n".encode()))
    if as_json:
        click.echo(report)
    else:
        render(Console(highlight=False), summary, full=full)
        click.echo(f"\n{artefact}\n{report_file}")
    if verified is not None and not verified.equal:
        raise BackendError(f"Lava and the simulation differ: {verified.divergence}")


def _scales(
    checkpoint: Checkpoint,
    chip: str,
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
) -> tuple[int, Method | Scales]:
    """Bits and scales: as told, else as the model was fine-tuned for this chip, else the usual."""
    tuned = quantization_of(checkpoint.provenance)
    told = weight_bits is not None or scales is not None or per_channel
    if tuned is not None and tuned.target == chip and not told:
        return tuned.weight_bits, tuned.scales
    method: Method = "search" if per_channel else "round"
    return DEFAULT_BITS if weight_bits is None else weight_bits, scales or method


def _names(partition: str) -> str | list[str]:
    names = [name.strip() for name in partition.split(",") if name.strip()]
    return partition if partition in ("all", "none") else names


def _float_logits(model: nn.Module, images: Tensor, done: Count) -> Tensor:
    logits = []
    with torch.inference_mode():
        for batch in images.split(BATCH):
            logits.append(model(batch))
            done(sum(map(len, logits)), len(images))
    return torch.cat(logits)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def _verify(mapped: Mapped, images: Tensor) -> tuple[Comparison | None, str]:
    """The comparison with Lava, or why there is none."""
    if not mapped.chips:
        return None, "nothing runs on the chip"
    reason = Lava().unavailable()
    if reason is not None:
        return None, reason
    try:
        return compare(mapped, images, "fast", "lava"), ""
    except BackendError as error:  # the simulation's results are worth keeping
        return None, str(error)
