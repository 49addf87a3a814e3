"""The job of ``has8-map``: map a trained model, run it as the chip would, price it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import to_builtins
from torch import Tensor

from has8.cli.inputs import check_classes, partition_names
from has8.cli.jobs.asked import limits_of, scales_for
from has8.cli.jobs.learning import LEARNED, learner_of
from has8.cli.jobs.networks import (
    READ,
    Coding,
    fitting,
    open_network,
    prepared_for,
    with_loop,
)
from has8.cli.jobs.prepared import data_for, in_steps
from has8.cli.options import BATCH, CALIBRATION
from has8.cli.outputs import DIGEST, Outputs, check_report, write_report
from has8.cli.preparation import PLAIN, PREPARATION
from has8.cli.progress import stages
from has8.cli.stdout import show
from has8.errors import BackendError, BadInput
from has8.files import write_whole
from has8.steps import Readout
from has8.text import printable
from hwsim import compare, estimate, measure_host, simulate
from hwsim.backends.lava.backend import Lava
from hwsim.experiments.divergence import Comparison
from hwsim.experiments.fidelity import answers_of, float_answers
from hwsim.exploration import Limits, choose
from hwsim.names import (
    APART,
    DEFAULT_RUN_MODE,
    DEFAULT_TIMING,
    Objective,
    RunMode,
    Timing,
)
from hwsim.price.learning import check_learns, learning_price
from hwsim.program import sample_axis
from hwsim.report import html_report, render, summarize, to_dict
from mapping import Mapped, load_target, map_model, save
from mapping.graph.resets import changed_resets
from mapping.hosts.schema import load_host
from mapping.integers.methods import Method
from mapping.partition.segments import Side
from mapping.pipeline import Allocation, Placing, Reset


def run_map(
    *,
    model: str,
    target: str,
    board: str | None,
    host: str,
    measure: bool,
    run_mode: RunMode,
    timing: Timing,
    partition: str,
    pins: Sequence[tuple[str, Side]],
    objective: Objective,
    data: str | None,
    data_root: Path | None,
    samples: int,
    verify: str,
    verify_samples: int,
    reset: Reset,
    allocation: Allocation,
    placement: Placing,
    placement_seed: int,
    learn: str | None,
    weight_bits: int | None,
    scales: Method | None,
    per_channel: bool,
    weights: Path | None,
    args: str | None,
    readout: Readout | None,
    coding: Coding,
    seed: int,
    output: int,
    out: Path | None,
    report: Path | None,
    overwrite: bool,
    full: bool,
    as_json: bool,
    quiet: bool,
    **preparation: Any,
) -> None:
    """Do what the options of :func:`has8.cli.map.map_command` ask for."""
    limits = limits_of(preparation)
    auto = partition == "auto"
    _check_choice(auto, limits, objective, measure=measure, run_mode=run_mode, timing=timing)
    if auto and coding == "graded":
        raise BadInput(
            "--partition auto chooses for spikes that cross one by one: leave out --coding graded, "
            "and map the partition that is chosen with it"
        )
    chip, processor = load_target(target), load_host(host)
    chip = chip if board is None else chip.on_board(board)
    network = open_network(model, weights, args, preparation["steps"])
    learner = None if learn is None else learner_of(network, chip)
    how = prepared_for(network, preparation)
    graded = coding == "graded" and readout is None
    network = with_loop(network, how, data, readout, "static" if graded else coding, seed)
    others = Path(target), Path(host)
    outputs = Outputs(network.file, out, others, network.weights, network.told, network.called)
    outputs.check(verify=verify != "none", overwrite=overwrite)
    check_report(report, network.file, *others, *network.weights, outputs.artefact)
    how, source = data_for(network, how, data, data_root, readout)
    if learner is not None and not source.class_names:
        raise BadInput(f"--learn learns from labels, and {source.name} has none: give them as y")
    bits, chosen = scales_for(network.checkpoint, chip.name, weight_bits, scales, per_channel)
    with stages(quiet) as stage, fitting(network, source):
        done = stage("mapping")
        how, source = in_steps(network, how, source)
        calibration, _ = source.train.tensors(CALIBRATION)
        mapped = map_model(
            network.model,
            chip,
            "all" if auto else partition_names(partition),
            pins=dict(pins),
            calibration=calibration,
            weight_bits=bits,
            scales=chosen,
            per_channel=per_channel,
            inputs=how.inputs or "values",
            output=output,
            reset=reset,
            allocation=allocation,
            placement=placement,
            placement_seed=placement_seed,
            coding="graded" if graded else "binary",
            on_progress=done,
            provenance={
                DIGEST: outputs.digest,
                "data": source.name,
                "class_names": list(source.class_names),
                "training": dict(network.training),
                **{key: network.facts[key] for key in ("model", READ) if key in network.facts},
                **({} if how == PLAIN else {PREPARATION: to_builtins(how)}),
                **({} if board is None else {"board": board}),
            },
        )
        check_classes(mapped.graph, source)
        images, labels = source.tests(samples)
        run = None
        if auto:
            choice, run = choose(
                mapped,
                images,
                labels,
                host=processor,
                objective=objective,
                limits=limits,
                pins=dict(pins),
                batch_size=BATCH,
                on_stage=stage,
            )
            mapped = choice.mapped
        if learner is not None:
            check_learns(mapped)
        done = stage("float model")
        answers = float_answers(mapped, images, batch_size=BATCH, on_progress=done)
        trained = None
        if changed_resets(mapped.graph):
            trained = float_answers(mapped, images, batch_size=BATCH, trained=True)
        run = run or simulate(
            mapped, images, batch_size=BATCH, apart=APART, on_progress=stage("chip simulation")
        )
        if measure:
            stage("measuring the host")
            processor = measure_host(mapped, images, processor)
        cost = estimate(mapped, run, processor, run_mode, timing)
        save(mapped, outputs.artefact)  # what is done is kept, whatever comes
        learning = None
        if learner is not None:
            stage("learning")
            activity = learner.learn(*source.train.tensors(LEARNED))
            learning = learning_price(mapped, cost, processor, activity)
        verified, unverified = None, "not asked for"
        if verify == "lava":
            stage("checking against Lava")
            verified, unverified = _verify(mapped, images, verify_samples)
    summary = summarize(
        mapped,
        cost,
        model=network.name,
        accuracy_float=_share(answers, labels),
        accuracy_mapped=_share(answers_of(mapped.graph, run.logits), labels),
        verified=verified,
        unverified=unverified,
        accuracy_trained=None if trained is None else _share(trained, labels),
        reset_share=None if trained is None else _share(trained, answers),
        learning=learning,
    )
    numbers = {**to_dict(summary), DIGEST: outputs.digest}
    text = json.dumps(numbers, indent=2)
    write_whole(outputs.report, lambda file: file.write(f"{text}\n".encode()))
    if report is not None:
        write_report(report, lambda: html_report(summary), numbers)
    if as_json:
        click.echo(text)
    else:
        show(lambda console: render(console, summary, full=full))
        click.echo(f"\n{printable(str(outputs.artefact))}\n{printable(str(outputs.report))}")
        if report is not None:
            click.echo(printable(str(report)))
    if verified is not None and not verified.equal:
        raise BackendError(f"Lava and the simulation differ: {verified.divergence}")


def _check_choice(
    auto: bool,
    limits: Limits,
    objective: Objective,
    *,
    measure: bool,
    run_mode: RunMode,
    timing: Timing,
) -> None:
    """Refuse what goes with ``--partition auto`` only, and what does not go with it."""
    if not auto and (limits != Limits() or objective != "energy"):
        raise BadInput("an objective and limits choose a partition: add --partition auto")
    if auto and (measure or run_mode != DEFAULT_RUN_MODE or timing != DEFAULT_TIMING):
        raise BadInput(
            f"--partition auto chooses by the host's profile, run mode {DEFAULT_RUN_MODE!r} and "
            f"timing {DEFAULT_TIMING!r}: leave others out, and price NAME.h8 by them with has8 "
            f"compare"
        )


def _share(answers: Tensor, right: Tensor | None) -> float | None:
    """Of answers that are right, 0 to 1; None where it is not known what is right."""
    return None if right is None else float((answers == right).double().mean())


def _verify(mapped: Mapped, images: Tensor, samples: int) -> tuple[Comparison | None, str]:
    """The comparison with Lava, or why there is none."""
    if not mapped.chip_segments:
        return None, "nothing runs on the chip"
    reason = Lava().unavailable()
    if reason is not None:
        return None, reason
    try:
        axis = sample_axis(mapped)
        few = images.narrow(axis, 0, min(samples, images.shape[axis]))
        return compare(mapped, few, "fast", "lava"), ""
    except BackendError as error:  # the simulation's results are worth keeping
        return None, str(error)
